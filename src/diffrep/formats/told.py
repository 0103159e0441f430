"""Facts that a checkpoint tells itself, held against what a config or the caller says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from diffrep.errors import FormatError
from diffrep.formats.content import Content

MOST = 65536
"""The largest size or number of steps that is believed."""


def check_told(content: Content, told: Mapping[str, Any]) -> None:
    """Refuse a config of another model.

    Args:
        content: whose facts are asked.
        told: official name of a fact -> what the file's tensors say; None and "" in a config say nothing.

    Errors:
        FormatError: naming each fact that the tensors contradict.
    """
    wrong = [
        f"{name.rpartition('.')[2]} is {given}, in the file {value}"
        for name, value in told.items()
        if (given := content.fact(name, None)) not in (None, "") and not _same(given, value)
    ]
    if wrong:
        raise FormatError(
            f"{content.origin} does not belong to {content.path} ({'; '.join(wrong)})", "is it another model's?"
        )


def whole(content: Content, name: str) -> int:
    """A fact that is a whole number from 1 to 65536: a size in pixels, a number of steps.

    Errors:
        FormatError: it is anything else.
    """
    value = content.fact(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise FormatError(f"{name} is {value!r:.80}", f"expected a whole number from 1 to {MOST}")
    return value


def truth(content: Content, name: str, default: bool = False) -> bool:
    """A fact that is true or false.

    Errors:
        FormatError: it is anything else; "False" in quotes would be true.
    """
    value = content.fact(name, default)
    if value not in (True, False):
        raise FormatError(f"{name} is {value!r:.80}", "expected true or false")
    return bool(value)


class Levels:
    """At which of a U-Net's levels attention stands: equal to a config's list of them, however it counts them.

    Args:
        attends: for each level, from the full resolution down, whether it has attention.
        size: of the images, where the config counts in sizes; None where it counts in factors of down-sampling.

    Example:
        >>> Levels([False, True], 8) == [4], Levels([False, True], None) == [2]
        (True, True)
    """

    def __init__(self, attends: Collection[bool], size: int | None) -> None:
        levels = [2**k if size is None else size // 2**k for k in range(len(attends))]
        self.known = set(levels)
        self.found = {level for level, attended in zip(levels, attends, strict=True) if attended}

    def __eq__(self, given: object) -> bool:
        return isinstance(given, list | tuple | set) and set(given) & self.known == self.found

    def __hash__(self) -> int:
        return hash(frozenset(self.found))

    def __repr__(self) -> str:
        return str(sorted(self.found))


def _same(given: Any, value: Any) -> bool:  # noqa: ANN401 (what a config says)
    """Whether a config's value is the file's; "1,2,4" is a list on a program's command line."""
    if isinstance(given, str) and isinstance(value, list | Levels):
        try:
            given = [float(part) for part in given.split(",")]
        except ValueError:
            return False
    return list(given) == value if isinstance(given, tuple) else bool(given == value)
