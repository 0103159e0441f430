"""DDIM: denoising diffusion implicit models (Song et al. 2021, arXiv 2010.02502).

Each step takes the prediction apart into x_0 and eps and puts them together again at the next level. With `eta`
part of eps is replaced by fresh noise; eta = 1 is the ancestral step.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from diffrep.denoiser import Denoise
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.randomness import Noise
from diffrep.sampling.steps import Progress, habits_of, noise_source, predictor, walk


@torch.no_grad()
def ddim(
    denoise: Denoise,
    x: Tensor,
    path: NoiseLevel,
    *,
    eta: float = 0.0,
    clip: bool | None = None,
    noise: Noise | Generator | None = None,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Walk down `path` by eq. 12 of the paper, in the path's own convention; order 1 for eta = 0.

    Args:
        denoise: (x_t, level) -> Prediction; a denoiser, a wrapper or a bare callable.
        x: noisy images at path[0], (B, C, H, W); their dtype is kept.
        path: levels in walking order, (N+1,); a last level of sigma 0 returns the last predicted x_0.
        eta: share of fresh noise, 0 (none) to 1 (as much as `ddpm`); DDAE's models get none in the last step.
        clip: clamp predicted x_0 to [-1, 1]; None: the denoiser's own habit, never for a bare callable.
        noise: where fresh noise comes from, (step, shape) -> Tensor or a generator; needed for eta > 0.
        generator: the same as `noise`, for a torch.Generator.
        progress: wraps the steps, for example `rich.progress.track`.

    Returns:
        Images at path[-1], (B, C, H, W).

    Errors:
        UsageError: eta outside [0, 1], a path that goes up, or eta > 0 without noise.

    Example:
        >>> import diffrep as dr
        >>> denoiser = dr.load("ddpm-digits")
        >>> x_T = dr.noise_for(0, ["a", "b"])(0, (2, 1, 8, 8))
        >>> dr.ddim(denoiser, x_T, denoiser.schedule.path(10)).shape
        torch.Size([2, 1, 8, 8])
    """
    if not 0 <= eta <= 1:
        raise UsageError(f"eta = {eta}", "expected 0 (deterministic) to 1 (ancestral)")
    draw = noise_source(noise, generator) if eta > 0 else None
    predict, habits = predictor(denoise, clip, eps_habit=True), habits_of(denoise)
    for step in walk(x, path, progress, ends=True):
        kept = math.sqrt(1 + eta**2 * math.expm1(-step.gain))  # share of eps; 1 for eta = 0
        x = step.mix(predict(x, step.now), kept)
        quiet = step.sigma == 0 or (habits.quiet_end and step.number == len(path) - 1)
        if draw is not None and not quiet:
            x = x + eta * step.posterior_std * draw(step.number, x)
    return x
