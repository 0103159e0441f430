"""The U-Net called DDPM++ (Song et al. 2021): as DDPM's, but wider, deeper, and resampled by residual blocks.

The defaults are DDAE's CIFAR-10 network (official program, config DDPM_ddpmpp and EDM_ddpmpp, 56.5 M
parameters), which leaves out the original's rescaling by sqrt(1/2).
"""

from __future__ import annotations

from collections.abc import Sequence

from diffrep.networks.blocks import (
    Attention,
    QKVOrder,
    ResBlock,
    TimeEmbedding,
    Waves,
    double,
    halve,
    heads_of,
    norm,
)
from diffrep.networks.ddpm import out_names
from diffrep.networks.network import layout
from diffrep.networks.unet import Head, Parts, Shape, UNet, body


@layout
def ddpmpp(
    *,
    image_channels: int = 3,
    channels: int = 128,
    multipliers: Sequence[int] = (2, 2, 2),
    attention: Sequence[bool] = (False, True, False),
    blocks: int = 4,
    head_width: int | None = None,
    dropout: float = 0.0,
    augment_dim: int = 0,
    order: QKVOrder = "heads",
    groups: int = 32,
    head_groups: int = 8,
    eps: float = 1e-5,
    waves: Waves = "sin-cos",
    endpoint: bool = True,
) -> UNet:
    """Build DDPM++'s U-Net.

    Args:
        image_channels: channels of image and prediction.
        channels: width of the input convolution; level k has multipliers[k] times as many.
        multipliers: one per level, from the full resolution down.
        attention: whether the blocks of a level end in attention; the middle always has it.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        head_width: channels per attention head; None for one head.
        dropout: in every residual block, resampling ones too.
        augment_dim: width of augmentation labels (9 for EDM's pipe), 0 for none.
        order: layout of q, k and v.
        groups: of every GroupNorm but the last.
        head_groups: of the GroupNorm before the output convolution (32 in the original).
        eps: of every GroupNorm (1e-6 in the original).
        waves: which half of the sinusoid comes first.
        endpoint: whether its last frequency is exactly 1e-4.

    Example:
        >>> sum(p.numel() for p in ddpmpp(augment_dim=9).parameters())
        56525443
    """
    inner, time_width = norm(groups, eps), 4 * channels
    parts = Parts(
        block=lambda a, b: ResBlock(a, b, time_width, norm=inner, dropout=dropout),
        attention=lambda c: Attention(c, heads_of(c, head_width), norm=inner, order=order),
        down=lambda c: ResBlock(c, c, time_width, norm=inner, dropout=dropout, resample=halve),
        up=lambda c: ResBlock(c, c, time_width, norm=inner, dropout=dropout, resample=double),
    )
    shape = Shape(image_channels, channels, [channels * m for m in multipliers], attention, blocks)
    inside = body(shape, parts)
    return UNet(
        time=TimeEmbedding(channels, time_width, waves=waves, endpoint=endpoint, augment_dim=augment_dim),
        body=inside,
        head=Head(shape.widths[0], image_channels, norm(head_groups, eps)),
        aliases=out_names(inside),
    )
