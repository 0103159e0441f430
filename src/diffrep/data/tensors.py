"""Between images on disk and float tensors; the conversions that every number in diffrep goes through."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from diffrep.data.dataset import Images, Latents
from diffrep.errors import InputError


def to_tensor(
    images: Images | Latents | Tensor,
    input_range: tuple[float, float] = (-1.0, 1.0),
    device: torch.device | str | None = None,
) -> Tensor:
    """Bring images to a device and scale them to a model's range there.

    Args:
        images: uint8 (B, H, W, C), 0..255; array or tensor.
        input_range: what 0 and 255 become.
        device: where the result lies; None is the CPU, or the tensor's own device.

    Returns:
        float32 (B, C, H, W).

    Errors:
        InputError: if the images are not uint8 (B, H, W, C), also for latents, which `to_input` takes.

    Example:
        >>> to_tensor(np.full((1, 2, 2, 3), 255, np.uint8)).max()
        tensor(1.)
    """
    if images.ndim != 4 or images.dtype not in (np.uint8, torch.uint8):
        raise InputError(f"images are {images.dtype} {tuple(images.shape)}", "expected uint8 (B, H, W, C)")
    pixels = images if isinstance(images, Tensor) else torch.from_numpy(_writable(cast(Images, images)))
    low, high = input_range
    pixels = pixels.to(device).permute(0, 3, 1, 2).contiguous()
    return pixels.float().div_(255).mul_(high - low).add_(low)


def to_input(
    images: Images | Latents, input_range: tuple[float, float] = (-1.0, 1.0), device: torch.device | str | None = None
) -> Tensor:
    """Rows of a data set as a model takes them: pixels scaled by `to_tensor`, latents as they are.

    Args:
        images: uint8 (B, H, W, C), or float32 (B, H, W, C) of a data set of latents.
        input_range: what 0 and 255 become; of no use for latents.
        device: where the result lies.

    Returns:
        float32 (B, C, H, W).
    """
    if images.dtype == np.uint8:
        return to_tensor(images, input_range, device)
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).contiguous()


def to_uint8(x: Tensor) -> Images:
    """Turn a model's images in [-1, 1] into 8-bit ones, as the official programs save them.

    trunc(clamp((0.5 x + 0.5) 255 + 0.5, 0, 255)): PDAE's and DDAE's `save_image`. Not a number becomes 0.

    Args:
        x: float (B, C, H, W).

    Returns:
        uint8 (B, H, W, C) on the CPU.

    Errors:
        InputError: if x does not have four axes.
    """
    if x.ndim != 4:
        raise InputError(f"images have shape {tuple(x.shape)}", "expected (B, C, H, W)")
    scaled = ((x.detach().float() * 0.5 + 0.5) * 255 + 0.5).clamp(0, 255).nan_to_num(0.0)
    return cast(Images, scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy())


def _writable(images: Images) -> Images:
    """Torch wants arrays that it may write to; a memory map is read-only, so it is copied."""
    writable = images.flags.writeable and images.strides[-1] > 0 and min(images.strides) >= 0
    return np.ascontiguousarray(images) if writable else np.array(images)
