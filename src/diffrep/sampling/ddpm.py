"""DDPM: ancestral sampling (Ho et al. 2020, arXiv 2006.11239), between any two levels of any convention.

A step draws from the posterior q(x_then | x_now, x_0) with the predicted x_0. Its variance is the posterior's
own, the upper bound (beta), or learned between the two (Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from diffrep.denoiser import Denoise
from diffrep.errors import UsageError, nearest
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.randomness import Noise
from diffrep.sampling.steps import Progress, Step, habits_of, noise_source, predictor, walk

VARIANCES = ("posterior", "upper", "learned")


@torch.no_grad()
def ddpm(
    denoise: Denoise,
    x: Tensor,
    path: NoiseLevel,
    *,
    variance: str | None = None,
    clip: bool | None = None,
    noise: Noise | Generator | None = None,
    generator: Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Walk down `path` with fresh noise in each step but one that ends at the image (PDAE 1.7, DDAE 1.1.4).

    Args:
        denoise: (x_t, level) -> Prediction; a denoiser, a wrapper or a bare callable.
        x: noisy images at path[0], (B, C, H, W); their dtype is kept.
        path: levels in walking order, (N+1,).
        variance: "posterior" (beta-tilde), "upper" (beta, DDAE's choice) or "learned"; None: the denoiser's own
            habit, and where it has none, "learned" where the network predicts it, else "posterior".
        clip: clamp predicted x_0 to [-1, 1]; None: the denoiser's own habit, never for a bare callable.
        noise: where noise comes from, (step, shape) -> Tensor or a generator.
        generator: the same as `noise`, for a torch.Generator.
        progress: wraps the steps, for example `rich.progress.track`.

    Returns:
        Images at path[-1], (B, C, H, W).

    Errors:
        UsageError: no noise, a path that goes up, an unknown variance, or "learned" where none was learned.

    Example:
        >>> import diffrep as dr
        >>> denoiser = dr.load("ddpm-digits")
        >>> noise = dr.noise_for(0, ["a", "b"])
        >>> dr.ddpm(denoiser, noise(0, (2, 1, 8, 8)), denoiser.schedule.path(10), noise=noise).shape
        torch.Size([2, 1, 8, 8])
    """
    variance = variance or habits_of(denoise).variance
    if variance is not None and variance not in VARIANCES:
        raise UsageError(f'unknown variance "{variance}"', nearest(variance, VARIANCES))
    draw, predict = noise_source(noise, generator), predictor(denoise, clip, ancestral=True)
    for step in walk(x, path, progress, ends=True):
        prediction = predict(x, step.now)
        x = step.mix(prediction, math.exp(-step.gain / 2))  # the posterior's mean, PDAE 1.2
        if step.sigma > 0:
            x = x + _std(step, prediction, variance) * draw(step.number, x)
    return x


def _std(step: Step, prediction: Prediction, variance: str | None) -> float | Tensor:
    learned = prediction.log_variance
    if variance == "learned" and learned is None:
        raise UsageError("this model has not learned a variance", 'take variance="posterior" or "upper"')
    if step.gain == 0:
        return 0.0
    if variance == "upper":
        return _upper_std(step)
    if variance == "posterior" or learned is None:
        return step.posterior_std
    low, high = math.log(step.posterior_std), math.log(_upper_std(step))
    share = (learned + 1) / 2  # the network's range is [-1, 1], PDAE 1.2
    return (low + share * (high - low)).exp()


def _upper_std(step: Step) -> float:
    """Square root of beta, in the next level's units: exact for data that are standard normal.

    In the variance-preserving convention this is sqrt(1 - alpha_now^2 / alpha_then^2).
    """
    sigma_now = 1 / math.sqrt(1 + float(step.now.snr))  # variance-preserving, at the same log-SNR
    return math.hypot(step.alpha, step.sigma) * sigma_now * math.sqrt(-math.expm1(-step.gain))
