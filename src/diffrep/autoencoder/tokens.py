"""The shift estimator for transformers: what the code adds to the prediction of a frozen network without a U-Net shape.

It reads the maps of a few frozen blocks (`block.*`) and the time embedding, and is itself a short transformer that is
steered by time and code. `shift_for` chooses between it and the estimator that mirrors a U-Net.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from diffrep.autoencoder.shift import Shift, ShiftEstimator
from diffrep.denoiser import InputSpec, Tap
from diffrep.errors import UsageError
from diffrep.networks.blocks import zeroed
from diffrep.networks.dit_blocks import AdaBlock, AdaHead, Gelu, TokenAttention, unpatchify

READS = 4
"""How many frozen blocks are read, evenly spaced, the last one included."""


class TokenShift(Shift):
    """G: image-shaped, zero until it is trained.

    The tokens of each frozen block that is read are normalized and mapped to one width; their sum goes through adaptive
    blocks and a zero-initialised output layer. Time and code enter as a sum, as time and class do in DiT.

    Args:
        taps: what it reads, maps of one resolution; `shift_for` chooses them.
        time_width: width of the frozen network's tap `time`.
        channels: C of the images.
        code_dim: D of the codes.
        size: height of the images, a multiple of the maps' height.
        width: of its tokens; None: that of the last tap.
        depth: number of blocks.
        heads: attention heads; None: as many as leave 64 channels to each, where they divide the width, else one.

    Errors:
        UsageError: no taps, or maps that differ in size or do not divide the images.

    Example:
        >>> shift = TokenShift([Tap("block.2", 32, 4)], time_width=32, channels=4, code_dim=8, size=8)
        >>> shift.reads
        ('time', 'block.2')
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        time_width: int,
        channels: int,
        code_dim: int,
        *,
        size: int,
        width: int | None = None,
        depth: int = 2,
        heads: int | None = None,
    ) -> None:
        super().__init__()
        resolutions = {tap.resolution for tap in taps}
        if len(resolutions) != 1 or size % max(resolutions):
            raise UsageError(
                f"taps of resolutions {sorted(resolutions)} for images of {size} pixels",
                "the token shift needs maps of one size that divides the images'",
            )
        self.code_dim, self.patch = code_dim, size // max(resolutions)
        width = width or taps[-1].channels
        heads = heads or (width // 64 if width % 64 == 0 else 1)
        self._config: dict[str, Any] = {
            "kind": "tokens",
            "taps": [[tap.name, tap.channels, tap.resolution] for tap in taps],
            "time_width": time_width,
            "channels": channels,
            "code_dim": code_dim,
            "size": size,
            "width": width,
            "depth": depth,
            "heads": heads,
        }
        self.names = tuple(tap.name for tap in taps)
        self.time, self.code = nn.Linear(time_width, width), nn.Linear(code_dim, width)
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(tap.channels, elementwise_affine=False), nn.Linear(tap.channels, width))
            for tap in taps
        )
        self.blocks = nn.ModuleList(
            AdaBlock(width, TokenAttention(width, heads), Gelu(width, 4 * width)) for _ in range(depth)
        )
        self.head = AdaHead(width, self.patch**2 * channels)
        zeroed(self.head.linear)

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the taps that `forward` wants."""
        return ("time", *self.names)

    def forward(self, maps: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """G at the level and image whose maps these are.

        Args:
            maps: the frozen network's maps by tap name, at least `self.reads`; block.k is (B, D_k, h, w).
            z: codes, (B, D) or (1, D).

        Returns:
            G, (B, C, H, W).
        """
        emb = self.time(maps["time"]) + self.code(z)
        grid = (maps[self.names[0]].shape[2], maps[self.names[0]].shape[3])
        frozen = (maps[name].flatten(2).transpose(1, 2) for name in self.names)
        read = [layer(tokens) for layer, tokens in zip(self.inputs, frozen, strict=True)]
        tokens: Tensor = sum(read[1:], start=read[0])
        for block in self.blocks:
            tokens = block(tokens, emb)
        return unpatchify(self.head(tokens, emb), grid, self.patch)

    def config(self) -> dict[str, Any]:
        """All arguments, as JSON can hold them; "kind" tells it from the U-Net's estimator."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TokenShift:
        """The fresh estimator that `config()` described."""
        taps = [Tap(name, channels, size) for name, channels, size in config["taps"]]
        return cls(**{k: v for k, v in config.items() if k not in ("kind", "taps")}, taps=taps)


def shift_for(taps: Sequence[Tap], time_width: int, spec: InputSpec, code_dim: int) -> Shift:
    """A fresh shift estimator that fits a frozen network.

    Args:
        taps: the network's, `Denoiser.taps`: a U-Net's `enc.*` and `dec.*`, or a transformer's `block.*`.
        time_width: width of its tap `time`.
        spec: its images.
        code_dim: D of the codes.

    Errors:
        UsageError: the network has neither kind of taps.
    """
    blocks = [tap for tap in taps if tap.name.startswith("block.")]
    if blocks and not any(tap.name.startswith("enc.") for tap in taps):
        return TokenShift(_spread(blocks), time_width, spec.channels, code_dim, size=spec.size)
    return ShiftEstimator(taps, time_width, spec.channels, code_dim)


def shift_from_config(config: dict[str, Any]) -> Shift:
    """The fresh shift estimator that its `config()` described."""
    return TokenShift.from_config(config) if config.get("kind") == "tokens" else ShiftEstimator.from_config(config)


def _spread(taps: Sequence[Tap]) -> list[Tap]:
    """At most READS taps, evenly spaced, the last one included."""
    count = min(READS, len(taps))
    return [taps[len(taps) * k // count - 1] for k in range(1, count + 1)]
