"""What a network sees as time: decided by one small `Conditioning`, nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.schedules import DiscreteSchedule, Schedule


def _nearest(schedule: Schedule, level: NoiseLevel) -> Tensor:
    table = schedule.at(torch.arange(len(schedule))) if isinstance(schedule, DiscreteSchedule) else None
    if table is None:
        raise UsageError(f"{type(schedule).__name__} has no table", 'conditioning "nearest" needs a DiscreteSchedule')
    ratio = (level.sigma.double() / level.alpha.double()).cpu()
    return (ratio[..., None] - table.sigma / table.alpha).abs().argmin(-1).double()


def _vp(schedule: Schedule, level: NoiseLevel) -> Tensor:
    """The SDE's time in float32, as EDM's program computes it: at low noise its rounding is larger than itself."""
    beta_d, beta_min = getattr(schedule, "beta_d", None), getattr(schedule, "beta_min", None)
    if beta_d is None or beta_min is None:
        raise UsageError(f"{type(schedule).__name__} has no betas", 'conditioning "vp" needs a VPSchedule')
    sigma = (level.sigma.double() / level.alpha.double()).float()
    root = (beta_min**2 + 2 * beta_d * (1 + sigma**2).log()).sqrt()
    time: Tensor = ((root - beta_min) / beta_d).double()
    return time


TIMES: dict[str, Callable[[Schedule, NoiseLevel], Tensor]] = {
    "timestep": lambda schedule, level: schedule.time_of(level),
    "nearest": _nearest,
    "vp": _vp,
    "sigma": lambda schedule, level: level.sigma.double() / level.alpha.double(),
    "log-sigma": lambda schedule, level: -level.log_snr / 2,
}
"""Kinds of `Conditioning`."""


@dataclass(frozen=True)
class Conditioning:
    """What the network sees as time: (t + offset) * scale, with t of the schedule or ln(sigma / alpha).

    Args:
        kind: "timestep" (t of the model's schedule, fractional between its levels), "nearest" (of the table's level
            with the nearest sigma / alpha: iDDPM in EDM's program), "vp" (the SDE's time as EDM's program rounds
            it), "sigma" (sigma / alpha) or "log-sigma" (its logarithm).
        scale: 1/1000 for DDAE, 1/4 for EDM, -1 with offset -1 for flows that count from the noise.
        offset: added before scaling; 1 for programs that count from 1.
        rounded: for families that take integers only.
    """

    kind: str = "timestep"
    scale: float = 1.0
    offset: float = 0.0
    rounded: bool = False

    def __call__(self, schedule: Schedule, level: NoiseLevel) -> Tensor:
        """The network's time, float64, in the level's shape."""
        time = TIMES[self.kind](schedule, level)
        if self.rounded:
            time = time.round()
        return (time + self.offset) * self.scale
