"""The parts of diffusion U-Nets: time embedding, residual block, attention, resampling.

Programs of the field differ in a few details only (order of sine and cosine, order of q, k and v, where a
down-sampling convolution is padded, how time enters); here each such detail is one argument with a name.
Every part takes any height and width and any memory layout. A block's time argument `emb` is the output of
`TimeEmbedding`, (B, time_width).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.attention import attend

Size = tuple[int, int]
Waves = Literal["cos-sin", "sin-cos"]
QKVOrder = Literal["heads", "qkv", "interleaved"]
Padding = Literal["symmetric", "right"]
Norm = Callable[[int], nn.GroupNorm]


def known(value: str, kind: str, names: Iterable[str]) -> str:
    """The value if it is one of the names, otherwise ValueError that lists them."""
    if value not in (listed := list(names)):
        raise ValueError(f'unknown {kind} "{value}", known: {", ".join(listed)}')
    return value


# How the 3C outputs of the q, k, v projection fall into parts, and the way from there to (3, B, heads, N, d).
_QKV_SHAPES: dict[str, tuple[tuple[str, str, str], tuple[int, ...]]] = {
    "heads": (("heads", "three", "width"), (3, 0, 2, 1, 4)),  # DDAE; guided-diffusion's old order
    "qkv": (("three", "heads", "width"), (2, 0, 3, 1, 4)),  # guided-diffusion's new order, diffusers
    "interleaved": (("heads", "width", "three"), (4, 0, 2, 1, 3)),  # EDM
}


def sinusoid(time: Tensor, width: int, waves: str = "cos-sin", endpoint: bool = False) -> Tensor:
    """Embed times by sines and cosines of geometrically falling frequencies, 1 to about 1e-4.

    Args:
        time: whatever number the family feeds, (B,).
        width: size of the embedding; an odd width ends in a zero.
        waves: which half comes first. guided-diffusion and DiT: "cos-sin"; DDPM and DDAE: "sin-cos".
        endpoint: the last frequency is exactly 1e-4 (DDPM, DDAE), not one step short of it.

    Returns:
        (B, width), float32: large times lose their phase in less.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    # Rounded as the programs do, guided-diffusion and DDPM: at t = 999 the last bit is seen in the fifth decimal.
    last = max(half - endpoint, 1)
    rates = steps * -(math.log(10000.0) / last) if endpoint else -math.log(10000.0) * steps / last
    frequencies = torch.exp(rates)
    phase = time.to(torch.float32)[:, None] * frequencies
    first, second = (phase.cos(), phase.sin()) if waves == "cos-sin" else (phase.sin(), phase.cos())
    return F.pad(torch.cat([first, second], dim=1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """Sinusoid, two linear layers with SiLU between them, and what else conditions a network as a whole.

    Args:
        wave_width: width of the sinusoid.
        width: width of the result.
        waves: which half of the sinusoid comes first.
        endpoint: whether its last frequency is exactly 1e-4.
        classes: adds a learned vector per class to the result (guided-diffusion).
        augment_dim: adds a projection of augmentation labels to the sinusoid (DDAE, EDM section F.2).
    """

    def __init__(
        self,
        wave_width: int,
        width: int,
        *,
        waves: Waves = "cos-sin",
        endpoint: bool = False,
        classes: int | None = None,
        augment_dim: int = 0,
    ) -> None:
        super().__init__()
        self.wave_width, self.waves, self.endpoint = wave_width, known(waves, "waves", get_args(Waves)), endpoint
        self.augment = nn.Linear(augment_dim, wave_width, bias=False) if augment_dim else None
        self.linear1 = nn.Linear(wave_width, width)
        self.linear2 = nn.Linear(width, width)
        self.classes = nn.Embedding(classes, width) if classes else None

    def sines(self, time: Tensor) -> Tensor:
        """The sinusoid of time (B,), (B, wave_width), float32."""
        return sinusoid(time, self.wave_width, self.waves, self.endpoint)

    def forward(self, time: Tensor, y: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """Embed time (B,), class labels y (B,) and augmentation labels (B, augment_dim) into (B, width).

        A label left out leaves its term out. A label that the network has no place for raises ValueError.
        """
        waves = self.sines(time).to(self.linear1.weight.dtype)
        if augment is not None:
            if self.augment is None:
                raise ValueError("augmentation labels given, but this network was built with augment_dim=0")
            waves = waves + self.augment(augment.to(waves))
        emb: Tensor = self.linear2(F.silu(self.linear1(waves)))
        if y is None:
            return emb
        if self.classes is None:
            raise ValueError("class labels y given, but this network has no classes: call it without y")
        out: Tensor = emb + self.classes(y)
        return out


def group_norm(channels: int, groups: int = 32, eps: float = 1e-5, least: int = 1) -> nn.GroupNorm:
    """GroupNorm with as many groups as divide the channels: at most `groups`, of `least` channels or more."""
    most = max(min(groups, channels // least), 1)
    fitting = next(n for n in range(most, 0, -1) if channels % n == 0)
    return nn.GroupNorm(fitting, channels, eps=eps)


def norm(groups: int = 32, eps: float = 1e-5, least: int = 1) -> Norm:
    """The kind of normalization of one layout: a function from channels to a GroupNorm."""
    return partial(group_norm, groups=groups, eps=eps, least=least)


def zeroed(module: nn.Conv2d | nn.Linear) -> nn.Module:
    """The module with weight and bias set to 0, so that its block starts as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def halve(x: Tensor, size: Size | None = None) -> Tensor:
    """Average of 2x2 pixels: (B, C, H, W) to (B, C, ceil(H/2), ceil(W/2)); `size` is not needed."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def double(x: Tensor, size: Size | None = None) -> Tensor:
    """Nearest neighbour: (B, C, H, W) to (B, C, *size), or to twice the size."""
    return F.interpolate(x, size=size or (2 * x.shape[-2], 2 * x.shape[-1]), mode="nearest")


class ResBlock(nn.Module):
    """Two normalized convolutions around a shortcut, with time in between, optionally resampling.

    Args:
        in_channels: channels that come in.
        channels: channels that go out; a 1x1 convolution on the shortcut where they differ.
        time_width: width of `emb`.
        norm: kind of normalization.
        dropout: before the second convolution.
        scale_shift: time scales and shifts the second normalization; otherwise it is added before it.
        resample: `halve` or `double`: after the first activation, and on the shortcut (as in BigGAN).
        zero: the second convolution starts at 0.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        time_width: int,
        *,
        norm: Norm,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Callable[[Tensor, Size | None], Tensor] | None = None,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * channels if scale_shift else channels)
        self.norm2 = norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
        if zero:
            zeroed(self.conv2)

    def forward(self, x: Tensor, emb: Tensor, size: Size | None = None) -> Tensor:
        """Map x (B, in_channels, H, W) to (B, channels, H', W'); an up-sampling block goes to `size`."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h, size), self.resample(x, size)
        h = self.modulated(self.conv1(h), emb)
        out: Tensor = self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))
        return out

    def modulated(self, h: Tensor, emb: Tensor) -> Tensor:
        """Normalize h (B, channels, H, W) for the second convolution, with time in it."""
        time = self.time(F.silu(emb))[:, :, None, None]
        if not self.scale_shift:
            added: Tensor = self.norm2(h + time)
            return added
        scale, shift = time.chunk(2, dim=1)
        scaled: Tensor = self.norm2(h) * (1 + scale) + shift
        return scaled


class CodedBlock(ResBlock):
    """A residual block that a code scales after time: (1 + c) ((1 + scale) norm(h) + shift) (Diff-AE).

    Its `emb` is the time embedding and the code side by side, (B, time_width + code_width).

    Args:
        in_channels: channels that come in.
        channels: channels that go out.
        time_width: width of the time embedding.
        code_width: width of the code.
        settings: the other arguments of `ResBlock`.
    """

    def __init__(self, in_channels: int, channels: int, time_width: int, *, code_width: int, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(in_channels, channels, time_width, **settings)
        self.code = nn.Linear(code_width, channels)

    def modulated(self, h: Tensor, emb: Tensor) -> Tensor:
        """As in `ResBlock`, then scaled by the code."""
        code = emb[:, self.time.in_features :]
        scale: Tensor = 1 + self.code(F.silu(code))[:, :, None, None]
        return super().modulated(h, emb[:, : self.time.in_features]) * scale


class Attention(nn.Module):
    """Every pixel looks at every other: x + out(softmax(q k' / sqrt(d)) v), q, k, v = qkv(norm(x)).

    Args:
        channels: C; the number of heads must divide it, otherwise ValueError.
        heads: number of heads, d = C / heads.
        norm: kind of normalization.
        order: how the 3C rows of the projection are laid out: "heads" (per head q, k, v: DDAE, old
            guided-diffusion), "qkv" (all q, all k, all v: new guided-diffusion, DDPM, diffusers) or
            "interleaved" (EDM).
        zero: the output projection starts at 0.
    """

    def __init__(self, channels: int, heads: int, *, norm: Norm, order: QKVOrder = "heads", zero: bool = False) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        self.heads, self.order = heads, known(order, "order", _QKV_SHAPES)
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        if zero:
            zeroed(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        b, c, h, w = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        names, permutation = _QKV_SHAPES[self.order]
        sizes = {"heads": self.heads, "three": 3, "width": c // self.heads}
        q, k, v = self.qkv(tokens).reshape(b, h * w, *(sizes[n] for n in names)).permute(permutation)
        mixed = attend(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        out: Tensor = self.out(mixed)
        return x + out.reshape(b, h, w, c).permute(0, 3, 1, 2)


def heads_of(channels: int, head_width: int | None, heads: int = 1) -> int:
    """Number of heads: channels / head_width where a width is given (it must divide), else `heads`."""
    if head_width is None:
        return heads
    if channels % head_width:
        raise ValueError(f"attention heads of width {head_width} do not divide {channels} channels")
    return channels // head_width


class Downsample(nn.Module):
    """Convolution of stride 2: (B, C, H, W) to (B, C, ceil(H/2), ceil(W/2)).

    Args:
        channels: C.
        padding: "symmetric" pads all sides (DDAE, improved-diffusion), "right" only right and bottom (DDPM,
            diffusers' google/ddpm-*).
    """

    def __init__(self, channels: int, padding: Padding = "symmetric") -> None:
        super().__init__()
        self.padding = known(padding, "padding", get_args(Padding))
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if padding == "symmetric" else 0)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Halve the size; time is not used."""
        if self.padding == "right":
            height, width = x.shape[-2:]
            x = F.pad(x, (0, 1 + width % 2, 0, 1 + height % 2))
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Nearest neighbour, then a 3x3 convolution: (B, C, H, W) to (B, C, *size)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None, size: Size | None = None) -> Tensor:
        """Go to `size`, or to twice the size; time is not used."""
        out: Tensor = self.conv(double(x, size))
        return out
