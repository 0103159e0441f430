"""What EDM's U-Nets have in common: the outline of DDPM's with another middle, and the official names of their taps.

`mid` is the official program's `dec.{r}x{r}_in1`, `dec.k` its `block{i}` counted through all levels, and `up.k` its
`up`; names carry the resolution, so they are known once the image size is (spec: ecosystem, 5.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffrep.networks.blocks import Size, TimeEmbedding
from diffrep.networks.edm_blocks import PlainMiddle, PyramidDown
from diffrep.networks.network import Place
from diffrep.networks.unet import Block, Body, Entry, Parts, Shape, UNet, body

__all__ = ["EDMUNet", "Row", "edm_body", "places_of", "rows_of"]


class Row(NamedTuple):
    """A place, and the official program's name for it, in which {r} stands for "HxW"."""

    name: str
    module: str
    channels: int
    level: int
    attention: bool
    official: str


def edm_body(shape: Shape, parts: Parts, middle_attention: nn.Module | None, *, attention_once: bool) -> Body:
    """DDPM's outline with EDM's middle.

    Args:
        shape: the outline.
        parts: how the parts are made.
        middle_attention: of the first of the two middle blocks.
        attention_once: only the last decoder block of a level has attention (DDPM++ and NCSN++).
    """
    outline = body(shape, parts)
    width = outline.enc[-1].channels
    middle = PlainMiddle(Block(parts.block(width, width), middle_attention), Block(parts.block(width, width)))
    mid = Entry(middle, width, len(shape.widths) - 1, attention=middle_attention is not None)
    dec = list(_attention_at_last(outline.dec)) if attention_once else outline.dec
    return replace(outline, mid=mid, dec=dec)


def _attention_at_last(dec: Sequence[Entry]) -> Iterator[Entry]:
    for k, entry in enumerate(dec):
        last = k + 1 == len(dec) or dec[k + 1].level != entry.level
        if last or not entry.attention:
            yield entry
        else:
            yield entry._replace(module=Block(entry.module.get_submodule("res")), attention=False)


def rows_of(inside: Body) -> list[Row]:
    """The taps of an EDM body, in the order in which they are computed."""
    rows = list(_encoder_rows(inside.enc))
    lowest, width = inside.mid.level, inside.mid.channels
    rows.append(Row("mid.in0", "mid.in0", width, lowest, inside.mid.attention, "dec.{r}_in0"))
    rows.append(Row("mid", "mid", width, lowest, inside.mid.attention, "dec.{r}_in1"))
    number, level = 0, lowest
    for k, (_, channels, level_now, attention) in enumerate(inside.dec, start=1):
        number, level = (number if level_now == level else 0), level_now
        rows.append(Row(f"dec.{k}", f"dec.{k}", channels, level, attention, f"dec.{{r}}_block{number}"))
        number += 1
        if k in inside.up:
            rows.append(Row(f"up.{k}", f"up.{k}", channels, level - 1, False, "dec.{r}_up"))
    return rows


def _encoder_rows(enc: Sequence[Entry]) -> Iterator[Row]:
    yield Row("enc.1", "enc.1", enc[0].channels, 0, False, "enc.{r}_conv")
    number, level = 0, 0
    for k, (module, channels, level_now, attention) in enumerate(enc[1:], start=2):
        if level_now == level:
            yield Row(f"enc.{k}", f"enc.{k}", channels, level, attention, f"enc.{{r}}_block{number}")
            number += 1
            continue
        number, level = 0, level_now
        if isinstance(module, PyramidDown):  # the official names stand for the two terms, ours for their sum
            yield Row(f"down.{k}", f"enc.{k}.down", channels, level, False, "enc.{r}_down")
            yield Row(f"pyramid.{k}", f"enc.{k}.pyramid", channels, level, False, "enc.{r}_aux_residual")
            yield Row(f"enc.{k}", f"enc.{k}", channels, level, attention, "")
        else:
            yield Row(f"enc.{k}", f"enc.{k}", channels, level, attention, "enc.{r}_down")


def places_of(rows: Sequence[Row], time_width: int, size: Size) -> tuple[Place, ...]:
    """The taps for images of `size` (height, width), with official names."""
    return (
        Place("time", "time", time_width, None),
        *(_place(row, (math.ceil(size[0] / 2**row.level), math.ceil(size[1] / 2**row.level))) for row in rows),
    )


def _place(row: Row, size: Size) -> Place:
    aliases = (row.official.format(r=f"{size[0]}x{size[1]}"),) if row.official else ()
    return Place(row.name, row.module, row.channels, size, row.attention, aliases)


class EDMUNet(UNet):
    """A U-Net of EDM's program; NCSN++'s image pyramid is followed where its down-samplers want it.

    Args:
        time: embeds noise level and labels.
        inside: encoder, middle, decoder.
        head: last layers.
        learns_variance: the second half of the output channels is a variance.
    """

    def __init__(self, *, time: TimeEmbedding, inside: Body, head: nn.Module, learns_variance: bool = False) -> None:
        super().__init__(time=time, body=inside, head=head, learns_variance=learns_variance)
        self.rows = rows_of(inside)

    def run(self, x: Tensor, emb: Tensor) -> Tensor:
        """What `forward` does once noise level and labels are embedded in `emb`, (B, width)."""
        stem, *blocks = self.enc.values()
        skips: list[Tensor] = [stem(x)]
        image = x
        for block in blocks:
            if isinstance(block, PyramidDown):
                image = block(skips[-1], emb, image)
                skips.append(image)
            else:
                skips.append(block(skips[-1], emb))
        h: Tensor = self.mid(skips[-1], emb)
        for k, block in self.dec.items():
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
            if k in self.up:
                h = self.up[k](h, emb, tuple(skips[-1].shape[-2:]))
        out: Tensor = self.head(h)
        return out

    def places(self, size: Size) -> tuple[Place, ...]:
        """The taps for images of `size` (height, width), in the order in which they are computed."""
        return places_of(self.rows, self.time_width, size)
