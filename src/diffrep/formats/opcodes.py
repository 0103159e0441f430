"""The opcodes of pickle protocols 0 to 5, each with a meaning that builds data and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diffrep.errors import FormatError
from diffrep.formats.inert import Name, plain_key

if TYPE_CHECKING:
    from diffrep.formats.unpickling import Machine

Opcode = Callable[["Machine"], None]
MAX_DIGITS = 1000


def _number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(text.rstrip("L"))


def _long(raw: memoryview) -> int:
    if len(raw) > MAX_DIGITS:
        raise ValueError("a number of too many bytes")
    return int.from_bytes(raw, "little", signed=True)


def _name(module: Any, name: Any) -> Name:  # noqa: ANN401 (what the file says)
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a name must be text")
    return Name(f"{module}.{name}"[:500])


def _refuse(what: str) -> Opcode:
    def refuse(machine: Machine) -> None:
        raise FormatError(f"the pickle uses {what}", "no checkpoint needs that")

    return refuse


def _push(read: Callable[[Machine], Any]) -> Opcode:
    def opcode(m: Machine) -> None:
        value = read(m)  # first: reading may change which list is the stack
        m.stack.append(value)

    return opcode


def _drop(read: Callable[[Machine], Any]) -> Opcode:
    def opcode(m: Machine) -> None:
        read(m)

    return opcode


def _popped(build: Callable[..., Any], count: int) -> Opcode:
    """Replace the top `count` values by one."""

    def opcode(m: Machine) -> None:
        values = [m.stack.pop() for _ in range(count)][::-1]
        m.stack.append(build(*values))

    return opcode


def _mark(m: Machine) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _persistent(m: Machine) -> None:
    m.stack.append(m.persistent(m.stack.pop()))


def _reduce(m: Machine) -> None:
    args = m.stack.pop()
    m.make(m.stack.pop(), args)


def _new_with_keywords(m: Machine) -> None:
    keywords, args = m.stack.pop(), m.stack.pop()
    m.make(m.stack.pop(), (*args, *keywords.values()))


def _obj(m: Machine) -> None:
    items = m.pop_mark()
    m.make(items[0], tuple(items[1:]))


def _inst(m: Machine) -> None:
    name = _name(m.line(), m.line())
    m.make(name, tuple(m.pop_mark()))


def _dict(m: Machine) -> None:
    items = m.pop_mark()
    m.stack.append({})
    m.update(items)


def _set_item(m: Machine) -> None:
    entry, key = m.stack.pop(), m.stack.pop()
    m.update([key, entry])


def _add_items(m: Machine) -> None:
    items = m.pop_mark()
    if not isinstance(m.stack[-1], set):
        raise TypeError("only sets have members")
    m.stack[-1].update(plain_key(item) for item in items)


def _uint(m: Machine, width: int) -> int:
    return int.from_bytes(m.take(width), "little")


def _quoted(m: Machine) -> str:
    text = m.line().strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _int(m: Machine) -> int | bool:
    text = m.line()
    return text == "01" if text in ("00", "01") else _number(text)


STOP = ord(".")
_TABLE: dict[str | int, Opcode] = {
    "(": _mark,
    "0": _drop(lambda m: m.stack.pop()),
    "1": _drop(lambda m: m.pop_mark()),
    "2": lambda m: m.stack.append(m.stack[-1]),
    "F": _push(lambda m: float(m.line())),
    "I": _push(_int),
    "J": _push(lambda m: int.from_bytes(m.take(4), "little", signed=True)),
    "K": _push(lambda m: _uint(m, 1)),
    "M": _push(lambda m: _uint(m, 2)),
    "L": _push(lambda m: _number(m.line())),
    "G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    "N": _push(lambda m: None),
    "P": _refuse("persistent ids of protocol 0"),
    "Q": _persistent,
    "R": _reduce,
    "S": _push(_quoted),
    "T": _push(lambda m: m.text(m.sized(4), "latin-1")),
    "U": _push(lambda m: m.text(m.sized(1), "latin-1")),
    "V": _push(lambda m: m.line()),
    "X": _push(lambda m: m.text(m.sized(4))),
    "B": _push(lambda m: m.sized(4)),
    "C": _push(lambda m: m.sized(1)),
    "a": lambda m: m.extend([m.stack.pop()]),
    "b": lambda m: m.build(m.stack.pop()),
    "c": _push(lambda m: _name(m.line(), m.line())),
    "d": _dict,
    "e": lambda m: m.extend(m.pop_mark()),
    "g": _push(lambda m: m.memo[_number(m.line())]),
    "h": _push(lambda m: m.memo[_uint(m, 1)]),
    "j": _push(lambda m: m.memo[_uint(m, 4)]),
    "i": _inst,
    "l": _push(lambda m: m.pop_mark()),
    "o": _obj,
    "p": lambda m: m.remember(_number(m.line())),
    "q": lambda m: m.remember(_uint(m, 1)),
    "r": lambda m: m.remember(_uint(m, 4)),
    "s": _set_item,
    "t": _push(lambda m: tuple(m.pop_mark())),
    "u": lambda m: m.update(m.pop_mark()),
    ")": _push(lambda m: ()),
    "]": _push(lambda m: []),
    "}": _push(lambda m: {}),
    0x80: _drop(lambda m: m.take(1)),
    0x81: _reduce,
    0x82: _refuse("the extension registry"),
    0x83: _refuse("the extension registry"),
    0x84: _refuse("the extension registry"),
    0x85: _popped(lambda a: (a,), 1),
    0x86: _popped(lambda a, b: (a, b), 2),
    0x87: _popped(lambda a, b, c: (a, b, c), 3),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    0x8A: _push(lambda m: _long(m.sized(1))),
    0x8B: _push(lambda m: _long(m.sized(4))),
    0x8C: _push(lambda m: m.text(m.sized(1))),
    0x8D: _push(lambda m: m.text(m.sized(8))),
    0x8E: _push(lambda m: m.sized(8)),
    0x8F: _push(lambda m: set()),
    0x90: _add_items,
    0x91: _push(lambda m: frozenset(plain_key(item) for item in m.pop_mark())),
    0x92: _new_with_keywords,
    0x93: _popped(_name, 2),
    0x94: lambda m: m.remember(len(m.memo)),
    0x95: _drop(lambda m: m.take(8)),
    0x96: _push(lambda m: m.sized(8)),
    0x97: _refuse("out-of-band buffers"),
    0x98: _refuse("out-of-band buffers"),
}
OPCODES = {ord(code) if isinstance(code, str) else code: action for code, action in _TABLE.items()}
"""Opcode -> what it does; Python's pickletools documents each."""
