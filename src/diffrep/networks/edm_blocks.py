"""The parts of EDM's two U-Nets (Karras et al. 2022, appendix F.3) that other programs do not have.

Residual and attention blocks end in a factor (sqrt(1/2) in DDPM++ and NCSN++, from Song et al. 2021), resampling goes
through a small filter, the middle is two decoder blocks, and labels may enter before the layers that embed time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import Attention, Norm, ResBlock, Size, TimeEmbedding, double, halve

Resample = Callable[[Tensor, Size | None], Tensor]


class ScaledBlock(ResBlock):
    """A residual block whose sum is scaled: gain (shortcut + residual).

    Args:
        in_channels: channels that come in.
        channels: channels that go out.
        time_width: width of `emb`.
        gain: factor of the sum.
        project: the shortcut has a 1x1 convolution also where the widths agree (DDPM++'s resampling blocks).
        settings: the other arguments of `ResBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        time_width: int,
        *,
        gain: float = 1.0,
        project: bool = False,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(in_channels, channels, time_width, **settings)
        self.gain = gain
        if project and in_channels == channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor, size: Size | None = None) -> Tensor:
        """Map x (B, in_channels, H, W) to (B, channels, H', W')."""
        return super().forward(x, emb, size) * self.gain


class ScaledAttention(Attention):
    """Attention whose sum is scaled: gain (x + attention); q, k and v are interleaved, as in EDM's files.

    Args:
        channels: C.
        heads: number of heads.
        norm: kind of normalization.
        gain: factor of the sum.
        zero: the output projection starts at 0.
    """

    def __init__(self, channels: int, heads: int, *, norm: Norm, gain: float = 1.0, zero: bool = False) -> None:
        super().__init__(channels, heads, norm=norm, order="interleaved", zero=zero)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return super().forward(x) * self.gain


class PlainMiddle(nn.Module):
    """EDM's middle, which its program counts to the decoder: `in0`, a block with attention, and `in1`, one without."""

    def __init__(self, in0: nn.Module, in1: nn.Module) -> None:
        super().__init__()
        self.in0, self.in1 = in0, in1

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        h: Tensor = self.in1(self.in0(x, emb), emb)
        return h


class PyramidDown(nn.Module):
    """NCSN++'s down-sampler: besides the block, the image pyramid comes in, (down(x) + pyramid(image)) sqrt(1/2).

    What it gives is pushed on the skip stack and is the next level's image (Song et al. 2021, "residual" inputs).
    """

    def __init__(self, down: nn.Module, pyramid: nn.Module) -> None:
        super().__init__()
        self.down, self.pyramid = down, pyramid

    def forward(self, x: Tensor, emb: Tensor, image: Tensor) -> Tensor:
        """Map x (B, C, H, W) and image (B, C', H, W) to (B, C, ceil(H/2), ceil(W/2))."""
        out: Tensor = (self.down(x, emb) + self.pyramid(image)) * math.sqrt(0.5)
        return out


class FusedDownsample(nn.Module):
    """A 3x3 convolution and then a resampling filter that sees what lies beyond the border as convolved zeros.

    Args:
        in_channels: channels that come in.
        channels: channels that go out.
        taps: of the filter, an even number.
    """

    def __init__(self, in_channels: int, channels: int, taps: Sequence[float]) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.conv = nn.Conv2d(in_channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, ceil(H/2), ceil(W/2))."""
        kernel = filter_kernel(self.taps, x)
        h = self.conv(_padded(x, 1 + (len(self.taps) - 1) // 2))
        return F.conv2d(h, kernel.expand(h.shape[1], 1, -1, -1), stride=2, groups=h.shape[1])


def filter_kernel(taps: Sequence[float], x: Tensor) -> Tensor:
    """The separable filter of these taps, summing to 1: (1, 1, K, K) like x."""
    line = x.new_tensor(taps)
    return (torch.outer(line, line) / line.sum() ** 2)[None, None]


def filtered_halve(x: Tensor, size: Size | None = None, *, taps: Sequence[float]) -> Tensor:
    """Filter and drop every other pixel: (B, C, H, W) to (B, C, ceil(H/2), ceil(W/2)); zeros beyond the border."""
    padded = _padded(x, (len(taps) - 1) // 2)
    return F.conv2d(padded, filter_kernel(taps, x).expand(x.shape[1], 1, -1, -1), stride=2, groups=x.shape[1])


def filtered_double(x: Tensor, size: Size | None = None, *, taps: Sequence[float]) -> Tensor:
    """Put zeros between the pixels and filter: (B, C, H, W) to (B, C, *size), or to twice the size."""
    kernel = 4 * filter_kernel(taps, x).expand(x.shape[1], 1, -1, -1)
    twice = F.conv_transpose2d(x, kernel, stride=2, padding=(len(taps) - 1) // 2, groups=x.shape[1])
    return twice if size is None else twice[..., : size[0], : size[1]]


def resamplers(taps: Sequence[float]) -> tuple[Resample, Resample]:
    """Down and up through the filter of these taps; (1, 1) is the average of 2x2 and nearest neighbour.

    Errors:
        ValueError: an odd number of taps, which no published network has.
    """
    if len(taps) % 2 or not taps:
        raise ValueError(f"a resampling filter of {len(taps)} taps, expected an even number such as (1, 3, 3, 1)")
    if tuple(taps) == (1, 1):
        return halve, double
    return partial(filtered_halve, taps=taps), partial(filtered_double, taps=taps)


def _padded(x: Tensor, width: int) -> Tensor:
    """Zeros around the image, and one more row and column where a side is odd, so that halving rounds up."""
    height, length = x.shape[-2:]
    return F.pad(x, (width, width + length % 2, width, width + height % 2))


class NoiseEmbedding(TimeEmbedding):
    """EDM's embedding of noise level and labels.

    Args:
        wave_width: width of the waves of the noise level.
        width: width of the result.
        waves: "positional" (sinusoid of fixed frequencies) or "fourier" (random frequencies, kept with the weights).
        swapped: sines first, and an exact last frequency where positional (DDPM++ and NCSN++); else cosines first.
        classes: number of classes.
        early_labels: labels are projected, with a bias, onto the waves (DDPM++ and NCSN++: the bias is there without
            labels too); else added to the result (ADM).
        augment_dim: width of augmentation labels, added to the waves.
    """

    frequencies: Tensor | None

    def __init__(
        self,
        wave_width: int,
        width: int,
        *,
        waves: str = "positional",
        swapped: bool = True,
        classes: int | None = None,
        early_labels: bool = True,
        augment_dim: int = 0,
    ) -> None:
        late = None if early_labels else classes
        super().__init__(wave_width, width, endpoint=swapped, classes=late, augment_dim=augment_dim)
        self.swapped = swapped
        self.labels = nn.Linear(classes, wave_width) if classes and early_labels else None
        self.register_buffer("frequencies", 16 * torch.randn(wave_width // 2) if waves == "fourier" else None)

    def forward(self, time: Tensor, y: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """Embed time (B,), class labels y (B,) and augmentation labels (B, augment_dim) into (B, width).

        A label left out is a row of zeros. A label that the network has no place for raises ValueError.
        """
        emb = self._waves(time)
        if self.labels is not None:
            emb = emb + self.labels(label_rows(y, len(emb), self.labels.in_features).to(emb))
        elif y is not None and self.classes is None:
            raise ValueError("class labels y given, but this network has no classes: call it without y")
        if augment is not None:
            if self.augment is None:
                raise ValueError("augmentation labels given, but this network was built with augment_dim=0")
            emb = emb + self.augment(augment.to(emb))
        out: Tensor = self.linear2(F.silu(self.linear1(emb)))
        return out if y is None or self.classes is None else out + self.classes(y)

    def _waves(self, time: Tensor) -> Tensor:
        """(B, wave_width); phases in float32."""
        phase = time.to(torch.float32)[:, None] * self._frequencies(time.device)
        parts = (phase.sin(), phase.cos()) if self.swapped else (phase.cos(), phase.sin())
        return torch.cat(parts, dim=1).to(self.linear1.weight.dtype)

    def _frequencies(self, device: torch.device) -> Tensor:
        """(wave_width / 2,), float32, rounded as in the official program: large times lose their phase otherwise."""
        if self.frequencies is not None:
            return 2 * math.pi * self.frequencies.float()
        half = self.wave_width // 2
        steps = torch.arange(half, dtype=torch.float32, device=device)
        return (1 / 10000) ** (steps / max(half - self.swapped, 1))


def label_rows(y: Tensor | None, count: int, classes: int) -> Tensor:
    """Labels (B,) as rows of sqrt(classes) at the label and 0 elsewhere, (B, classes); all zeros without labels."""
    if y is None:
        return torch.zeros(count, classes)
    return F.one_hot(y, classes) * math.sqrt(classes)
