"""How alike two images are: MSE, PSNR and SSIM on [0, 1], one number per image.

SSIM (Wang et al. 2004) pads with zeros at the native size, as the official PDAE and Diff-AE programs do, and
so also works on images of 8x8, where cropping by half the window would leave nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffrep.errors import InputError

WINDOW, WIDTH = 11, 1.5  # pixels: side and standard deviation of the Gaussian window
C1, C2 = 0.01**2, 0.03**2  # Wang et al. 2004, (K L)^2 with K = 0.01 and 0.03, L = 1


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of each image, over channels and pixels.

    Args:
        a: images in [0, 1], (B, C, H, W).
        b: images of the same shape.

    Returns:
        (B,); on [0, 1], so a quarter of the error on [-1, 1].

    Errors:
        InputError: if the shapes differ or the images are not floating point.
    """
    a, b = _pair(a, b)
    return (a - b).square().mean(dim=(1, 2, 3))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB: -10 log10(mse); infinite where the images are equal.

    Args:
        a: images in [0, 1], (B, C, H, W).
        b: images of the same shape.

    Returns:
        (B,).

    Errors:
        InputError: if the shapes differ or the images are not floating point.
    """
    return -10.0 * torch.log10(mse(a, b))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004, eq. 13), mean over channels and pixels.

    Gaussian window of 11x11 with standard deviation 1.5, zero padding, biased moments, channel by channel:
    the official PDAE program's function. Values slightly outside [0, 1] are used as they are.

    Args:
        a: images in [0, 1], (B, C, H, W).
        b: images of the same shape.

    Returns:
        (B,), 1 where the images are equal.

    Errors:
        InputError: if the shapes differ or the images are not floating point.
    """
    a, b = _pair(a, b)
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    cov = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * cov + C2) / (var_a + var_b + C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """Convolve every channel with the Gaussian window; zeros outside the image."""
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-(offset**2) / (2 * WIDTH**2))
    line = (line / line.sum()).to(x)
    batch, channels, height, width = x.shape
    planes = x.reshape(batch * channels, 1, height, width)
    rows = F.conv2d(planes, line.view(1, 1, 1, -1), padding=(0, WINDOW // 2))
    return F.conv2d(rows, line.view(1, 1, -1, 1), padding=(WINDOW // 2, 0)).view_as(x)


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Check that two batches of images can be compared; half precision is computed in float32."""
    for x in (a, b):
        if not x.is_floating_point():
            raise InputError(f"images of type {x.dtype} cannot be compared", "give floats: divide bytes by 255")
        if x.ndim != 4:
            raise InputError(f"images of shape {tuple(x.shape)}, expected (B, C, H, W)", "add a batch dimension")
    if a.shape != b.shape:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise InputError(f"images of shape {shapes} cannot be compared", "give both the same shape")
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype)
