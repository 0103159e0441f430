"""ADM (Dhariwal and Nichol 2021) as EDM's program has it (Karras et al. 2022, table 7; official `DhariwalUNet`).

It differs from guided-diffusion's in the middle (two blocks), the order of q, k and v, and the width of groups. The
defaults are EDM's class-conditional ImageNet-64 network without its labels (295.9 M parameters with 1000 classes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from diffrep.networks.blocks import double, halve, norm
from diffrep.networks.edm_blocks import NoiseEmbedding, ScaledAttention, ScaledBlock
from diffrep.networks.edm_unet import EDMUNet, edm_body
from diffrep.networks.network import layout
from diffrep.networks.unet import Head, Parts, Shape


@layout
def edm_dhariwal(
    *,
    image_channels: int = 3,
    channels: int = 192,
    multipliers: Sequence[int] = (1, 2, 3, 4),
    attention: Sequence[bool] = (False, True, True, True),
    blocks: int = 3,
    head_width: int = 64,
    classes: int | None = None,
    augment_dim: int = 0,
    dropout: float = 0.1,
    time_multiplier: int = 4,
    learns_variance: bool = False,
) -> EDMUNet:
    """Build EDM's ADM.

    Args:
        image_channels: channels of image and prediction.
        channels: base width; level k has multipliers[k] times as many.
        multipliers: one per level, from the full resolution down.
        attention: whether the blocks of a level end in attention; the first middle block always does.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        head_width: channels per attention head; a level narrower than one head has no attention (as official).
        classes: number of classes, None for an unconditional network.
        augment_dim: width of augmentation labels, 0 for none.
        dropout: in every residual block.
        time_multiplier: width of the embedding, in `channels`.
        learns_variance: twice the output channels, the prediction first (with iDDPM's preconditioning).

    Example:
        >>> edm_dhariwal(channels=64, multipliers=(1, 1), attention=(False, True)).time_width
        256
    """
    inner, width = norm(32, 1e-5, least=4), time_multiplier * channels
    common: dict[str, Any] = {"norm": inner, "dropout": dropout, "scale_shift": True, "zero": True}
    block: Callable[..., ScaledBlock] = partial(ScaledBlock, time_width=width, **common)

    def attend(wide: int) -> ScaledAttention:
        return ScaledAttention(wide, max(wide // head_width, 1), norm=inner, zero=True)

    parts = Parts(
        block=block,
        attention=attend,
        down=lambda c: block(c, c, resample=halve),
        up=lambda c: block(c, c, resample=double),
    )
    widths = [channels * m for m in multipliers]
    flags = [flag and wide >= head_width for flag, wide in zip(attention, widths, strict=True)]
    shape = Shape(image_channels, widths[0], widths, flags, blocks)
    middle = attend(widths[-1]) if widths[-1] >= head_width else None
    return EDMUNet(
        time=NoiseEmbedding(
            channels, width, swapped=False, classes=classes, early_labels=False, augment_dim=augment_dim
        ),
        inside=edm_body(shape, parts, middle, attention_once=False),
        head=Head(widths[0], image_channels * (2 if learns_variance else 1), inner, zero=True),
        learns_variance=learns_variance,
    )
