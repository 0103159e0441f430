"""Noise levels as text: `t=1,10,30` in the model's own schedule, `log_snr=6,2` or `sigma=0.1` in any."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from diffrep.errors import UsageError, nearest

if TYPE_CHECKING:
    from diffrep.noise import NoiseLevel
    from diffrep.schedules import Schedule

FORM = "expected for example t=1,10,30 or log_snr=6,2 or sigma=0.1"


def parse(text: str, schedule: Schedule) -> list[NoiseLevel]:
    """Read levels and check that the schedule has them.

    Args:
        text: kind=number,number,...: `t` is the schedule's time, `sigma` the noise of alpha = 1.
        schedule: the model's.

    Errors:
        UsageError: an unknown kind, no number, or a level outside the schedule.

    Example:
        >>> from diffrep.schedules import DiscreteSchedule
        >>> len(parse("t=1,10,30", DiscreteSchedule.linear()))
        3
    """
    from diffrep.noise import NoiseLevel

    kinds: dict[str, Callable[[float], NoiseLevel]] = {
        "t": lambda value: schedule.at(int(value) if value.is_integer() else value),
        "log_snr": NoiseLevel.from_log_snr,
        "sigma": NoiseLevel.from_sigma,
    }
    kind, equals, numbers = text.partition("=")
    kind = kind.strip().replace("-", "_")
    if not equals:
        raise UsageError(f'levels "{text}"', FORM)
    if kind not in kinds:
        raise UsageError(f'unknown kind of level "{kind}"', f"{nearest(kind, kinds)}; {FORM}")
    levels = [kinds[kind](_number(word, text)) for word in numbers.split(",")]
    for level in levels:
        schedule.check(level)
    return levels


def _number(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError as error:
        raise UsageError(f'"{word}" in levels "{text}" is no number', FORM) from error
    if not math.isfinite(value):
        raise UsageError(f'"{word}" in levels "{text}" is no finite number', FORM)
    return value
