"""EDM2's U-Net (Karras et al. 2024, arXiv 2312.02696, configuration G): magnitude-preserving, without biases.

The outline is EDM's ADM with attention at 16 and 8 pixels. The defaults are EDM2-S for latents of 512-pixel images,
without classes. The tap `time` is what the embedding gives before its activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diffrep.networks.blocks import Size, double, halve
from diffrep.networks.edm2_blocks import BlockSettings, MPBlock, MPConv, MPEmbedding, mp_cat, mp_silu
from diffrep.networks.edm_blocks import PlainMiddle
from diffrep.networks.edm_unet import places_of, rows_of
from diffrep.networks.network import Network, Place, layout
from diffrep.networks.unet import Body, Entry, Shape


class EDM2(Network):
    """EDM2's U-Net as a plain network: (x, time, y) -> output.

    Args:
        time: embeds noise level and labels.
        inside: encoder, middle, decoder; the first convolution takes one channel more, which is all ones.
        head: the output convolution.
        skip_balance: weight of the skips in the decoder's concatenations.
        time_width: width of the embedding.
    """

    def __init__(self, *, time: MPEmbedding, inside: Body, head: MPConv, skip_balance: float, time_width: int) -> None:
        super().__init__()
        self.time_width, self.skip_balance, self.rows = time_width, skip_balance, rows_of(inside)
        self.time = time
        self.enc = nn.ModuleDict({str(k): entry.module for k, entry in enumerate(inside.enc, start=1)})
        self.mid = inside.mid.module
        self.dec = nn.ModuleDict({str(k): entry.module for k, entry in enumerate(inside.dec, start=1)})
        self.up = nn.ModuleDict({str(k): module for k, module in inside.up.items()})
        self.head = head
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            x: images or latents, (B, C, H, W); any H and W.
            time: what the network was trained to see as time, (B,).
            y: class labels, (B,); without them the label is a row of zeros.

        Returns:
            (B, C, H, W).
        """
        emb = mp_silu(self.time(time, y))
        stem, *blocks = self.enc.values()
        skips: list[Tensor] = [stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))]
        for block in blocks:
            skips.append(block(skips[-1], emb))
        h: Tensor = self.mid(skips[-1], emb)
        for k, block in self.dec.items():
            h = block(mp_cat(h, skips.pop(), self.skip_balance), emb)
            if k in self.up:
                h = self.up[k](h, emb, tuple(skips[-1].shape[-2:]))
        out: Tensor = self.head(h, self.gain)
        return out

    def places(self, size: Size) -> tuple[Place, ...]:
        """The taps for images of `size` (height, width), in the order in which they are computed."""
        return places_of(self.rows, self.time_width, size)


@layout
def edm2(
    *,
    image_channels: int = 4,
    channels: int = 192,
    multipliers: Sequence[int] = (1, 2, 3, 4),
    attention: Sequence[bool] = (False, False, True, True),
    blocks: int = 3,
    head_width: int = 64,
    classes: int | None = None,
    dropout: float = 0.0,
    noise_width: int | None = None,
    time_width: int | None = None,
    label_balance: float = 0.5,
    skip_balance: float = 0.5,
    balance: float = 0.3,
    attention_balance: float = 0.3,
    clip: float | None = 256.0,
) -> EDM2:
    """Build EDM2's U-Net.

    Args:
        image_channels: channels of image (or latent) and prediction.
        channels: base width (XS 128, S 192, M 256, L 320, XL 384, XXL 448); level k has multipliers[k] times as many.
        multipliers: one per level, from the full resolution down.
        attention: whether the blocks of a level end in attention; the first middle block always does.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        head_width: channels per attention head; a level narrower than one head has no attention (as official).
        classes: number of classes, None for an unconditional network.
        dropout: in every residual block.
        noise_width: number of cosines of the noise level; None: the width of the first level.
        time_width: width of the embedding; None: the width of the widest level.
        label_balance: weight of the label in the embedding.
        skip_balance: weight of the skips in the decoder's concatenations.
        balance: weight of residual branches.
        attention_balance: weight of what attention adds.
        clip: blocks clip their outputs to [-clip, clip]; None for no clipping.

    Example:
        >>> edm2(channels=64, multipliers=(1, 1), attention=(False, True)).time_width
        64
    """
    widths = [channels * m for m in multipliers]
    wide = time_width or max(widths)
    settings = BlockSettings(wide, dropout, balance, attention_balance, head_width, clip)
    shape = Shape(image_channels, widths[0], widths, attention, blocks)
    return EDM2(
        time=MPEmbedding(noise_width or widths[0], wide, classes, label_balance),
        inside=_Outline(shape, settings).body(),
        head=MPConv(widths[0], image_channels, 3),
        skip_balance=skip_balance,
        time_width=wide,
    )


@dataclass(frozen=True)
class _Outline:
    """The outline of `networks.unet.body` with EDM2's blocks, whose attention is inside of them."""

    shape: Shape
    settings: BlockSettings

    def body(self) -> Body:
        enc = self._encoder()
        width, lowest = enc[-1].channels, len(self.shape.widths) - 1
        block = partial(MPBlock, width, width, self.settings, encoder=False)
        mid = Entry(PlainMiddle(block(attends=True), block()), width, lowest, self.settings.heads(width) > 0)
        dec, up = self._decoder([entry.channels for entry in enc])
        return Body(enc, mid, dec, up)

    def _block(self, channels: int, level: int, encoder: bool) -> Entry:
        width = self.shape.widths[level]
        attends = self.shape.attention[level] and self.settings.heads(width) > 0
        block = MPBlock(channels, width, self.settings, encoder=encoder, attends=attends)
        return Entry(block, width, level, attends)

    def _encoder(self) -> list[Entry]:
        enc = [Entry(MPConv(self.shape.image_channels + 1, self.shape.stem, 3), self.shape.stem, 0)]
        for level in range(len(self.shape.widths)):
            width = enc[-1].channels
            if level > 0:
                enc.append(Entry(MPBlock(width, width, self.settings, encoder=True, resample=halve), width, level))
            for _ in range(self.shape.blocks):
                enc.append(self._block(enc[-1].channels, level, encoder=True))
        return enc

    def _decoder(self, skips: list[int]) -> tuple[list[Entry], dict[int, nn.Module]]:
        dec: list[Entry] = []
        up: dict[int, nn.Module] = {}
        width = skips[-1]
        for level in reversed(range(len(self.shape.widths))):
            for _ in range(self.shape.blocks + 1):
                dec.append(self._block(width + skips.pop(), level, encoder=False))
                width = dec[-1].channels
            if level > 0:
                up[len(dec)] = MPBlock(width, width, self.settings, encoder=False, resample=double)
        return dec, up
