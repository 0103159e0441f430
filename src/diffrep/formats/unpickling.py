"""A pickle machine that only ever builds plain data: no import, no call of anything that a file names.

A pickle is a program for a small stack machine. This one knows every opcode of protocols 0 to 5 and gives them
harmless meanings: a name becomes a `Name`, a call goes to one function of the reader, which knows a short table of
rebuilders. Sizes are checked against the bytes that are there before anything is allocated, opcodes are counted,
and keys of dictionaries are plain, so that no file can exhaust stack, time or memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from diffrep.errors import FormatError
from diffrep.formats.inert import Building, Inert, Name, Settable, plain_key
from diffrep.formats.opcodes import OPCODES, STOP

MAX_OPCODES, BYTES_PER_OPCODE = 150_000, 4096
"""Opcodes that any file may have (a tensor needs about 30), and the bytes of the file that pay for one more."""
MAX_LINE, MAX_CHARACTERS = 10_000, 20_000_000


Call = Callable[[str, tuple[Any, ...]], Any]


class Machine:
    """Run one pickle.

    Args:
        buffer: the file's bytes.
        call: (name, arguments) -> value, for every object that the pickle builds.
        persistent: persistent id -> value (torch's storages).
        file_size: bytes of the whole file.
    """

    def __init__(
        self, buffer: memoryview, call: Call, persistent: Callable[[Any], Any], file_size: int | None = None
    ) -> None:
        self.buffer, self.call, self.persistent = buffer, call, persistent
        self.allowed = MAX_OPCODES + (file_size or len(buffer)) // BYTES_PER_OPCODE
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
                if self.steps > self.allowed:
                    raise FormatError(f"the pickle has more than {self.allowed} opcodes", "no checkpoint needs so many")
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
