"""The network of latent diffusion models: an MLP with skips, for codes instead of images.

Of Diff-AE (Preechakul et al. 2022, section 4.1); PDAE has the same with a skip into every layer but the first
(its section 2.4 in the specification: 54 M parameters at 10 layers, the defaults).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import TimeEmbedding
from diffrep.networks.unet import Network, Place, layout


class LatentLayer(nn.Module):
    """Linear, scaled by time, LayerNorm, SiLU, dropout; the last layer is the linear part alone."""

    def __init__(
        self, width: int, out: int, time_width: int, *, last: bool, norm: bool, bias: float, dropout: float
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.scale = None if last else nn.Linear(time_width, out)
        self.norm = nn.Identity() if last or not norm else nn.LayerNorm(out)
        self.dropout = nn.Dropout(dropout)
        self.bias = bias

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Map h (B, width) to (B, out)."""
        out: Tensor = self.linear(h)
        if self.scale is None:
            return out
        scaled = out * (self.bias + self.scale(F.silu(emb)))
        activated: Tensor = self.dropout(F.silu(self.norm(scaled)))
        return activated


class LatentMLP(Network):
    """See `latent_mlp`."""

    def __init__(self, time: TimeEmbedding, layers: Sequence[LatentLayer], skips: Sequence[int]) -> None:
        super().__init__()
        self.config = {}
        self.time_width = time.linear2.out_features
        self.time = time
        self.layers = nn.ModuleList(layers)
        self.skips = frozenset(skips)

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from noisy codes x (B, D) and time (B,): (B, D). Codes have no labels: y is not used."""
        emb = self.time(time)
        h = x
        for i, layer in enumerate(self.layers):
            h = layer(torch.cat([h, x], dim=1) if i in self.skips else h, emb)
        return h

    def places(self, size: tuple[int, int]) -> tuple[Place, ...]:
        """None: there are no maps inside."""
        return ()


@layout
def latent_mlp(
    *,
    code_dim: int = 512,
    hidden: int = 2048,
    layers: int = 10,
    skips: Sequence[int] | None = None,
    wave_width: int = 64,
    use_norm: bool = True,
    bias: float = 1.0,
    dropout: float = 0.0,
) -> LatentMLP:
    """Build the network of a latent diffusion model.

    Args:
        code_dim: D, also the width of the time embedding.
        hidden: width of all layers but the last.
        layers: number of layers, at least 2.
        skips: layers, counted from 0, that see the input beside what the layer before gave; None: all but the first.
        wave_width: width of the sinusoid.
        use_norm: LayerNorm in all layers but the last.
        bias: a layer is scaled by bias + linear(time).
        dropout: after each activation.

    Example:
        >>> sum(p.numel() for p in latent_mlp().parameters())
        54109696
    """
    if layers < 2:
        raise ValueError(f"layers is {layers}, but an input and an output layer are needed")
    seen = list(range(1, layers)) if skips is None else list(skips)
    made = [
        LatentLayer(
            (hidden if i else code_dim) + (code_dim if i in seen else 0),
            hidden if i < layers - 1 else code_dim,
            code_dim,
            last=i == layers - 1,
            norm=use_norm,
            bias=bias,
            dropout=dropout,
        )
        for i in range(layers)
    ]
    return LatentMLP(TimeEmbedding(wave_width, code_dim), made, seen)
