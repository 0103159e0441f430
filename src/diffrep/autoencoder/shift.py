"""The shift estimator G(x_t, z, t): what the code adds to a frozen U-Net's prediction (PDAE 2.3).

It has no encoder of its own. It reads the frozen network's skip maps (`enc.*`) and time embedding, has a fresh middle
and a fresh decoder that mirrors the frozen one block by block, and is modulated by time and by the code. It is built
from the table of taps alone, so any layout with such taps can carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.autoencoder.blocks import ShiftBlock
from diffrep.denoiser import Tap
from diffrep.errors import UsageError
from diffrep.networks.blocks import Attention, QKVOrder, Size, heads_of, norm
from diffrep.networks.unet import Head


class Shift(nn.Module):
    """What every shift estimator has: (maps of the frozen network, codes) -> G, and how to build it again."""

    code_dim: int

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the frozen network's taps that `forward` wants."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """All arguments, as JSON can hold them."""
        raise NotImplementedError


class ShiftEstimator(Shift):
    """G: image-shaped, zero until it is trained.

    It starts at the last `enc` map, the bottom feature, not at `mid`. Decoder block k takes the k-th last `enc` map
    as its skip, has the width and the attention of `dec.k`, and, where the next skip is larger, ends in a block that
    enlarges to that skip's size.

    Args:
        taps: the frozen network's taps, `Denoiser.taps`; `enc.*` and `dec.*` are used.
        time_width: width of its tap `time`.
        channels: C of the images.
        code_dim: D of the codes.
        groups: groups of the normalisation, at most.
        group_width: channels of a group, at least (the official networks have 32 groups whatever the width: 1).
        heads: attention heads; ignored where `head_width` is given.
        head_width: channels of a head.
        order: layout of the attention's q, k and v: "heads" is the official program's old order, "qkv" its new one.
        dropout: probability, while training.

    Errors:
        UsageError: the taps are not those of a U-Net, with as many decoder blocks as skips.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        time_width: int,
        channels: int,
        code_dim: int,
        *,
        groups: int = 32,
        group_width: int = 4,
        heads: int = 1,
        head_width: int | None = None,
        order: QKVOrder = "heads",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        encoder, decoder = _numbered(taps, "enc"), _numbered(taps, "dec")
        if not encoder or len(encoder) != len(decoder):
            raise UsageError(
                f"a network with {len(encoder)} enc taps and {len(decoder)} dec taps is no U-Net",
                "the shift estimator mirrors a U-Net's decoder: one dec block per enc map",
            )
        self.code_dim = code_dim
        self._config: dict[str, Any] = {
            "taps": [[t.name, t.channels, t.resolution, t.attention] for t in (*encoder, *decoder)],
            "time_width": time_width,
            "channels": channels,
            "code_dim": code_dim,
            "groups": groups,
            "group_width": group_width,
            "heads": heads,
            "head_width": head_width,
            "order": order,
            "dropout": dropout,
        }
        self.skips = tuple(tap.name for tap in reversed(encoder))
        kind = norm(groups, least=group_width)
        block = partial(ShiftBlock, time_width=time_width, norm=kind, dropout=dropout)

        def attention(width: int) -> Attention:
            return Attention(width, heads_of(width, head_width, heads), norm=kind, order=order, zero=True)

        width = encoder[-1].channels
        self.code = nn.Linear(code_dim, time_width)
        self.middle = nn.ModuleDict(
            {"first": block(width, width), "attention": attention(width), "last": block(width, width)}
        )
        self.decoder = _levels(encoder, decoder, block, attention)
        self.head = Head(decoder[-1].channels, channels, kind, zero=True)

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the taps that `forward` wants."""
        return ("time", *reversed(self.skips))

    def forward(self, maps: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """G at the level and image whose maps these are.

        Args:
            maps: the frozen network's maps by tap name, at least `self.reads`; enc.k is (B, C_k, H_k, W_k).
            z: codes, (B, D) or (1, D).

        Returns:
            G, (B, C, H, W).
        """
        time, code = maps["time"], self.code(z)
        skips = [maps[name] for name in self.skips]
        h = self.middle["first"](skips[0], time, code)
        h = self.middle["last"](self.middle["attention"](h), time, code)
        for block, skip, following in zip(self.decoder, skips, [*skips[1:], skips[-1]], strict=True):
            h = block(torch.cat([h, skip], dim=1), time, code, following.shape[-2:])
        out: Tensor = self.head(h)
        return out

    def config(self) -> dict[str, Any]:
        """All arguments, as JSON can hold them."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ShiftEstimator:
        """The fresh estimator that `config()` described."""
        taps = [Tap(name, channels, size, attention) for name, channels, size, attention in config["taps"]]
        return cls(**{**config, "taps": taps})


class ShiftLevel(nn.Module):
    """One decoder block: residual, attention where the frozen one has it, enlarging where the size changes."""

    def __init__(self, block: ShiftBlock, attention: Attention | None, up: ShiftBlock | None) -> None:
        super().__init__()
        self.block, self.attention, self.up = block, attention, up

    def forward(self, h: Tensor, time: Tensor, code: Tensor, size: Size) -> Tensor:
        """(B, C + skip, H, W) -> (B, C', *size)."""
        h = self.block(h, time, code)
        if self.attention is not None:
            h = self.attention(h)
        return h if self.up is None else self.up(h, time, code, size)


def _levels(
    encoder: Sequence[Tap],
    decoder: Sequence[Tap],
    block: Callable[[int, int], ShiftBlock],
    attention: Callable[[int], Attention],
) -> nn.ModuleList:
    """One `ShiftLevel` per decoder block; skip k is the k-th last encoder map."""
    levels, skips, width = nn.ModuleList(), [*reversed(encoder)], encoder[-1].channels
    for skip, tap, following in zip(skips, decoder, [*skips[1:], skips[-1]], strict=True):
        up = block(tap.channels, tap.channels) if following.resolution != skip.resolution else None
        attends = attention(tap.channels) if tap.attention else None
        levels.append(ShiftLevel(block(width + skip.channels, tap.channels), attends, up))
        width = tap.channels
    return levels


def _numbered(taps: Sequence[Tap], prefix: str) -> list[Tap]:
    """The taps `prefix.1`, `prefix.2`, ... in the order of their numbers."""
    chosen = [tap for tap in taps if tap.name.startswith(f"{prefix}.")]
    return sorted(chosen, key=lambda tap: int(tap.name.split(".")[1]))
