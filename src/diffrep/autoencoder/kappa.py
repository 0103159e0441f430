"""Scales of the shift: eps' = eps - kappa * sigma * G.

kappa = 1 is the score form: G is then the gradient of log p(code | x_t). The posterior form moves the mean of the
reverse step by its variance times G, which is kappa_t = sqrt(alpha_t) (1 - abar_{t-1}) / (1 - abar_t), a property of a
discrete schedule. The official PDAE program trains with the second and samples with the first (PDAE 1.4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffrep.errors import UsageError, nearest
from diffrep.noise import NoiseLevel
from diffrep.schedules import DiscreteSchedule, Schedule

SCALES = ("posterior", "score")


def kappa(schedule: Schedule, level: NoiseLevel) -> Tensor:
    """The posterior scale at a level: 0 at t = 0, above 0.98 from t = 100 on of the linear schedule.

    Args:
        schedule: a discrete schedule.
        level: shape () or (B,), inside the schedule's range, in any convention.

    Returns:
        float64 on the CPU, the level's shape; exact at the schedule's own levels, between them linear in log-SNR.

    Errors:
        UsageError: the schedule is continuous and has no step from t to t-1, or the level is outside its range.
    """
    table = _table(schedule)
    time = schedule.time_of(level)
    low = time.floor().long().clamp(max=len(table) - 2)
    return torch.lerp(table[low], table[low + 1], time - low)


def scale_of(name: str, schedule: Schedule, level: NoiseLevel) -> Tensor:
    """The kappa of a named scale, "posterior" or "score", at a level; float64, the level's shape."""
    if name not in SCALES:
        raise UsageError(f'unknown scale of the shift "{name}"', nearest(name, SCALES))
    return kappa(schedule, level) if name == "posterior" else torch.ones(level.shape, dtype=torch.float64)


def check_scale(name: str, schedule: Schedule) -> None:
    """Refuse a scale that the schedule does not have, before any work is done.

    Errors:
        UsageError: unknown name, or "posterior" for a continuous schedule.
    """
    if name not in SCALES:
        raise UsageError(f'unknown training_scale "{name}"', nearest(name, SCALES))
    if name == "posterior":
        _table(schedule)


def _table(schedule: Schedule) -> Tensor:
    if not isinstance(schedule, DiscreteSchedule):
        raise UsageError(
            f'training_scale "posterior" needs a discrete schedule, not {type(schedule).__name__}',
            'take training_scale="score"',
        )
    now = schedule.alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=now.dtype), now[:-1]])
    return (now / before).sqrt() * (1 - before) / (1 - now)
