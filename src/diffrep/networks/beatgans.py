"""Diff-AE's semantic encoder (Preechakul et al. 2022): the encoder half of an ADM without time, pooled to a code.

Its decoder network is the layout "adm" with `code_width`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import Attention, Downsample, Norm, QKVOrder, Size, halve, heads_of, known, norm
from diffrep.networks.network import Network, Place, layout


class TimelessBlock(nn.Module):
    """Normalization, SiLU and one convolution around a shortcut: what is left of ADM's block without time."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        norm: Norm,
        resample: Callable[[Tensor, Size | None], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in_channels, H, W) to (B, channels, H', W')."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h, None), self.resample(x, None)
        out: Tensor = self.shortcut(x) + self.conv1(h)
        return out


class EncoderBlock(nn.Module):
    """A block or a down-sampler, and attention where its level has it."""

    def __init__(self, res: nn.Module, attention: Attention | None = None) -> None:
        super().__init__()
        self.res, self.attention = res, attention

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C', H', W')."""
        h: Tensor = self.res(x)
        return h if self.attention is None else self.attention(h)


class BeatgansEncoder(Network):
    """See `beatgans_encoder`."""

    def __init__(
        self, blocks: Sequence[nn.Module], middle: dict[str, nn.Module], norm: nn.Module, head: nn.Linear
    ) -> None:
        super().__init__()
        self.config = {}
        self.time_width = 0
        self.code_dim = head.out_features
        self.blocks = nn.ModuleList(blocks)
        self.middle = nn.ModuleDict(middle)
        self.norm, self.head = norm, head

    def forward(self, x0: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [-1, 1] to codes (B, D)."""
        h = x0
        for block in (*self.blocks, *self.middle.values()):
            h = block(h)
        code: Tensor = self.head(F.silu(self.norm(h)).mean(dim=(2, 3)))
        return code

    def places(self, size: Size) -> tuple[Place, ...]:
        """None: an encoder is not tapped."""
        return ()


@layout
def beatgans_encoder(
    *,
    image_channels: int = 3,
    channels: int = 128,
    multipliers: Sequence[float] = (1, 1, 2, 3, 4, 4),
    attention: Sequence[bool] = (False, False, False, True, False, False),
    blocks: int = 2,
    code_dim: int = 512,
    heads: int = 1,
    head_width: int | None = None,
    order: QKVOrder = "heads",
    resampling: str = "residual",
    groups: int = 32,
) -> BeatgansEncoder:
    """Build Diff-AE's encoder; the defaults are its 128-pixel one.

    Args:
        image_channels: channels of the images.
        channels: base width; level k has multipliers[k] times as many.
        multipliers: one per level, from the full resolution down.
        attention: whether the blocks of a level end in attention; the middle always has it.
        blocks: blocks per level.
        code_dim: D.
        heads: attention heads, where head_width is None.
        head_width: channels per attention head.
        order: layout of q, k and v.
        resampling: "residual" blocks, or "conv".
        groups: of every GroupNorm.
    """
    if len(multipliers) != len(attention):
        raise ValueError(
            f"{len(multipliers)} multipliers but {len(attention)} attention flags: give one of each per level"
        )
    inner = norm(groups)
    block = partial(TimelessBlock, norm=inner)
    downs: dict[str, Callable[[int], nn.Module]] = {
        "residual": lambda c: block(c, c, resample=halve),
        "conv": Downsample,
    }
    down = downs[known(resampling, "resampling", downs)]

    def attends(width: int) -> Attention:
        return Attention(width, heads_of(width, head_width, heads), norm=inner, order=order, zero=True)

    width = int(channels * multipliers[0])
    parts: list[nn.Module] = [nn.Conv2d(image_channels, width, 3, padding=1)]
    for level, multiplier in enumerate(multipliers):
        if level > 0:
            parts.append(EncoderBlock(down(width)))
        for _ in range(blocks):
            out = int(channels * multiplier)
            parts.append(EncoderBlock(block(width, out), attends(out) if attention[level] else None))
            width = out
    middle = {"first": block(width, width), "attention": attends(width), "last": block(width, width)}
    return BeatgansEncoder(parts, middle, inner(width), nn.Linear(width, code_dim))
