"""The magnitude-preserving parts of EDM2 (Karras et al. 2024, arXiv 2312.02696, section 2.3 and appendix B).

Every operation keeps the expected magnitude of what goes through it: weights are normalized when they are used,
sums and concatenations are weighted, activations are scaled. There are no biases and no normalization layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.attention import attend
from diffrep.networks.blocks import Size

EPSILON = 1e-4


def normalized(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divide x by 1e-4 + its root mean square over `dims`, which is computed in float32 or better (appendix B.1)."""
    count = math.prod(x.shape[d] for d in dims)
    norm: Tensor = torch.linalg.vector_norm(
        x, dim=dims, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    )
    out: Tensor = x / (EPSILON + norm / math.sqrt(count)).to(x.dtype)
    return out


def mp_silu(x: Tensor) -> Tensor:
    """SiLU / 0.596 (equation 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2) (equation 88)."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Concatenate channels so that a and b weigh (1 - t) and t whatever their widths (equation 103)."""
    wide_a, wide_b = a.shape[1], b.shape[1]
    scale = math.sqrt(wide_a + wide_b) / math.hypot(1 - t, t)
    return torch.cat([a * (scale * (1 - t) / math.sqrt(wide_a)), b * (scale * t / math.sqrt(wide_b))], dim=1)


class MPConv(nn.Module):
    """Convolution or linear layer whose filters are normalized at every use, also in eval mode (equation 66).

    Args:
        in_channels: channels that come in.
        channels: channels that go out.
        kernel: 3 or 1; 0 for a linear layer.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        shape = (channels, in_channels, kernel, kernel) if kernel else (channels, in_channels)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Map (B, C, H, W) or (B, C) to as many output channels."""
        weight = normalized(self.weight, tuple(range(1, self.weight.ndim)))
        weight = (weight * (gain / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        return x @ weight.T if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class MPEmbedding(nn.Module):
    """Cosines of random frequencies and phases, mixed with the label (appendix B.3); before the activation.

    Args:
        wave_width: number of cosines.
        width: width of the result.
        classes: number of classes, None for none.
        balance: weight of the label.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, wave_width: int, width: int, classes: int | None, balance: float) -> None:
        super().__init__()
        self.classes, self.balance = classes, balance
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(wave_width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(wave_width))
        self.noise = MPConv(wave_width, width, 0)
        self.labels = MPConv(classes, width, 0) if classes else None

    def forward(self, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Embed time (B,) and class labels y (B,), zeros where left out, into (B, width).

        Errors:
            ValueError: labels for a network without classes.
        """
        phase = time.to(torch.float32)[:, None] * self.frequencies.float() + self.phases.float()
        emb: Tensor = self.noise((math.sqrt(2) * phase.cos()).to(self.noise.weight.dtype))
        if self.labels is None or self.classes is None:
            if y is not None:
                raise ValueError("class labels y given, but this network has no classes: call it without y")
            return emb
        if y is None:
            return mp_sum(emb, torch.zeros_like(emb), self.balance)
        rows = F.one_hot(y, self.classes).to(emb) * math.sqrt(self.classes)
        return mp_sum(emb, self.labels(rows), self.balance)


class MPAttention(nn.Module):
    """Attention on queries, keys and values of unit magnitude (cosine attention, appendix B.3).

    Args:
        channels: C.
        heads: number of heads, which divides the channels; otherwise ValueError.
        balance: weight of what attention adds.
    """

    def __init__(self, channels: int, heads: int, balance: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        self.heads, self.balance = heads, balance
        self.qkv = MPConv(channels, 3 * channels, 1)
        self.out = MPConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; the rows of `qkv` are (head, channel, {q, k, v})."""
        b, c, h, w = x.shape
        parts = self.qkv(x).reshape(b, self.heads, c // self.heads, 3, h * w)
        q, k, v = normalized(parts, (2,)).permute(3, 0, 1, 4, 2)
        mixed = attend(q, k, v).transpose(2, 3).reshape(b, c, h, w)
        return mp_sum(x, self.out(mixed), self.balance)


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a network share.

    Args:
        time_width: width of the embedding.
        dropout: probability, while training.
        balance: weight of the residual branch.
        attention_balance: weight of what attention adds.
        head_width: channels of an attention head.
        clip: outputs are clipped to [-clip, clip]; None for no clipping.
    """

    time_width: int
    dropout: float = 0.0
    balance: float = 0.3
    attention_balance: float = 0.3
    head_width: int = 64
    clip: float | None = 256.0

    def heads(self, channels: int) -> int:
        """Attention heads of a block so wide; 0, no attention, where it is narrower than one head (as official)."""
        return channels // self.head_width


class MPBlock(nn.Module):
    """A residual block, and attention where `attends` is set, optionally resampling first (figure 21).

    Args:
        in_channels: channels that come in.
        channels: channels that go out.
        settings: what all blocks share.
        encoder: pixels are normalized and the shortcut comes first; else the shortcut comes last.
        attends: whether attention follows.
        resample: `halve` or `double`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        settings: BlockSettings,
        *,
        encoder: bool,
        attends: bool = False,
        resample: Callable[[Tensor, Size | None], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.resample, self.settings = encoder, resample, settings
        self.gain = nn.Parameter(torch.zeros(()))
        self.conv1 = MPConv(channels if encoder else in_channels, channels, 3)
        self.time = MPConv(settings.time_width, channels, 0)
        self.conv2 = MPConv(channels, channels, 3)
        self.shortcut = MPConv(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        heads = settings.heads(channels) if attends else 0
        self.attention = MPAttention(channels, heads, settings.attention_balance) if heads else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, size: Size | None = None) -> Tensor:
        """Map x (B, in_channels, H, W) to (B, channels, H', W'); `emb` is already activated."""
        if self.resample is not None:
            x = self.resample(x, size)
        if self.encoder:
            x = normalized(self.shortcut(x), (1,))
        scale = self.time(emb, self.gain) + 1
        h = mp_silu(self.conv1(mp_silu(x)) * scale[:, :, None, None].to(x.dtype))
        h = self.conv2(F.dropout(h, self.settings.dropout, self.training))
        if not self.encoder:
            x = self.shortcut(x)
        out: Tensor = self.attention(mp_sum(x, h, self.settings.balance))
        limit = self.settings.clip
        return out if limit is None else out.clamp(-limit, limit)
