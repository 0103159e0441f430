"""What all samplers share: the steps of a path, the rule of clipping, and where noise comes from.

A path is a `NoiseLevel` (N+1,) in walking order. *Down* is from noise to image (log-SNR rises), *up* the other
way. A path may end at the image (sigma 0) or at pure noise (alpha 0), where no network is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from diffrep.denoiser import Denoise, SamplingSpec
from diffrep.errors import InputError, UsageError
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.randomness import Noise, as_noise


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a path: its number, counted from 1, the level where x stands and the level where it goes.

    Args:
        number: 1..N; also the address of the step's noise (0 is the start x_T).
        now: the level at which the network is evaluated, shape ().
        then: the next level, shape (); sigma 0 is the image, alpha 0 pure noise.
    """

    number: int
    now: NoiseLevel
    then: NoiseLevel

    @property
    def alpha(self) -> float:
        """Alpha of the next level."""
        return float(self.then.alpha)

    @property
    def sigma(self) -> float:
        """Sigma of the next level; 0 if the step ends at the image."""
        return float(self.then.sigma)

    @property
    def gain(self) -> float:
        """By how much log-SNR rises in this step: infinite if it ends at the image, negative on the way up."""
        return float(self.then.log_snr - self.now.log_snr)

    @property
    def posterior_std(self) -> float:
        """Standard deviation of x_then given x_now and x_0: sigma sqrt(1 - SNR_now / SNR_then) (PDAE 1.4)."""
        return self.sigma * math.sqrt(-math.expm1(-self.gain))

    def mix(self, prediction: Prediction, noise_share: float = 1.0) -> Tensor:
        """Put x_0 and a share of eps together at the next level: what a step does without drawing, (B, C, H, W)."""
        return self.alpha * prediction.x0 + noise_share * self.sigma * prediction.eps


Progress = Callable[[Sequence[Step]], Iterable[Step]]
"""Wraps the steps of a walk and yields them again, for example `rich.progress.track`."""


class Sampler(Protocol):
    """What the samplers have in common; `noise` may be left out where nothing is drawn."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        path: NoiseLevel,
        *,
        clip: bool | None = None,
        noise: Noise | Generator | None = None,
        generator: Generator | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Walk `path` from x at path[0]; returns images at path[-1], (B, C, H, W)."""
        ...


def walk(
    x: Tensor, path: NoiseLevel, progress: Progress | None, *, up: bool = False, ends: bool = False
) -> Iterable[Step]:
    """The steps of a path, from its first level to its last.

    Args:
        x: the images that will walk; only their type is looked at.
        path: levels in walking order, (N+1,).
        progress: wraps the steps.
        up: whether the path has to go up, towards the noise.
        ends: whether the method can start at pure noise, or at an image; whether the network can, it says itself.

    Errors:
        UsageError: no path, the wrong direction, or a start where the network cannot be evaluated.
        InputError: images that are no floating-point numbers.
    """
    if not x.is_floating_point():
        raise InputError(f"images of type {x.dtype}", "samplers take floating-point numbers")
    if not isinstance(path, NoiseLevel):
        raise UsageError(f"a path of type {type(path).__name__}", "expected (N+1,) levels, as from schedule.path(N)")
    path = path.to("cpu")
    _check(path, up, ends)
    steps = [Step(k + 1, path[k], path[k + 1]) for k in range(len(path) - 1)]
    return steps if progress is None else progress(steps)


def predictor(denoise: Denoise, clip: bool | None, *, eps_habit: bool = False, ancestral: bool = False) -> Denoise:
    """The denoiser, with x0 clamped to [-1, 1] and the rest re-derived if `clip` says so (PDAE 1.7).

    `clip=None` follows the model's own habit, `denoise.sampling.clip` (of `ancestral` steps `ancestral_clip`, where
    that is another); a bare callable has none, so it never clips. A model's own `limit` stands for 1. With `eps_habit`
    its `keep_eps` is followed too: only DDIM's step has that choice.
    """
    habits = habits_of(denoise)
    habit = habits.ancestral_clip if ancestral and habits.ancestral_clip is not None else habits.clip
    if not (habit if clip is None else clip):
        return denoise
    keep, limit = eps_habit and habits.keep_eps, habits.limit
    return lambda x_t, level: denoise(x_t, level).clipped(-limit, limit, keep_eps=keep)


def habits_of(denoise: Denoise) -> SamplingSpec:
    """A model's own habits; those of a bare callable are never to clip."""
    found: SamplingSpec = getattr(denoise, "sampling", SamplingSpec(clip=False))
    return found


def noise_source(noise: Noise | Generator | None, generator: Generator | None) -> Callable[[int, Tensor], Tensor]:
    """Make (step number, x) -> standard normal noise like x from whichever of the two arguments was given.

    Errors:
        UsageError: none or both were given.
    """
    if noise is not None and generator is not None:
        raise UsageError("both noise= and generator= were given", "leave one out")
    source = as_noise(generator if noise is None else noise)
    return lambda number, x: source(number, tuple(x.shape)).to(x)


def _check(path: NoiseLevel, up: bool, ends: bool) -> None:
    if len(path.shape) != 1 or len(path) < 2:
        shape = tuple(path.shape)
        raise UsageError(f"a path of shape {shape}", "expected (N+1,) levels, as from schedule.path(N)")
    log_snr = path.log_snr
    stays = torch.arange(1, len(path)) == len(path) - 1  # the last step may stay where it is, and only clamp
    stays &= log_snr[1:] == log_snr[:-1]
    rises, falls = (log_snr[1:] > log_snr[:-1]) | stays, log_snr[1:] < log_snr[:-1]
    if not bool((falls if up else rises).all()):
        _refuse(log_snr, turned=bool((rises if up else falls).all()), up=up)
    if not ends and not bool(torch.isfinite(log_snr[0])):
        end = "alpha = 0" if float(path.alpha[0]) == 0 else "sigma = 0"
        raise UsageError(
            f"the path starts at {end}, where this method cannot start",
            'take ddim or dpmpp_2m, or a path inside the range, as schedule.path(N, rule="karras") (--rule karras)',
        )


def _refuse(log_snr: Tensor, turned: bool, up: bool) -> None:
    wanted, given = ("up", "down") if up else ("down", "up")
    ends = f"log-SNR {float(log_snr[0]):.4g} to {float(log_snr[-1]):.4g}"
    if turned:
        role = "invert walks up, from image to noise" if up else "samplers walk down, from noise to image"
        raise UsageError(f"the path goes {given} ({ends}), but {role}", f'make it with direction="{wanted}"')
    raise UsageError(
        f"the path ({ends}) does not go {wanted} at each of its {len(log_snr) - 1} steps",
        f'levels must be in walking order and differ, as from schedule.path(N, direction="{wanted}")',
    )
