"""The U-Net called ADM, of "Diffusion models beat GANs" (Dhariwal and Nichol 2021).

guided-diffusion, improved-diffusion (Nichol and Dhariwal 2021), PDAE's frozen models and Diff-AE's
unconditional ones have this shape. The defaults are PDAE's 128-pixel network (98.6 M parameters).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import nn

from diffrep.networks.blocks import (
    Attention,
    CodedBlock,
    Downsample,
    QKVOrder,
    ResBlock,
    TimeEmbedding,
    Upsample,
    double,
    halve,
    heads_of,
    known,
    norm,
)
from diffrep.networks.network import layout
from diffrep.networks.unet import Body, CodedUNet, Head, Parts, Shape, UNet, body, parts_of

Resampling = Literal["residual", "conv"]


@layout
def adm(
    *,
    image_channels: int = 3,
    channels: int = 128,
    multipliers: Sequence[float] = (1, 1, 2, 3, 4),
    attention: Sequence[bool] = (False, False, False, True, False),
    blocks: int = 2,
    heads: int = 1,
    head_width: int | None = None,
    order: QKVOrder = "heads",
    dropout: float = 0.0,
    classes: int | None = None,
    learns_variance: bool = False,
    scale_shift: bool = True,
    resampling: Resampling = "residual",
    groups: int = 32,
    time_width: int | None = None,
    code_width: int | None = None,
) -> UNet:
    """Build ADM's U-Net.

    Args:
        image_channels: channels of image and prediction.
        channels: base width; level k has multipliers[k] times as many (0.5 occurs at 512 pixels).
        multipliers: one per level, from the full resolution down.
        attention: whether the blocks of a level end in attention; the middle always has it.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        heads: attention heads, where head_width is None.
        head_width: channels per attention head.
        order: layout of q, k and v: "heads" is the program's old order, "qkv" its new one.
        dropout: in every residual block.
        classes: number of classes, None for an unconditional network.
        learns_variance: twice the output channels, the prediction first.
        scale_shift: time scales and shifts the second normalization; otherwise it is added before it.
        resampling: "residual" blocks, or "conv" (improved-diffusion).
        groups: of every GroupNorm.
        time_width: width of the time embedding, 4 * channels where None (Diff-AE has 512 always).
        code_width: width of the code that every block listens to, None for none (Diff-AE's autoencoder: the network
            is then a `CodedUNet`, and takes the code in place of labels).

    Example:
        >>> sum(p.numel() for p in adm().parameters())
        98618499
    """
    width, inner = time_width or 4 * channels, norm(groups)
    kind: Callable[..., ResBlock] = ResBlock if code_width is None else partial(CodedBlock, code_width=code_width)
    block = partial(kind, time_width=width, norm=inner, dropout=dropout, scale_shift=scale_shift, zero=True)
    resamplers = _resamplers(block)
    down, up = resamplers[known(resampling, "resampling", resamplers)]
    parts = Parts(
        block=block,
        attention=lambda c: Attention(c, heads_of(c, head_width, heads), norm=inner, order=order, zero=True),
        down=down,
        up=up,
    )
    widths = [int(channels * m + 1e-6) for m in multipliers]  # a ratio of widths can fall short of one
    inside = body(Shape(image_channels, widths[0], widths, attention, blocks), parts)
    return (UNet if code_width is None else CodedUNet)(
        time=TimeEmbedding(channels, width, classes=classes),
        body=inside,
        head=Head(widths[0], image_channels * (2 if learns_variance else 1), inner, zero=True),
        learns_variance=learns_variance,
        aliases=_official_names(inside),
        inside=_inner_names(inside),
    )


_Maker = Callable[[int], nn.Module]


def _resamplers(block: Callable[..., ResBlock]) -> dict[str, tuple[_Maker, _Maker]]:
    return {
        "residual": (lambda c: block(c, c, resample=halve), lambda c: block(c, c, resample=double)),
        "conv": (Downsample, Upsample),
    }


def _official_names(inside: Body) -> dict[str, tuple[str, ...]]:
    """guided-diffusion's names; an output block that ends in an up-sampler has the up-sampler's value."""
    names: dict[str, tuple[str, ...]] = {f"enc.{k}": (f"input_blocks.{k - 1}",) for k in range(1, len(inside.enc) + 1)}
    names["mid"] = ("middle_block",)
    for k in range(1, len(inside.dec) + 1):
        names[f"up.{k}" if k in inside.up else f"dec.{k}"] = (f"output_blocks.{k - 1}",)
    return names


def _inner_names(inside: Body) -> dict[str, str]:
    """guided-diffusion's names of the parts of its entries, such as `output_blocks.3.1`."""
    entries = {"middle_block": parts_of("mid", inside.mid.module)}
    for k, entry in enumerate(inside.enc, start=1):
        entries[f"input_blocks.{k - 1}"] = parts_of(f"enc.{k}", entry.module)
    for k, entry in enumerate(inside.dec, start=1):
        entries[f"output_blocks.{k - 1}"] = parts_of(f"dec.{k}", entry.module) + [f"up.{k}"] * (k in inside.up)
    return {part: f"{name}.{i}" for name, parts in entries.items() for i, part in enumerate(parts)}
