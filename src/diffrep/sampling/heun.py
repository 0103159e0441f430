"""Heun's method on the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, Algorithm 2).

With y = x / alpha and s = sigma / alpha the ODE reads dy/ds = eps, in every convention. A step is Euler's, which is
DDIM's, and then a correction by the slope at its end. With churn a step first goes back up by fresh noise.

Of flows the velocity is the slope that is corrected: with y = x / (alpha + sigma) and s = sigma / (alpha + sigma) it is
dy/ds = eps - x_0, also in pure noise (SiT, REPA): of every denoiser whose `parameterization` is "flow".
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from diffrep.denoiser import Denoise
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.randomness import Noise
from diffrep.sampling.steps import Progress, Step, habits_of, noise_source, predictor, walk


@torch.no_grad()
def heun(
    denoise: Denoise,
    x: Tensor,
    path: NoiseLevel,
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] | None = None,
    churn_noise: float | None = None,
    clip: bool | None = None,
    noise: Noise | Generator | None = None,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Walk down `path` with two evaluations per step, one in a last step to the image; order 2 without churn.

    Args:
        denoise: (x_t, level) -> Prediction; a denoiser, a wrapper or a bare callable.
        x: noisy images at path[0], (B, C, H, W); their dtype is kept.
        path: levels in walking order, (N+1,); a last level of sigma 0 returns the last predicted x_0.
        churn: 0 (deterministic) to 1: sigma grows by churn (sqrt(2) - 1) before a step. DDAE's eta (1.1.7); EDM's
            S_churn = churn N (sqrt(2) - 1).
        churn_range: churn only where sigma / alpha is inside (EDM's S_min and S_max); None: the model's habit, DDAE's
            0.01 to 1 where it has none.
        churn_noise: scale of the fresh noise (EDM's S_noise); None: the model's habit, else DDAE's 1.007.
        clip: clamp predicted x_0 to [-1, 1]; None: the denoiser's own habit, never for a bare callable.
        noise: where fresh noise comes from, (step, shape) -> Tensor or a generator; needed for churn > 0.
        generator: the same as `noise`, for a torch.Generator.
        progress: wraps the steps, for example `rich.progress.track`.

    Returns:
        Images at path[-1], (B, C, H, W).

    Errors:
        UsageError: churn outside [0, 1], a path that goes up, churn > 0 without noise, or pure noise at its start
            for a model that is no flow.
    """
    if not 0 <= churn <= 1:
        raise UsageError(f"churn = {churn}", "expected 0 (deterministic) to 1 (as much as is useful)")
    draw = noise_source(noise, generator) if churn > 0 else None
    predict, habits = predictor(denoise, clip), habits_of(denoise)
    low, high = churn_range or habits.churn_range
    scale = habits.churn_noise if churn_noise is None else churn_noise
    velocity = getattr(denoise, "parameterization", None) == "flow"
    for step in walk(x, path, progress, ends=velocity):
        if draw is not None and low <= float(step.now.sigma / step.now.alpha) <= high:
            step, added = _go_back(step, 1 + churn * (math.sqrt(2) - 1))
            x = x + scale * added * draw(step.number, x)
        first = predict(x, step.now)
        x = step.mix(first)
        if step.sigma > 0:
            second = predict(x, step.then)
            change = second.flow - first.flow if velocity else second.eps - first.eps
            x = x + _half_length(step, velocity) * change
    return x


def _go_back(step: Step, factor: float) -> tuple[Step, float]:
    """The step from a level with `factor` times the noise, and the standard deviation of the noise to add."""
    sigma = float(step.now.sigma)
    now = NoiseLevel(step.now.alpha, step.now.sigma * factor)
    return Step(step.number, now, step.then), sigma * math.sqrt(factor**2 - 1)


def _half_length(step: Step, velocity: bool) -> float:
    """Half of s_then - s_now, in the next level's units of x."""
    now, unit = step.now.alpha, step.alpha
    if velocity:
        now, unit = now + step.now.sigma, unit + step.sigma
    return unit * (step.sigma / unit - float(step.now.sigma / now)) / 2
