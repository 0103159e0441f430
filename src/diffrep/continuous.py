"""Schedules of a continuous time: EDM's range of sigma, the straight line of flows, and the two score SDEs.

The SDEs (Song et al. 2021, arXiv 2011.13456) are what networks see that EDM's program wraps as `VPPrecond` and
`VEPrecond` (Karras et al. 2022, table 1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from diffrep import paths
from diffrep.errors import UsageError, nearest
from diffrep.noise import NoiseLevel
from diffrep.randomness import Draw
from diffrep.schedules import SNAP, Schedule, Time, times_in

CHURN = math.log(2)
"""By how much log-SNR falls at most when a stochastic sampler adds noise: sigma grows by sqrt(2) (EDM 1.1.7)."""


class EDMSchedule(Schedule):
    """Karras et al.'s range of sigma with alpha = 1; `at(k)` is the k-th of `steps` table values, ascending.

    Index k = 0..steps-1 is the official index of DDAE's EDM configs minus 1 (DDAE 3.2).

    Args:
        sigma_min: lowest sigma.
        sigma_max: highest sigma.
        rho: curvature of the table.
        steps: length of the table.
        p_mean: mean of ln sigma in training.
        p_std: standard deviation of ln sigma in training.
        bounded: whether the network may be evaluated in the range only; EDM's own take any sigma.
    """

    convention = "ve"

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        steps: int = 18,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        bounded: bool = True,
    ) -> None:
        if not 0 < sigma_min < sigma_max:
            raise UsageError(f"sigma runs from {sigma_min} to {sigma_max}", "expected 0 < sigma_min < sigma_max")
        self.sigma_min, self.sigma_max, self.rho, self.steps = sigma_min, sigma_max, rho, steps
        self.p_mean, self.p_std, self.bounded = p_mean, p_std, bounded

    def __len__(self) -> int:
        return self.steps

    def at(self, t: Time) -> NoiseLevel:
        """The level at table index k = 0..steps-1, sigma ascending; fractional indices follow the same formula."""
        k = times_in(t, 0, self.steps - 1, "k")
        return NoiseLevel.from_sigma(
            paths.karras_sigmas(k / (self.steps - 1), self.sigma_min, self.sigma_max, self.rho)
        )

    def time_of(self, level: NoiseLevel) -> Tensor:
        """The table index of a level, float64, fractional between the table's levels."""
        self.check(level)
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma = (level.sigma.double() / level.alpha.double()).cpu()
        time = (sigma ** (1 / self.rho) - low) / (high - low) * (self.steps - 1)
        whole = time.round()
        return torch.where((time - whole).abs() < SNAP, whole, time).clamp(0, self.steps - 1)

    def sample(self, n: int, draw: Draw | Generator) -> NoiseLevel:
        """Log-normal sigma, clamped to the range (DDAE 1.1.6)."""
        if isinstance(draw, Draw):
            z = draw.normal("level", ()).double()
        else:
            z = torch.randn(n, generator=draw, dtype=torch.float64)
        return NoiseLevel.from_sigma((z * self.p_std + self.p_mean).exp().clamp(self.sigma_min, self.sigma_max))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """-2 ln sigma_max and -2 ln sigma_min."""
        ends = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64)
        low, high = (-2 * ends.log()).tolist()
        return low, high

    @property
    def limits(self) -> tuple[float, float]:
        """The range, with room for churn above it; any level where the schedule is not bounded."""
        low, high = self.log_snr_range
        return (low - CHURN, high) if self.bounded else (-math.inf, math.inf)

    def config(self) -> dict[str, Any]:
        """All arguments."""
        names = ("sigma_min", "sigma_max", "rho", "steps", "p_mean", "p_std")
        free = {} if self.bounded else {"bounded": False}
        return {"kind": "edm", **{name: getattr(self, name) for name in names}, **free}


class FlowSchedule(Schedule):
    """Flow matching's straight line: alpha = 1 - s, sigma = s; s = 0 is the image, s = 1 is noise.

    Programs that count time from the noise end (SiT, LightningDiT) have s = 1 - t; the model's conditioning
    turns it, not the schedule (DDAE 1.3).

    Args:
        times: training distribution of s, "uniform" or "logit-normal".
        margin: training, and paths that are even in noise, keep to s in [margin, 1 - margin].
        shift: the rules "flow" and "flow-match" walk shift s / (1 + (shift - 1) s) in the place of s; more than 1
            stays longer with the noise.
    """

    convention = "flow"

    def __init__(self, times: str = "uniform", margin: float = 1e-3, shift: float = 1.0) -> None:
        if times not in ("uniform", "logit-normal"):
            raise UsageError(f'unknown times "{times}"', nearest(times, ("uniform", "logit-normal")))
        if not shift > 0:
            raise UsageError(f"shift = {shift}", "expected a positive number")
        self.times, self.margin, self.shift = times, margin, float(shift)

    def at(self, t: Time) -> NoiseLevel:
        """The level at s in [0, 1]."""
        s = times_in(t, 0, 1, "s")
        return NoiseLevel(1 - s, s)

    def shifted(self, s: Tensor) -> Tensor:
        """Times moved towards the noise by `shift`; both ends stay."""
        return self.shift * s / (1 + (self.shift - 1) * s)

    def time_of(self, level: NoiseLevel) -> Tensor:
        """S of a level, float64."""
        return torch.sigmoid(-level.log_snr / 2)

    def sample(self, n: int, draw: Draw | Generator) -> NoiseLevel:
        """S uniform or logit-normal, inside the margin."""
        if self.times == "uniform":
            s = draw.uniform("level") if isinstance(draw, Draw) else torch.rand(n, generator=draw, dtype=torch.float64)
        else:
            z = draw.normal("level", ()).double() if isinstance(draw, Draw) else torch.randn(n, generator=draw).double()
            s = torch.sigmoid(z)
        return self.at(s.clamp(self.margin, 1 - self.margin))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """Log-SNR at s = 1 - margin and s = margin."""
        ends = torch.tensor([1 - self.margin, self.margin], dtype=torch.float64)
        low, high = (2 * (torch.log1p(-ends) - ends.log())).tolist()
        return low, high

    @property
    def limits(self) -> tuple[float, float]:
        """Any level: a velocity is finite from the image to pure noise, both included."""
        return -math.inf, math.inf

    def config(self) -> dict[str, Any]:
        """All arguments."""
        shifted = {"shift": self.shift} if self.shift != 1 else {}
        return {"kind": "flow", "times": self.times, "margin": self.margin, **shifted}


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
        total = self._total(times_in(t, self.t_min, 1, "t"))
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

    @property
    def limits(self) -> tuple[float, float]:
        """Down to any noise, and above the range by what churn adds."""
        return self.log_snr_range[0] - CHURN, math.inf

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
        return NoiseLevel.from_sigma(self.sigma_min * (self.sigma_max / self.sigma_min) ** times_in(t, 0, 1, "t"))

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

    @property
    def limits(self) -> tuple[float, float]:
        """The range, with room for churn above it."""
        low, high = self.log_snr_range
        return low - CHURN, high

    def config(self) -> dict[str, Any]:
        """All arguments."""
        return {"kind": "ve-sde", "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


def _uniform(n: int, draw: Draw | Generator) -> Tensor:
    return draw.uniform("level") if isinstance(draw, Draw) else torch.rand(n, generator=draw, dtype=torch.float64)
