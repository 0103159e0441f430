"""Facts that a checkpoint tells itself, held against what a config or the caller says of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from diffrep.errors import FormatError
from diffrep.formats.content import Content

MOST = 65536
"""The largest size or number of steps that is believed."""
SLACK = 1e-6
"""A ratio of two widths times one of them can fall short of the other."""


def check_told(content: Content, told: Mapping[str, Any]) -> None:
    """Refuse a config of another model.

    Args:
        content: whose facts are asked.
        told: official name of a fact -> what the file's tensors say; None and "" in a config say nothing.

    Errors:
        FormatError: naming each fact that the tensors contradict.
    """
    wrong = [
        f"{name.rpartition('.')[2]} is {given!r:.80}, in the file {value}"
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


def positive(content: Content, name: str, default: float | None = None) -> float:
    """A fact that is a finite number above 0.

    Errors:
        FormatError: it is anything else.
    """
    value = content.fact(name) if default is None else content.fact(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise FormatError(f"{name} is {value!r:.80}", "expected a number above 0")
    return float(value)


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
        divided: the program turns sizes into factors (guided-diffusion), so that also 8 of 28 pixels is a level.

    Example:
        >>> Levels([False, True], 8) == [4], Levels([False, True], None) == [2], Levels([False, True], 9, True) == [4]
        (True, True, True)
    """

    def __init__(self, attends: Collection[bool], size: int | None, divided: bool = False) -> None:
        levels = [2**k if size is None or divided else size // 2**k for k in range(len(attends))]
        self.known, self.size = set(levels), size if divided else None
        self.found = {level for level, attended in zip(levels, attends, strict=True) if attended}

    def __eq__(self, given: object) -> bool:
        listed = [given] if isinstance(given, int | float) else given
        if not isinstance(listed, list | tuple | set):
            return False
        if self.size is not None:
            listed = [self.size // int(level) for level in listed if level]
        return set(listed) & self.known == self.found

    def __hash__(self) -> int:
        return hash(frozenset(self.found))

    def __repr__(self) -> str:
        return str(sorted(self.found) if self.size is None else sorted(self.size // level for level in self.found))


class Multipliers:
    """Widths of a U-Net's levels as multiples of a base: equal to a config's, which the programs cut to whole widths.

    Example:
        >>> Multipliers([1, 127 / 96], 96) == [1, 1.33]
        True
    """

    def __init__(self, multipliers: Collection[float], base: int) -> None:
        self.multipliers, self.base = list(multipliers), base

    def __eq__(self, given: object) -> bool:
        return isinstance(given, list | tuple) and self._widths(given) == self._widths(self.multipliers)

    def __hash__(self) -> int:
        return hash(tuple(self.multipliers))

    def __repr__(self) -> str:
        return str(self.multipliers)

    def _widths(self, multipliers: Collection[float]) -> list[int]:
        return [int(self.base * m + SLACK) for m in multipliers]


def _same(given: Any, value: Any) -> bool:  # noqa: ANN401 (what a config says)
    """Whether a config's value is the file's; "1,2,4" is a list on a program's command line."""
    if isinstance(given, str) and isinstance(value, list | Levels | Multipliers):
        try:
            given = [float(part) for part in given.split(",")]
        except ValueError:
            return False
    return list(given) == value if isinstance(given, tuple) else bool(given == value)
