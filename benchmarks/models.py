"""The networks that are timed; random weights, since speed does not depend on them."""

from __future__ import annotations

import torch

from diffrep.denoiser import Denoiser, InputSpec
from diffrep.networks import build
from diffrep.schedules import DiscreteSchedule


def ddae_unet() -> Denoiser:
    """DDAE's U-Net with 35,746,307 parameters, 32x32 (spec DDPM_ddpm)."""
    return _denoiser({"layout": "ddpm"}, 3, 32)


def pdae_unet() -> Denoiser:
    """An ADM-shaped U-Net, base 64, multipliers 1, 2, 4, 8, at 64x64: PDAE's smaller 64-pixel shape."""
    return _denoiser(
        {"layout": "adm", "channels": 64, "multipliers": [1, 2, 4, 8], "attention": [False, False, True, False]}, 3, 64
    )


def images(n: int, size: int) -> torch.Tensor:
    """N images of noise in the model's range."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def _denoiser(config: dict[str, object], channels: int, size: int) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(build(config), schedule=DiscreteSchedule.linear(), input=InputSpec(channels, size)).eval()
