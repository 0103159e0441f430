"""The U-Net of diffusers' UNet2DModel: DDPM's, with every choice of its config as an argument.

It differs from `ddpm` in what a config may choose freely: widths that are no multiples, attention that is not the same
on both sides or is missing in the middle, residual down- and up-samplers, time that scales and shifts, classes.
Attention has q, k and v one after the other. The defaults are google/ddpm-cifar10-32 (35.7 M parameters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import (
    Attention,
    Downsample,
    Norm,
    Padding,
    ResBlock,
    TimeEmbedding,
    Upsample,
    Waves,
    double,
    halve,
    heads_of,
    known,
    norm,
)
from diffrep.networks.network import layout
from diffrep.networks.unet import Block, Body, Entry, Head, Middle, UNet

Resampler = Literal["conv", "resnet"]
Names = dict[str, tuple[str, ...]]


class ShiftedTime(TimeEmbedding):
    """Time as diffusers embeds it: frequencies exp(-ln(10000) k / (half - shift)), rounded in this order.

    With `endpoint` (shift 1) DDPM's own program rounds otherwise, which is seen in the fifth decimal at large times.
    """

    def sines(self, time: Tensor) -> Tensor:
        """The sinusoid of time (B,), (B, wave_width), float32."""
        half = self.wave_width // 2
        steps = torch.arange(half, dtype=torch.float32, device=time.device)
        frequencies = torch.exp(-math.log(10000.0) * steps / (half - self.endpoint))
        phase = time.to(torch.float32)[:, None] * frequencies
        parts = (phase.cos(), phase.sin()) if self.waves == "cos-sin" else (phase.sin(), phase.cos())
        return F.pad(torch.cat(parts, dim=1), (0, self.wave_width % 2))


class CenteredUNet(UNet):
    """A U-Net for images in [0, 1], which it maps to [-1, 1] itself (`center_input_sample`)."""

    def run(self, x: Tensor, emb: Tensor) -> Tensor:
        """As in `UNet`, on 2x - 1."""
        return super().run(2 * x - 1.0, emb)


@layout
def diffusers_unet(
    *,
    image_channels: int = 3,
    widths: Sequence[int] = (128, 256, 256, 256),
    blocks: int = 2,
    down_attention: Sequence[bool] = (False, True, False, False),
    up_attention: Sequence[bool] = (False, False, True, False),
    middle_attention: bool = True,
    down: Sequence[Resampler] = ("conv", "conv", "conv", "conv"),
    up: Sequence[Resampler] = ("conv", "conv", "conv", "conv"),
    head_width: int | None = None,
    time_width: int | None = None,
    classes: int | None = None,
    learns_variance: bool = False,
    scale_shift: bool = False,
    dropout: float = 0.0,
    groups: int = 32,
    middle_groups: int | None = 32,
    eps: float = 1e-6,
    padding: Padding = "right",
    waves: Waves = "sin-cos",
    endpoint: bool = True,
    centered: bool = False,
) -> UNet:
    """Build the U-Net of a UNet2DModel; lists of the decoder are in running order, the lowest resolution first.

    Args:
        image_channels: channels of image and prediction.
        widths: channels per level, from the full resolution down.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        down_attention: whether the encoder's blocks of a level end in attention.
        up_attention: the same for the decoder.
        middle_attention: whether there is attention in the middle.
        down: how a level ends: "conv" of stride 2, or a "resnet" block that halves.
        up: how a level of the decoder ends: enlarged, then "conv", or a "resnet" block that doubles.
        head_width: channels per attention head; None for one head.
        time_width: width of the time embedding; None for four times the first width.
        classes: rows of the label table, None for none.
        learns_variance: twice the output channels, the prediction first.
        scale_shift: time scales and shifts the second normalization; otherwise it is added before it.
        dropout: in every residual block.
        groups: of every GroupNorm.
        middle_groups: of the attention in the middle, None for none (so with `scale_shift`, unless said).
        eps: of every GroupNorm.
        padding: of the down-sampling convolutions: "right" is `downsample_padding` 0.
        waves: which half of the sinusoid comes first: "cos-sin" is `flip_sin_to_cos`.
        endpoint: whether its last frequency is exactly 1e-4 (`freq_shift` 1).
        centered: the network maps images from [0, 1] to [-1, 1] itself.

    Errors:
        ValueError: lists of different lengths.

    Example:
        >>> sum(p.numel() for p in diffusers_unet().parameters())
        35746307
    """
    for name, values in {
        "down_attention": down_attention,
        "up_attention": up_attention,
        "down": down,
        "up": up,
    }.items():
        if len(values) != len(widths):
            raise ValueError(f"{len(widths)} widths, but {len(values)} entries in {name}: give one per level")
    inner, width = norm(groups, eps), time_width or 4 * widths[0]
    block = partial(ResBlock, time_width=width, norm=inner, dropout=dropout, scale_shift=scale_shift)

    def attention(channels: int, kind: Norm = inner) -> Attention:
        return Attention(channels, heads_of(channels, head_width), norm=kind, order="qkv")

    makers: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], nn.Module]]] = {
        "conv": (lambda c: Downsample(c, padding), Upsample),
        "resnet": (lambda c: block(c, c, resample=halve), lambda c: block(c, c, resample=double)),
    }
    plan = _Plan(widths, block, attention)
    plan.encode(image_channels, blocks, down_attention, [makers[known(kind, "down", makers)][0] for kind in down])
    middle_norm: Norm = norm(middle_groups, eps) if middle_groups else _no_norm
    plan.middle(attention(widths[-1], middle_norm) if middle_attention else nn.Identity(), middle_attention)
    plan.decode(blocks + 1, up_attention, [makers[known(kind, "up", makers)][1] for kind in up])
    return (CenteredUNet if centered else UNet)(
        time=ShiftedTime(widths[0], width, waves=waves, endpoint=endpoint, classes=classes),
        body=plan.body(),
        head=Head(widths[0], image_channels * (2 if learns_variance else 1), inner),
        learns_variance=learns_variance,
        aliases=plan.names,
        inside=plan.inside,
    )


class _Plan:
    """Lays out the blocks, and writes down what diffusers calls them."""

    def __init__(
        self,
        widths: Sequence[int],
        block: Callable[[int, int], ResBlock],
        attention: Callable[[int], Attention],
    ) -> None:
        self.widths, self.block, self.attention = widths, block, attention
        self.enc: list[Entry] = []
        self.dec: list[Entry] = []
        self.up: dict[int, nn.Module] = {}
        self.names: Names = {"time": ("time_embedding",)}
        self.inside = {"mid.res1": "mid_block.resnets.0", "mid.attention": "mid_block.attentions.0"}

    def encode(
        self, channels: int, blocks: int, attends: Sequence[bool], downs: Sequence[Callable[[int], nn.Module]]
    ) -> None:
        """Input convolution; per level `blocks` blocks, then a down-sampler, but at the last."""
        self._push(Entry(nn.Conv2d(channels, self.widths[0], 3, padding=1), self.widths[0], 0), "conv_in")
        for level, width in enumerate(self.widths):
            official = f"down_blocks.{level}"
            last = level == len(self.widths) - 1
            for j in range(blocks):
                name = f"{official}.{'attentions' if attends[level] else 'resnets'}.{j}"
                ends = (official,) if last and j == blocks - 1 else ()
                self._push(self._entry(self.enc[-1].channels, level, attends[level]), name, *ends)
                if attends[level]:
                    self.inside[f"enc.{len(self.enc)}.res"] = f"{official}.resnets.{j}"
            if not last:
                self._push(Entry(downs[level](width), width, level + 1), f"{official}.downsamplers.0", official)

    def middle(self, attention: nn.Module, attends: bool) -> None:
        """Block, attention or nothing, block."""
        width, level = self.widths[-1], len(self.widths) - 1
        self.mid = Entry(Middle(self.block(width, width), attention, self.block(width, width)), width, level, attends)
        self.names["mid"] = ("mid_block", "mid_block.resnets.1")

    def decode(self, blocks: int, attends: Sequence[bool], ups: Sequence[Callable[[int], nn.Module]]) -> None:
        """Per level, from the lowest, `blocks` blocks on (current, skip), then an up-sampler, but at the last."""
        skips = [entry.channels for entry in self.enc]
        channels = self.widths[-1]
        for i in range(len(self.widths)):
            level, official = len(self.widths) - 1 - i, f"up_blocks.{i}"
            for j in range(blocks):
                self.dec.append(self._entry(channels + skips.pop(), level, attends[i]))
                channels = self.widths[level]
                ends = (official,) if level == 0 and j == blocks - 1 else ()
                name = f"{official}.{'attentions' if attends[i] else 'resnets'}.{j}"
                self.names[f"dec.{len(self.dec)}"] = (name, *ends)
                if attends[i]:
                    self.inside[f"dec.{len(self.dec)}.res"] = f"{official}.resnets.{j}"
            if level > 0:
                self.up[len(self.dec)] = ups[i](channels)
                self.names[f"up.{len(self.dec)}"] = (f"{official}.upsamplers.0", official)

    def body(self) -> Body:
        """What was laid out."""
        return Body(self.enc, self.mid, self.dec, self.up)

    def _push(self, entry: Entry, *official: str) -> None:
        self.enc.append(entry)
        self.names[f"enc.{len(self.enc)}"] = official

    def _entry(self, channels: int, level: int, attends: bool) -> Entry:
        width = self.widths[level]
        inner = Block(self.block(channels, width), self.attention(width) if attends else None)
        return Entry(inner, width, level, attends)


def _no_norm(channels: int) -> nn.GroupNorm:
    return nn.Identity()  # type: ignore[return-value]  # stands where a GroupNorm is left out
