"""Schedules: which noise levels a model was trained on, and how its own time index names them.

A discrete schedule is a table of alpha-bar counted from t = 0, which is already noisy; `continuous` has the others.
Time never leaves the schedule that it belongs to: `at` turns it into a level, `time_of` turns any level into it,
whatever the level's convention, by equal log-SNR. Tables are float64 and cast where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from diffrep import paths
from diffrep.errors import UsageError, nearest
from diffrep.noise import NoiseLevel
from diffrep.randomness import Draw

SNAP = 1e-3
"""A time this near to an integer is that integer (architecture: levels pass through float32)."""

Time = int | float | Sequence[int] | Sequence[float] | Tensor


class Schedule:
    """What all schedules share: conversion, range and paths. Subclasses give `at`, `time_of` and `sample`."""

    convention: str

    def at(self, t: Time) -> NoiseLevel:
        """The level at time t: shape () for a number, (K,) for several. Errors: UsageError outside the range."""
        raise NotImplementedError

    def time_of(self, level: NoiseLevel) -> Tensor:
        """The time of a level, float64, in the level's shape; the inverse of `at`."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """What `schedule_from_config` needs to make this schedule again."""
        raise NotImplementedError

    def sample(self, n: int, draw: Draw | Generator) -> NoiseLevel:
        """Draw n levels, (n,), from the distribution that a model of this schedule is trained on."""
        raise NotImplementedError

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """Lowest and highest log-SNR of its paths, and of training."""
        raise NotImplementedError

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest log-SNR at which the network may be evaluated: the range, or what its program allows."""
        return self.log_snr_range

    def convert(self, level: NoiseLevel) -> NoiseLevel:
        """The level of equal log-SNR in this schedule's own convention."""
        return NoiseLevel.of(level.log_snr, self.convention)

    def path(self, steps: int, rule: str | None = None, direction: str = "down") -> NoiseLevel:
        """The levels that a sampler walks, (N+1,), in walking order.

        Args:
            steps: number N of network evaluations; at least 1.
            rule: "pdae", "guided-diffusion", "ddae", or diffusers' "leading", "leading-1" (or another offset),
                "trailing", "linspace" (discrete schedules), "flow", "flow-match" (flows), "karras", "edm" or
                "uniform-log-snr" (all); None: "pdae" for a discrete schedule, else "karras".
            direction: "down" for samplers, from noise to image; "up" for `invert`.

        Errors:
            UsageError: unknown rule or direction, or a rule that needs a discrete schedule.
        """
        return paths.make(self, steps, rule, direction)

    def check(self, level: NoiseLevel) -> None:
        """Refuse a level at which this schedule's network was never trained.

        Errors:
            UsageError: naming the log-SNR given and the range.
        """
        low, high = self.limits
        log_snr = level.log_snr
        if not bool(((log_snr >= low - 1e-3) & (log_snr <= high + 1e-3)).all()):  # also what is not a number
            given = ", ".join(f"{v:.4g}" for v in log_snr.reshape(-1)[:4].tolist())
            raise UsageError(
                f"log-SNR {given} is outside the schedule's range [{low:.4g}, {high:.4g}]",
                "take a level inside it, or a path, which is clipped to it",
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.config() == other.config()

    def __hash__(self) -> int:
        return hash(str(self.config()))

    def __repr__(self) -> str:
        settings = {k: v if not isinstance(v, list) else f"<{len(v)}>" for k, v in self.config().items()}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"


class DiscreteSchedule(Schedule):
    """A table of alpha-bar at t = 0..T-1: sqrt(alpha-bar) of the image, sqrt(1 - alpha-bar) of noise.

    Args:
        alphas_cumprod: alpha-bar, (T,), falling, inside (0, 1); the last may be 0, pure noise (Lin et al. 2023), if
            the network predicts v. Kept in float64 as given, with its rounding.
        clean: alpha-bar "before" t = 0, where a path that goes past the table ends; 1 is the clean image.
    """

    convention = "vp"

    def __init__(self, alphas_cumprod: Tensor | Sequence[float], clean: float = 1.0) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu().clone()
        if table.ndim != 1 or len(table) < 2 or not bool((table[1:] < table[:-1]).all()):
            raise UsageError(f"alphas_cumprod of shape {tuple(table.shape)} is no falling table of at least 2 numbers")
        if float(table[0]) >= 1 or float(table[-1]) < 0:
            raise UsageError(f"alphas_cumprod runs from {table[0]:.6g} to {table[-1]:.6g}", "expected inside (0, 1)")
        self.alphas_cumprod = table
        self.clean = float(clean)
        self._log_snr = table.log() - torch.log1p(-table)
        self._recipe: dict[str, Any] = {"kind": "discrete", "alphas_cumprod": table.tolist()}

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> DiscreteSchedule:
        """Ho et al.'s schedule: beta evenly spaced, both ends included (PDAE 1.2)."""
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        made = cls(torch.cumprod(1 - betas, 0))
        made._recipe = {"kind": "linear", "steps": steps, "beta_start": beta_start, "beta_end": beta_end}
        return made

    @classmethod
    def cosine(cls, steps: int = 1000) -> DiscreteSchedule:
        """Nichol and Dhariwal's schedule: beta = min(1 - f(t+1)/f(t), 0.999) with f = cos^2 (PDAE 1.2)."""
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
        made = cls(torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=0.999), 0))
        made._recipe = {"kind": "cosine", "steps": steps}
        return made

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def at(self, t: Time) -> NoiseLevel:
        """The level at index t, counted from 0; between two indices it is interpolated in log-SNR.

        Between pure noise and the index before it alpha is a straight line.
        """
        time = times_in(t, 0, len(self) - 1, "t")
        whole = time.round().long()
        exact = (time - whole).abs() < SNAP
        low = time.floor().long().clamp(max=len(self) - 2)
        between = torch.lerp(self._log_snr[low], self._log_snr[low + 1], time - low)
        left = self.alphas_cumprod[low] * (1 - (time - low)) ** 2  # of alpha-bar, on the way to pure noise
        between = torch.where(self._log_snr[low + 1].isinf(), left.log() - torch.log1p(-left), between)
        abar = torch.where(exact, self.alphas_cumprod[whole], torch.sigmoid(between))
        noise = torch.where(exact, 1 - self.alphas_cumprod[whole], torch.sigmoid(-between))
        return NoiseLevel(abar.sqrt(), noise.sqrt())

    def time_of(self, level: NoiseLevel) -> Tensor:
        """The index of a level, float64; whole (snapped within 1e-3) on the table's own levels."""
        self.check(level)
        wanted = level.log_snr.cpu()
        flat = wanted.reshape(-1).contiguous()
        upper = torch.searchsorted(-self._log_snr, -flat).clamp(1, len(self) - 1)
        a, b = self._log_snr[upper - 1], self._log_snr[upper]
        left = 1 - (torch.sigmoid(flat) / self.alphas_cumprod[upper - 1]).sqrt()
        time = (upper - 1) + torch.where(b.isinf(), left, (flat - a) / (b - a))
        whole = time.round()
        near = (time - whole).abs() < SNAP
        return torch.where(near, whole, time).clamp(0, len(self) - 1).reshape(wanted.shape)

    def sample(self, n: int, draw: Draw | Generator) -> NoiseLevel:
        """Levels at indices uniform on 0..T-1 (PDAE 1.5; DDAE 1.1.3)."""
        if isinstance(draw, Draw):
            return self.at(draw.integers("level", len(self)))
        return self.at(torch.randint(len(self), (n,), generator=draw))

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """Log-SNR of the last entry that is not pure noise, and of the first."""
        last = -2 if self._log_snr[-1].isinf() else -1
        return float(self._log_snr[last]), float(self._log_snr[0])

    @property
    def limits(self) -> tuple[float, float]:
        """Log-SNR of the last and of the first entry."""
        return float(self._log_snr[-1]), float(self._log_snr[0])

    def config(self) -> dict[str, Any]:
        """The recipe where there is one, else the table itself."""
        return {**self._recipe, "clean": self.clean} if self.clean != 1 else dict(self._recipe)


def schedule_from_config(config: dict[str, Any]) -> Schedule:
    """Make the schedule that `schedule.config()` described.

    Errors:
        UsageError: unknown kind.
    """
    # made of this module's class
    from diffrep.continuous import EDMSchedule, FlowSchedule, VESchedule, VPSchedule

    arguments = dict(config)
    kind = arguments.pop("kind", None)
    clean = arguments.pop("clean", 1.0)
    makers: dict[str, Callable[..., Schedule]] = {
        "linear": DiscreteSchedule.linear,
        "cosine": DiscreteSchedule.cosine,
        "discrete": DiscreteSchedule,
        "edm": EDMSchedule,
        "flow": FlowSchedule,
        "vp-sde": VPSchedule,
        "ve-sde": VESchedule,
    }
    if kind not in makers:
        raise UsageError(f'unknown schedule "{kind}"', nearest(str(kind), makers))
    made = makers[kind](**arguments)
    if isinstance(made, DiscreteSchedule):
        made.clean = clean
    return made


def times_in(t: Time, low: float, high: float, name: str) -> Tensor:
    """Times as a float64 tensor, () or (K,), clamped to a schedule's own.

    Errors:
        UsageError: a time further outside than rounding.
    """
    try:
        time = torch.as_tensor(t, dtype=torch.float64).cpu()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} = {t!r:.80}", "expected a time, or a list of them") from error
    if time.ndim > 1:
        raise UsageError(f"{name} of shape {tuple(time.shape)}", "expected one time, or a list of them")
    inside = (time >= low - SNAP) & (time <= high + SNAP)
    if not bool(inside.all()):
        wrong = ", ".join(map(str, time[~inside][:5].tolist()))
        raise UsageError(f"{name} = {wrong} is outside the schedule", f"expected {low} <= {name} <= {high}")
    return time.clamp(low, high)
