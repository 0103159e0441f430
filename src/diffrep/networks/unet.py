"""A U-Net: lists of blocks that a layout's builder returns, and the one loop that runs them.

Words: a *level* is one resolution; level k works at ceil(size / 2**k). The *encoder* pushes each of its
outputs on the skip stack, the *decoder* takes them off again. The name of a tap is the path of the module
whose output it is: `time`, `enc.1` (the input convolution), `enc.2`, ..., `mid`, `dec.1`, ...; an up-sampler
`up.k` follows `dec.k`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import Attention, Norm, ResBlock, Size, TimeEmbedding, zeroed
from diffrep.networks.network import Network, Place


class Entry(NamedTuple):
    """A block of a U-Net and what the taps table says of its output; level k is halved k times."""

    module: nn.Module
    channels: int
    level: int
    attention: bool = False


class Block(nn.Module):
    """A residual block and, where a level has it, its attention: the unit that is pushed and tapped."""

    def __init__(self, res: nn.Module, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.res = res
        self.attention = attention

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C', H, W)."""
        h: Tensor = self.res(x, emb)
        return h if self.attention is None else self.attention(h)


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, res1: nn.Module, attention: nn.Module, res2: nn.Module) -> None:
        super().__init__()
        self.res1, self.attention, self.res2 = res1, attention, res2

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        h: Tensor = self.res2(self.attention(self.res1(x, emb)), emb)
        return h


class Head(nn.Module):
    """Normalization, SiLU and the output convolution, which starts at 0 where `zero` is set."""

    def __init__(self, channels: int, out_channels: int, norm: Norm, zero: bool = False) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        if zero:
            zeroed(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, channels, H, W) to (B, out_channels, H, W)."""
        out: Tensor = self.conv(F.silu(self.norm(x)))
        return out


@dataclass(frozen=True)
class Body:
    """Encoder, middle and decoder of a U-Net; `up[k]` is the up-sampler after decoder block k, from 1."""

    enc: Sequence[Entry]
    mid: Entry
    dec: Sequence[Entry]
    up: Mapping[int, nn.Module]


@dataclass(frozen=True)
class Parts:
    """How a layout makes its parts; each function takes channel counts."""

    block: Callable[[int, int], ResBlock]
    attention: Callable[[int], Attention]
    down: Callable[[int], nn.Module]
    up: Callable[[int], nn.Module]


@dataclass(frozen=True)
class Shape:
    """The outline that DDPM's descendants share: see `body`.

    `widths` and `attention` have one entry per level, from the full resolution down; `blocks` counts residual
    blocks per level of the encoder (the decoder has one more); `stem` is the width of the input convolution.
    """

    image_channels: int
    stem: int
    widths: Sequence[int]
    attention: Sequence[bool]
    blocks: int

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.attention) or not self.widths:
            raise ValueError(
                f"{len(self.widths)} multipliers but {len(self.attention)} attention flags: give one of each per level"
            )
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}, but a level needs at least 1")


def body(shape: Shape, parts: Parts) -> Body:
    """Lay out blocks as DDPM does (Ho et al. 2020, appendix B) and DDPM++ and ADM do after it.

    Encoder: the input convolution; per level a down-sampler, unless it is the first, then `blocks` blocks.
    Decoder: per level, from the lowest, `blocks` + 1 blocks on (current, skip), then an up-sampler unless it
    is the last.
    """
    enc = _encoder(shape, parts)
    width = enc[-1].channels
    mid = Middle(parts.block(width, width), parts.attention(width), parts.block(width, width))
    dec, up = _decoder(shape, parts, [entry.channels for entry in enc])
    return Body(enc, Entry(mid, width, len(shape.widths) - 1, attention=True), dec, up)


def _block(shape: Shape, parts: Parts, channels: int, level: int) -> Entry:
    width, attends = shape.widths[level], shape.attention[level]
    attention = parts.attention(width) if attends else None
    return Entry(Block(parts.block(channels, width), attention), width, level, attends)


def _encoder(shape: Shape, parts: Parts) -> list[Entry]:
    enc = [Entry(nn.Conv2d(shape.image_channels, shape.stem, 3, padding=1), shape.stem, 0)]
    for level in range(len(shape.widths)):
        if level > 0:
            enc.append(Entry(parts.down(enc[-1].channels), enc[-1].channels, level))
        for _ in range(shape.blocks):
            enc.append(_block(shape, parts, enc[-1].channels, level))
    return enc


def _decoder(shape: Shape, parts: Parts, skips: list[int]) -> tuple[list[Entry], dict[int, nn.Module]]:
    dec: list[Entry] = []
    up: dict[int, nn.Module] = {}
    width = skips[-1]
    for level in reversed(range(len(shape.widths))):
        for _ in range(shape.blocks + 1):
            dec.append(_block(shape, parts, width + skips.pop(), level))
            width = dec[-1].channels
        if level > 0:
            up[len(dec)] = parts.up(width)
    return dec, up


class UNet(Network):
    """A U-Net as a plain network: (x, time) -> output.

    Args:
        time: embeds time and labels.
        body: encoder, middle, decoder.
        head: last layers; gives the image's channels, or twice as many.
        learns_variance: the second half of the output channels is a variance.
        aliases: official names, {tap name: names}; an up-sampler `up.k` named here becomes a place.
        inside: official names of parts of blocks, {path of the part: name}; they can be read, and are in no glob.
    """

    def __init__(
        self,
        *,
        time: TimeEmbedding,
        body: Body,
        head: nn.Module,
        learns_variance: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        inside: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.config = {}
        self.time_width = time.linear2.out_features
        self.learns_variance = learns_variance
        self.time = time
        self.enc = nn.ModuleDict({str(k): entry.module for k, entry in enumerate(body.enc, start=1)})
        self.mid = body.mid.module
        self.dec = nn.ModuleDict({str(k): entry.module for k, entry in enumerate(body.dec, start=1)})
        self.up = nn.ModuleDict({str(k): module for k, module in body.up.items()})
        self.head = head
        self._table = _table(body, self.time_width, aliases or {}, inside or {})

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None, *, augment: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            x: images, (B, C, H, W); any H and W.
            time: what the network was trained to see as time, (B,).
            y: class labels, (B,); only for networks with classes. Without them the class term is left out.
            augment: augmentation labels, (B, augment_dim); only for networks with augment_dim.

        Returns:
            (B, C, H, W), or (B, 2C, H, W) with a learned variance.
        """
        return self.run(x, self.time(time, y, augment))

    def run(self, x: Tensor, emb: Tensor) -> Tensor:
        """What `forward` does once time and labels are embedded in `emb`, (B, width)."""
        stem, *blocks = self.enc.values()
        skips: list[Tensor] = [stem(x)]
        for block in blocks:
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
        return tuple(
            Place(name, row.module, row.channels, _at_level(size, row.level), row.attention, row.aliases)
            for name, row in self._table.items()
        )


class CodedUNet(UNet):
    """A U-Net that is told a code: its blocks see time and code (Diff-AE, Preechakul et al. 2022, section 3.1)."""

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None, *, augment: Tensor | None = None) -> Tensor:
        """Run the network; here y is the code, (B, D) or (1, D), and it is needed.

        Errors:
            ValueError: no code.
        """
        if y is None:
            raise ValueError("this network predicts from a code: give y = z, (B, D)")
        emb = self.time(time, None, augment)
        return self.run(x, torch.cat([emb, y.to(emb).expand(len(emb), -1)], dim=1))


class Row(NamedTuple):
    """A place in a U-Net's table: `level` is None for what is no tap."""

    module: str
    channels: int
    level: int | None
    attention: bool = False
    aliases: tuple[str, ...] = ()


def _at_level(size: Size, level: int | None) -> Size | None:
    return None if level is None else (-(-size[0] // 2**level), -(-size[1] // 2**level))


def parts_of(path: str, module: nn.Module) -> list[str]:
    """Paths of a block's parts in the order in which they run; the block's own where it has none.

    Example:
        >>> parts_of("dec.3", Block(nn.Identity(), nn.Identity()))
        ['dec.3.res', 'dec.3.attention']
    """
    if isinstance(module, Middle):
        return [f"{path}.{part}" for part in ("res1", "attention", "res2")]
    if isinstance(module, Block):
        return [f"{path}.res"] + ([f"{path}.attention"] if module.attention is not None else [])
    return [path]


def _table(
    body: Body, time_width: int, aliases: Mapping[str, tuple[str, ...]], inside: Mapping[str, str]
) -> dict[str, Row]:
    rows = {"time": Row("time", time_width, None, False, aliases.get("time", ()))}

    def add(name: str, entry: Entry) -> None:
        for part in parts_of(name, entry.module):
            if part in inside:
                rows[inside[part]] = Row(part, entry.channels, None, part.endswith(".attention"))
        rows[name] = Row(name, *entry[1:], aliases.get(name, ()))

    for k, entry in enumerate(body.enc, start=1):
        add(f"enc.{k}", entry)
    add("mid", body.mid)
    for k, entry in enumerate(body.dec, start=1):
        add(f"dec.{k}", entry)
        if (up := f"up.{k}") in inside:
            rows[inside[up]] = Row(up, entry.channels, None)
        if up in aliases:
            rows[up] = Row(up, entry.channels, entry.level - 1, False, aliases[up])
    return rows
