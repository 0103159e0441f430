"""DPM-Solver++(2M), a multistep method (Lu et al. 2022, arXiv 2211.01095, Algorithm 2).

In lambda = log-SNR / 2 the ODE is linear but for the predicted x_0, which is extrapolated from the last two
evaluations. It needs one evaluation per step.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from diffrep.denoiser import Denoise
from diffrep.noise import NoiseLevel
from diffrep.randomness import Noise
from diffrep.sampling.steps import Progress, predictor, walk


@torch.no_grad()
def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    path: NoiseLevel,
    *,
    clip: bool | None = None,
    noise: Noise | Generator | None = None,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Walk down `path` by the data-prediction form; order 2, with a first-order first step (from pure noise: two).

    Args:
        denoise: (x_t, level) -> Prediction; a denoiser, a wrapper or a bare callable.
        x: noisy images at path[0], (B, C, H, W); their dtype is kept.
        path: levels in walking order, (N+1,); a last level of sigma 0 returns the last predicted x_0.
        clip: clamp predicted x_0 to [-1, 1]; None: the denoiser's own habit, never for a bare callable.
        noise: taken so that samplers can be exchanged; nothing is drawn.
        generator: likewise.
        progress: wraps the steps, for example `rich.progress.track`.

    Returns:
        Images at path[-1], (B, C, H, W).

    Errors:
        UsageError: a path that goes up.
    """
    predict = predictor(denoise, clip)
    before: tuple[Tensor, float] | None = None  # x0 and length of the last step
    for step in walk(x, path, progress, ends=True):
        x0, h = predict(x, step.now).x0, step.gain / 2
        guess = x0
        if before is not None and step.sigma > 0:
            guess = x0 + h / 2 * (x0 - before[0]) / before[1]  # dx0 / dlambda, which is 0 after a step from pure noise
        before = (x0, h)
        x = step.sigma / float(step.now.sigma) * x - step.alpha * math.expm1(-h) * guess
    return x
