"""Samplers: functions that walk a path of noise levels with any denoiser, in any convention.

Each is `sampler(denoise, x, path, *, clip=None, noise=None, generator=None, progress=None) -> Tensor`, one file
per method, readable beside its paper. `SAMPLERS` names those that walk down; `invert` walks up.
"""

from __future__ import annotations

from diffrep.sampling.ddim import ddim
from diffrep.sampling.ddpm import ddpm
from diffrep.sampling.dpmpp import dpmpp_2m
from diffrep.sampling.heun import heun
from diffrep.sampling.inversion import invert
from diffrep.sampling.steps import Progress, Sampler, Step

SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "heun": heun, "dpmpp_2m": dpmpp_2m}

__all__ = ["SAMPLERS", "Progress", "Sampler", "Step", "ddim", "ddpm", "dpmpp_2m", "heun", "invert"]
