"""Schedules of the score SDEs (Song et al. 2021, arXiv 2011.13456): levels at a continuous time in [0, 1].

They are what networks see that EDM's program wraps as `VPPrecond` and `VEPrecond` (Karras et al. 2022, table 1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.randomness import Draw
from diffrep.schedules import SNAP, Schedule, Time


class VPSchedule(Schedule):
    """The variance-preserving SDE: alpha-bar(t) = exp(-(beta_d t^2 / 2 + beta_min t)), t in [t_min, 1].

    Args:
        beta_d: by how much beta grows from t = 0 to 1.
        beta_min: beta at t = 0.
        t_min: the lowest time of training and sampling.

    Errors:
        UsageError: no growing beta, or t_min outside (0, 1).

    Example:
        >>> round(float(VPSchedule().at(1.0).log_snr), 2)
        -10.05
    """

    convention = "vp"

    def __init__(self, beta_d: float = 19.9, beta_min: float = 0.1, t_min: float = 1e-5) -> None:
        if beta_d <= 0 or beta_min < 0 or not 0 < t_min < 1:
            raise UsageError(
                f"beta_d = {beta_d}, beta_min = {beta_min}, t_min = {t_min}",
                "expected beta_d > 0, beta_min >= 0, 0 < t_min < 1",
            )
        self.beta_d, self.beta_min, self.t_min = float(beta_d), float(beta_min), float(t_min)

    def at(self, t: Time) -> NoiseLevel:
        """The level at t in [t_min, 1]."""
        total = self._total(_time(t, self.t_min))
        return NoiseLevel((-total / 2).exp(), (-torch.expm1(-total)).sqrt())

    def time_of(self, level: NoiseLevel) -> Tensor:
        """T of a level, float64."""
        self.check(level)
        total = F.softplus(-level.log_snr.cpu(), threshold=1e9)  # -ln alpha-bar
        root = (self.beta_min**2 + 2 * self.beta_d * total).sqrt()
        return 2 * total / (root + self.beta_min)

    def sample(self, n: int, draw: Draw | Generator) -> NoiseLevel:
        """Levels at times uniform on [t_min, 1]."""
        return self.at(1 + _uniform(n, draw) * (self.t_min - 1))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """Log-SNR at t = 1 and at t = t_min."""
        low, high = (-torch.expm1(self._total(torch.tensor([1.0, self.t_min], dtype=torch.float64))).log()).tolist()
        return low, high

    def config(self) -> dict[str, Any]:
        """All arguments."""
        return {"kind": "vp-sde", "beta_d": self.beta_d, "beta_min": self.beta_min, "t_min": self.t_min}

    def _total(self, t: Tensor) -> Tensor:
        return self.beta_d * t**2 / 2 + self.beta_min * t


class VESchedule(Schedule):
    """The variance-exploding SDE: sigma(t) = sigma_min (sigma_max / sigma_min)^t with alpha = 1, t in [0, 1].

    Args:
        sigma_min: lowest sigma.
        sigma_max: highest sigma.

    Errors:
        UsageError: not 0 < sigma_min < sigma_max.

    Example:
        >>> round(float(VESchedule().at(0.5).sigma), 4)
        1.4142
    """

    convention = "ve"

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise UsageError(f"sigma runs from {sigma_min} to {sigma_max}", "expected 0 < sigma_min < sigma_max")
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    def at(self, t: Time) -> NoiseLevel:
        """The level at t in [0, 1]."""
        return NoiseLevel.from_sigma(self.sigma_min * (self.sigma_max / self.sigma_min) ** _time(t, 0))

    def time_of(self, level: NoiseLevel) -> Tensor:
        """T of a level, float64."""
        self.check(level)
        log_sigma = -level.log_snr.cpu() / 2
        return (log_sigma - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)

    def sample(self, n: int, draw: Draw | Generator) -> NoiseLevel:
        """Levels at times uniform on [0, 1]: sigma is log-uniform."""
        return self.at(_uniform(n, draw))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """-2 ln sigma_max and -2 ln sigma_min."""
        return -2 * math.log(self.sigma_max), -2 * math.log(self.sigma_min)

    def config(self) -> dict[str, Any]:
        """All arguments."""
        return {"kind": "ve-sde", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


def _uniform(n: int, draw: Draw | Generator) -> Tensor:
    return draw.uniform("level") if isinstance(draw, Draw) else torch.rand(n, generator=draw, dtype=torch.float64)


def _time(t: Time, low: float) -> Tensor:
    time = torch.as_tensor(t, dtype=torch.float64).cpu()
    if time.ndim > 1 or not bool(((time >= low - SNAP) & (time <= 1 + SNAP)).all()):
        raise UsageError(f"t = {time.tolist()} is outside the schedule", f"expected {low} <= t <= 1")
    return time.clamp(low, 1)
