"""What diffrep raises when something is wrong that a user can mend.

A message says what was given and what was expected; the hint names the nearest valid name or the fix.
`exit_code` is what the command line returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class DiffrepError(Exception):
    """Base of every error that diffrep raises on purpose.

    Args:
        message: what was wrong, with the value, and what was expected.
        hint: the nearest valid name or the fix; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(DiffrepError):
    """A wrong argument, option or name."""

    exit_code: ClassVar[int] = 2


class InputError(DiffrepError):
    """Data that cannot be used: missing, empty or of the wrong shape."""

    exit_code: ClassVar[int] = 2


class FormatError(DiffrepError):
    """A file that is broken, or not what it says it is."""

    exit_code: ClassVar[int] = 2


class TooManyBadRecords(DiffrepError):
    """More unreadable records than `max_bad_fraction` allows."""

    exit_code: ClassVar[int] = 3


class StoppedResumable(DiffrepError):
    """The work was asked to stop, saved its state and can be resumed."""

    exit_code: ClassVar[int] = 75


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, or list the known ones.

    Example:
        >>> nearest("dec.44", ["dec.4", "mid"])
        'did you mean "dec.4"? known: dec.4, mid'
    """
    names = [str(k) for k in known]
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    return (f'did you mean "{close[0]}"? ' if close else "") + f"known: {listed or 'none'}"
