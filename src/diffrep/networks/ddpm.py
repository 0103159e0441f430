"""The U-Net of DDPM (Ho et al. 2020, appendix B): additive time, convolutions of stride 2.

The defaults are DDAE's CIFAR-10 network (official program, config DDPM_ddpm, 35.7 M parameters). Arguments
express the other dialects of the same network: pytorch_diffusion and diffusers' google/ddpm-cifar10-32 have
`eps=1e-6`, `head_groups=32` and `padding="right"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from diffrep.networks.blocks import (
    Attention,
    Downsample,
    Padding,
    QKVOrder,
    ResBlock,
    TimeEmbedding,
    Upsample,
    Waves,
    heads_of,
    known,
    norm,
)
from diffrep.networks.network import layout
from diffrep.networks.unet import Body, Entry, Head, Parts, Shape, UNet, body

Names = Literal["ddae", "pytorch-diffusion"]


@layout
def ddpm(
    *,
    image_channels: int = 3,
    channels: int = 128,
    multipliers: Sequence[int] = (1, 2, 2, 2),
    attention: Sequence[bool] = (False, True, False, False),
    blocks: int = 2,
    head_width: int | None = None,
    dropout: float = 0.0,
    augment_dim: int = 0,
    order: QKVOrder = "heads",
    groups: int = 32,
    head_groups: int = 8,
    eps: float = 1e-5,
    padding: Padding = "symmetric",
    waves: Waves = "sin-cos",
    endpoint: bool = True,
    names: Names = "ddae",
) -> UNet:
    """Build DDPM's U-Net.

    Args:
        image_channels: channels of image and prediction.
        channels: width of the input convolution; level k has multipliers[k] times as many.
        multipliers: one per level, from the full resolution down.
        attention: whether the blocks of a level end in attention; the middle always has it.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        head_width: channels per attention head; None for one head.
        dropout: in every residual block.
        augment_dim: width of augmentation labels, 0 for none.
        order: layout of q, k and v.
        groups: of every GroupNorm but the last.
        head_groups: of the GroupNorm before the output convolution (32 in the original).
        eps: of every GroupNorm (1e-6 in the original).
        padding: of the down-sampling convolutions.
        waves: which half of the sinusoid comes first.
        endpoint: whether its last frequency is exactly 1e-4.
        names: the program whose names the taps answer to.

    Example:
        >>> sum(p.numel() for p in ddpm().parameters())
        35746307
    """
    inner, time_width = norm(groups, eps), 4 * channels
    parts = Parts(
        block=lambda a, b: ResBlock(a, b, time_width, norm=inner, dropout=dropout),
        attention=lambda c: Attention(c, heads_of(c, head_width), norm=inner, order=order),
        down=lambda c: Downsample(c, padding),
        up=Upsample,
    )
    shape = Shape(image_channels, channels, [channels * m for m in multipliers], attention, blocks)
    inside = body(shape, parts)
    return UNet(
        time=TimeEmbedding(channels, time_width, waves=waves, endpoint=endpoint, augment_dim=augment_dim),
        body=inside,
        head=Head(shape.widths[0], image_channels, norm(head_groups, eps)),
        aliases=NAMES[known(names, "names", NAMES)](inside),
        inside=inner_level_names(inside) if names == "pytorch-diffusion" else None,
    )


def out_names(inside: Body) -> dict[str, tuple[str, ...]]:
    """DDAE's names of the decoder blocks: `out_k` is `dec.k` (official program, model/unet.py)."""
    return {f"dec.{k}": (f"out_{k}",) for k in range(1, len(inside.dec) + 1)}


def level_names(inside: Body) -> dict[str, tuple[str, ...]]:
    """pytorch_diffusion's names, `up` counted by level; a block that ends in attention has the attention's name."""
    names: dict[str, tuple[str, ...]] = {"enc.1": ("conv_in",), "mid": ("mid.block_2",)}
    block: dict[str, int] = {}

    def add(tap: str, entry: Entry, side: str) -> None:
        level = f"{side}.{entry.level}"
        number = block[level] = block.get(level, -1) + 1
        names[tap] = (f"{level}.{'attn' if entry.attention else 'block'}.{number}",)

    for k, entry in enumerate(inside.enc[1:], start=2):
        if isinstance(entry.module, Downsample):
            names[f"enc.{k}"] = (f"down.{entry.level - 1}.downsample",)
        else:
            add(f"enc.{k}", entry, "down")
    for k, entry in enumerate(inside.dec, start=1):
        add(f"dec.{k}", entry, "up")
        if k in inside.up:
            names[f"up.{k}"] = (f"up.{entry.level}.upsample",)
    return names


def inner_level_names(inside: Body) -> dict[str, str]:
    """pytorch_diffusion's names of residual blocks that attention follows, and of the middle's parts."""
    names = {"mid.res1": "mid.block_1", "mid.attention": "mid.attn_1"}
    for tap, (official, *_) in level_names(inside).items():
        if ".attn." in official:
            names[f"{tap}.res"] = official.replace(".attn.", ".block.")
    return names


NAMES: dict[str, Callable[[Body], dict[str, tuple[str, ...]]]] = {"ddae": out_names, "pytorch-diffusion": level_names}
