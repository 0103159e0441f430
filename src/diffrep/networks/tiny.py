"""Our own small U-Net, for images of 8 to 32 pixels on a CPU: ADM's blocks, DDPM's resampling.

Every GroupNorm group keeps at least 4 channels, down-sampling stops at 4x4, channel counts are multiples of
16, and attention stands where it is cheap: on the lowest level and in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from diffrep.networks.blocks import Attention, Downsample, ResBlock, TimeEmbedding, Upsample, heads_of, norm
from diffrep.networks.network import layout
from diffrep.networks.unet import Head, Parts, Shape, UNet, body


def multipliers_for(size: int) -> tuple[int, ...]:
    """Multipliers for images of `size` pixels: 1, then 2 for every halving that leaves at least 4x4.

    Example:
        >>> multipliers_for(8), multipliers_for(28)
        ((1, 2), (1, 2, 2, 2))
    """
    levels = 1
    while (size := -(-size // 2)) >= 4:
        levels += 1
    return (1, *[2] * (levels - 1))


@layout
def tiny(
    *,
    image_channels: int = 1,
    channels: int = 32,
    multipliers: Sequence[int] = (1, 2),
    blocks: int = 1,
    head_width: int | None = None,
    dropout: float = 0.0,
    classes: int | None = None,
    zero_init: bool = True,
) -> UNet:
    """Build the small U-Net: 755 thousand parameters by default, right for 8x8.

    Args:
        image_channels: channels of image and prediction.
        channels: base width, a multiple of 16 or ValueError; level k has multipliers[k] times as many.
        multipliers: one per level, from the full resolution down; see `multipliers_for`.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        head_width: channels per attention head; None for one head.
        dropout: in every residual block.
        classes: number of classes, None for an unconditional network.
        zero_init: last layers of blocks and of the network start at 0, as ADM's. Without it an untrained
            network is a random nonlinear feature extractor: the control for probes.

    Example:
        >>> sum(p.numel() for p in tiny().parameters())
        755009
    """
    if channels < 16 or channels % 16:
        raise ValueError(f"channels is {channels}, but this layout needs a multiple of 16")
    width, inner = 4 * channels, norm(32, least=4)
    attention = [False] * (len(multipliers) - 1) + [True]
    parts = Parts(
        block=partial(ResBlock, time_width=width, norm=inner, dropout=dropout, scale_shift=True, zero=zero_init),
        attention=lambda c: Attention(c, heads_of(c, head_width), norm=inner, zero=zero_init),
        down=Downsample,
        up=Upsample,
    )
    shape = Shape(image_channels, channels, [channels * m for m in multipliers], attention, blocks)
    return UNet(
        time=TimeEmbedding(channels, width, classes=classes),
        body=body(shape, parts),
        head=Head(shape.widths[0], image_channels, inner, zero=zero_init),
    )
