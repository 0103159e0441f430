"""DDPM++ and NCSN++ (Song et al. 2021) as EDM's program has them (Karras et al. 2022, table 7; official `SongUNet`).

The defaults are EDM's unconditional CIFAR-10 network, VP (55.7 M parameters with augmentation labels). NCSN++ is
`waves="fourier", noise_multiplier=2, resample_filter=(1, 3, 3, 1), pyramid=True`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from diffrep.networks.blocks import known, norm
from diffrep.networks.edm_blocks import (
    FusedDownsample,
    NoiseEmbedding,
    PyramidDown,
    ScaledAttention,
    ScaledBlock,
    resamplers,
)
from diffrep.networks.edm_unet import EDMUNet, edm_body
from diffrep.networks.network import layout
from diffrep.networks.unet import Body, Entry, Head, Parts, Shape

GAIN = math.sqrt(0.5)


@layout
def edm_song(
    *,
    image_channels: int = 3,
    channels: int = 128,
    multipliers: Sequence[int] = (2, 2, 2),
    attention: Sequence[bool] = (False, True, False),
    blocks: int = 4,
    classes: int | None = None,
    augment_dim: int = 9,
    dropout: float = 0.13,
    waves: str = "positional",
    noise_multiplier: int = 1,
    time_multiplier: int = 4,
    resample_filter: Sequence[float] = (1, 1),
    pyramid: bool = False,
    learns_variance: bool = False,
) -> EDMUNet:
    """Build EDM's DDPM++ or NCSN++.

    Args:
        image_channels: channels of image and prediction.
        channels: width of the input convolution; level k has multipliers[k] times as many.
        multipliers: one per level, from the full resolution down.
        attention: whether a level has attention: in all its encoder blocks, and in its last decoder block. The first
            middle block always has it. One head.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        classes: number of classes, None for an unconditional network.
        augment_dim: width of augmentation labels (9 for EDM's pipe), 0 for none.
        dropout: in every residual block.
        waves: "positional" or "fourier" (NCSN++).
        noise_multiplier: width of the waves, in `channels` (2 in NCSN++).
        time_multiplier: width of the embedding, in `channels`.
        resample_filter: taps; (1, 1), or (1, 3, 3, 1) in NCSN++.
        pyramid: the image comes in again at every resolution (NCSN++'s "residual" encoder).
        learns_variance: twice the output channels, the prediction first (with iDDPM's preconditioning).

    Errors:
        ValueError: unknown waves, or an odd filter.

    Example:
        >>> sum(p.numel() for p in edm_song().parameters())
        55733891
    """
    known(waves, "waves", ("positional", "fourier"))
    inner, width = norm(32, 1e-6, least=4), time_multiplier * channels
    down, up = resamplers(resample_filter)
    common: dict[str, Any] = {"norm": inner, "dropout": dropout, "gain": GAIN, "zero": True}
    block: Callable[..., ScaledBlock] = partial(ScaledBlock, time_width=width, **common)
    attend = partial(ScaledAttention, heads=1, norm=inner, gain=GAIN, zero=True)
    parts = Parts(
        block=block,
        attention=attend,
        down=lambda c: block(c, c, resample=down, project=True),
        up=lambda c: block(c, c, resample=up, project=True),
    )
    shape = Shape(image_channels, channels, [channels * m for m in multipliers], attention, blocks)
    inside = edm_body(shape, parts, attend(shape.widths[-1]), attention_once=True)
    if pyramid:
        inside = _with_pyramid(inside, image_channels, resample_filter)
    return EDMUNet(
        time=NoiseEmbedding(noise_multiplier * channels, width, waves=waves, classes=classes, augment_dim=augment_dim),
        inside=inside,
        head=Head(shape.widths[0], image_channels * (2 if learns_variance else 1), inner, zero=True),
        learns_variance=learns_variance,
    )


def _with_pyramid(inside: Body, image_channels: int, taps: Sequence[float]) -> Body:
    enc: list[Entry] = [inside.enc[0]]
    width = image_channels
    for entry in inside.enc[1:]:
        module: nn.Module = entry.module
        if entry.level != enc[-1].level:
            module = PyramidDown(module, FusedDownsample(width, entry.channels, taps))
            width = entry.channels
        enc.append(entry._replace(module=module))
    return replace(inside, enc=enc)
