"""Inversion: walk up a path from an image to the noise x_T that DDIM turns into this image.

The same step as DDIM's, in the other direction (PDAE 1.8). What comes back is the rest that a semantic code does
not hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffrep.denoiser import Denoise
from diffrep.noise import NoiseLevel
from diffrep.sampling.steps import Progress, predictor, walk


@torch.no_grad()
def invert(
    denoise: Denoise,
    x: Tensor,
    path: NoiseLevel,
    *,
    clip: bool | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Walk up `path` by DDIM's step; the network is evaluated at each level but the last.

    Args:
        denoise: (x_t, level) -> Prediction; a denoiser, a wrapper or a bare callable.
        x: images, (B, C, H, W), taken as the point at path[0] without scaling or noise, as the official
            programs do.
        path: levels in walking order, (N+1,), from `schedule.path(N, direction="up")`; may end at alpha 0, where
            the result is the last predicted eps.
        clip: clamp predicted x_0 to [-1, 1]; None: the denoiser's own habit, never for a bare callable. Pixels
            that were predicted beyond it do not come back exactly.
        progress: wraps the steps, for example `rich.progress.track`.

    Returns:
        The images at path[-1], (B, C, H, W); the start for a sampler on the same path walked down.

    Errors:
        UsageError: a path that goes down.

    Example:
        >>> import diffrep as dr
        >>> denoiser = dr.load("ddpm-digits")
        >>> images = dr.noise_for(0, ["a", "b"])(0, (2, 1, 8, 8)).clamp(-1, 1)
        >>> dr.invert(denoiser, images, denoiser.schedule.path(10, direction="up")).shape
        torch.Size([2, 1, 8, 8])
    """
    predict = predictor(denoise, clip, eps_habit=True)
    for step in walk(x, path, progress, up=True, ends=True):
        x = step.mix(predict(x, step.now))
    return x
