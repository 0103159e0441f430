"""A pickle machine that only ever builds plain data: no import, no call of anything that a file names.

A pickle is a program for a small stack machine. This one knows every opcode of protocols 0 to 5 and gives them
harmless meanings: a name becomes a `Name`, a call goes to one function of the reader, which knows a short table of
rebuilders. Sizes are checked against the bytes that are there before anything is allocated, opcodes are counted,
and keys of dictionaries are plain, so that no file can exhaust stack, time or memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from diffrep.errors import FormatError

MAX_OPCODES = 500_000
"""More than any known checkpoint has (about 30 per tensor), few enough for a fraction of a second."""
MAX_DIGITS, MAX_LINE, MAX_CHARACTERS = 1000, 10_000, 20_000_000
PLAIN = (str, bytes, int, float, bool, type(None))


@dataclass(eq=False, frozen=True)
class Name:
    """A module's attribute that a pickle names; never imported."""

    full: str


@dataclass(eq=False)
class Inert:
    """An object of a class that diffrep does not know: what a file says about it, and nothing that could run.

    Args:
        class_name: `module.Class`; the bare class name for objects of NVIDIA's persistence.
        args: what its constructor would have got.
        state: what its `__setstate__` would have got; None where there is nothing.
        items: its entries, for subclasses of dict and list.
    """

    class_name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (whatever the file holds)
        """One entry of the state, where that is a dictionary."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


class Settable(dict[str, Any]):
    """A dictionary that takes an object's attributes as its entries (argparse.Namespace)."""


class Building:
    """A value that is complete only after BUILD: `finish(state)` gives what stands in its place from then on."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish = finish
        self.memo: list[int] = []


Call = Callable[[str, tuple[Any, ...]], Any]


class Machine:
    """Run one pickle.

    Args:
        buffer: the file's bytes.
        call: (name, arguments) -> value, for every object that the pickle builds.
        persistent: persistent id -> value (torch's storages).
    """

    def __init__(self, buffer: memoryview, call: Call, persistent: Callable[[Any], Any]) -> None:
        self.buffer, self.call, self.persistent = buffer, call, persistent
        self.position, self.steps, self.characters = 0, 0, 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, start: int = 0) -> tuple[Any, int]:
        """The pickled value, and where the pickle ends.

        Errors:
            FormatError: truncated, malformed, or more opcodes than any checkpoint has.
        """
        self.position = start
        self.stack, self.marks, self.memo = [], [], {}
        try:
            while (code := self.take(1)[0]) != STOP:
                self.steps += 1
                if self.steps > MAX_OPCODES:
                    raise FormatError(f"the pickle has more than {MAX_OPCODES} opcodes", "no checkpoint needs so many")
                OPCODES[code](self)
            return self.stack.pop(), self.position
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            text = f"{type(error).__name__}: {error}"[:200]
            raise FormatError(
                f"the pickle is malformed at byte {self.position} ({text})", "copy the file again"
            ) from error

    def take(self, size: int) -> memoryview:
        """The next bytes, without a copy."""
        start, end = self.position, self.position + size
        if size < 0 or end > len(self.buffer):
            raise FormatError(
                f"the pickle is truncated: {size} bytes wanted at byte {start} of {len(self.buffer)}",
                "copy the file again",
            )
        self.position = end
        return self.buffer[start:end]

    def sized(self, width: int) -> memoryview:
        """Bytes behind their own count of `width` bytes."""
        return self.take(int.from_bytes(self.take(width), "little"))

    def line(self) -> str:
        """The next text up to a line feed (protocol 0)."""
        length = bytes(self.buffer[self.position : self.position + MAX_LINE]).find(b"\n")
        if length < 0:
            raise FormatError("the pickle is truncated in a line of text", "copy the file again")
        return self.text(self.take(length + 1)[:-1])

    def text(self, raw: memoryview, encoding: str = "utf-8") -> str:
        """Bytes as text, counted: a file may hold only so much of it."""
        self.characters += len(raw)
        if self.characters > MAX_CHARACTERS:
            raise FormatError(f"the pickle has more than {MAX_CHARACTERS} bytes of text", "no checkpoint needs so much")
        return str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict")

    def pop_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def remember(self, index: int) -> None:
        """Put the top of the stack into the memo."""
        value = self.stack[-1]
        self.memo[index] = value
        if isinstance(value, Building):
            value.memo.append(index)

    def make(self, function: Any, args: Any) -> None:  # noqa: ANN401 (what the file says)
        """Every way in which a pickle calls something."""
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise TypeError("only a named class can be called")
        self.stack.append(self.call(function.full, args))

    def build(self, state: Any) -> None:  # noqa: ANN401 (what the file says)
        """Give the top of the stack its attributes."""
        value = self.stack[-1]
        if isinstance(value, Building):
            self.stack[-1] = value.finish(state)
            self.memo.update(dict.fromkeys(value.memo, self.stack[-1]))
        elif isinstance(value, Settable) and isinstance(state, dict):
            value.update((key, entry) for key, entry in state.items() if isinstance(key, str))
        elif isinstance(value, Inert):
            value.state = state
        elif not isinstance(value, dict):  # a state dict's _metadata is of no use
            raise TypeError("only objects have a state")

    def extend(self, items: list[Any]) -> None:
        """APPEND and APPENDS."""
        value = self.stack[-1]
        if not isinstance(value, list | Inert):
            raise TypeError("only lists can be appended to")
        (value.elements if isinstance(value, Inert) else value).extend(items)

    def update(self, items: list[Any]) -> None:
        """SETITEM and SETITEMS."""
        value = self.stack[-1]
        if not isinstance(value, dict | Inert):
            raise TypeError("only dictionaries have items")
        target = value.items if isinstance(value, Inert) else value
        for key, entry in zip(items[::2], items[1::2], strict=True):
            target[plain_key(key)] = entry


def plain_key(key: Any) -> Any:  # noqa: ANN401 (what the file says)
    """A dictionary's key or a set's member, refused where its hash could run deep."""
    flat = isinstance(key, tuple) and all(type(part) in PLAIN for part in key)
    if type(key) in PLAIN or flat or isinstance(key, Name | Inert):
        return key
    raise TypeError(f"a {type(key).__name__} cannot be a key")


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


def _refuse(what: str) -> Callable[[Machine], None]:
    def refuse(machine: Machine) -> None:
        raise FormatError(f"the pickle uses {what}", "no checkpoint needs that")

    return refuse


def _push(read: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    def opcode(m: Machine) -> None:
        value = read(m)  # first: reading may change which list is the stack
        m.stack.append(value)

    return opcode


def _drop(read: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    def opcode(m: Machine) -> None:
        read(m)

    return opcode


def _popped(build: Callable[..., Any], count: int) -> Callable[[Machine], None]:
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
OPCODES: dict[int, Callable[[Machine], None]] = {
    ord(code) if isinstance(code, str) else code: action
    for code, action in {
        "(": _mark,
        "0": _drop(lambda m: m.stack.pop()),
        "1": _drop(Machine.pop_mark),
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
    }.items()
}
"""Opcode -> what it does; Python's pickletools documents each."""
