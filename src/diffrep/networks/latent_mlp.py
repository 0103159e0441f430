"""The network of latent diffusion models: an MLP with skips, for codes instead of images.

Of Diff-AE (Preechakul et al. 2022, section 4.1); PDAE has the same with a skip into every layer but the first
(its section 2.4 in the specification: 54 M parameters at 10 layers, the defaults).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import known, sinusoid
from diffrep.networks.network import Network, Place, layout

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "relu": F.relu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
    "tanh": torch.tanh,
    "none": nn.Identity(),
}


class CodeTime(nn.Module):
    """Sinusoid and `layers` linear layers with an activation between them, and after the last if `last` is set."""

    def __init__(self, wave_width: int, width: int, layers: int, activation: Activation, last: bool) -> None:
        super().__init__()
        self.wave_width, self.count, self.width = wave_width, layers, width
        self.activation, self.last = activation, last
        for k in range(1, layers + 1):
            self.add_module(f"linear{k}", nn.Linear(width if k > 1 else wave_width, width))

    def forward(self, time: Tensor) -> Tensor:
        """Embed times (B,) into (B, width)."""
        layers = [self.get_submodule(f"linear{k}") for k in range(1, self.count + 1)]
        emb = sinusoid(time, self.wave_width).to(next(self.parameters()).dtype)
        for k, layer in enumerate(layers, start=1):
            emb = layer(emb)
            emb = self.activation(emb) if self.last or k < self.count else emb
        return emb


class LatentLayer(nn.Module):
    """Linear, scaled by time, LayerNorm, activation, dropout; the last layer is the linear part alone."""

    def __init__(
        self,
        width: int,
        out: int,
        time_width: int,
        *,
        last: bool,
        norm: bool,
        bias: float,
        dropout: float,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.scale = None if last else nn.Linear(time_width, out)
        self.norm = nn.Identity() if last or not norm else nn.LayerNorm(out)
        self.dropout = nn.Dropout(dropout)
        self.bias, self.activation = bias, activation

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Map h (B, width) to (B, out)."""
        out: Tensor = self.linear(h)
        if self.scale is None:
            return out
        scaled = out * (self.bias + self.scale(self.activation(emb)))
        activated: Tensor = self.dropout(self.activation(self.norm(scaled)))
        return activated


class LatentMLP(Network):
    """See `latent_mlp`."""

    def __init__(self, time: CodeTime, layers: Sequence[LatentLayer], skips: Sequence[int], last: Activation) -> None:
        super().__init__()
        self.config = {}
        self.time_width = time.width
        self.time = time
        self.layers = nn.ModuleList(layers)
        self.skips, self.last = frozenset(skips), last

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from noisy codes x (B, D) and time (B,): (B, D). Codes have no labels: y is not used."""
        emb = self.time(time)
        h = x
        for i, layer in enumerate(self.layers):
            h = layer(torch.cat([h, x], dim=1) if i in self.skips else h, emb)
        return self.last(h)

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
    activation: str = "silu",
    last_activation: str = "none",
    time_layers: int = 2,
    time_last_activation: bool = False,
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
        activation: one of `ACTIVATIONS`.
        last_activation: of the result.
        time_layers: linear layers of the time embedding.
        time_last_activation: whether an activation follows the last of these.

    Example:
        >>> sum(p.numel() for p in latent_mlp().parameters())
        54109696
    """
    if layers < 2 or time_layers < 1:
        raise ValueError(f"layers is {layers}, time_layers {time_layers}, but at least 2 and 1 are needed")
    act = ACTIVATIONS[known(activation, "activation", ACTIVATIONS)]
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
            activation=act,
        )
        for i in range(layers)
    ]
    time = CodeTime(wave_width, code_dim, time_layers, act, time_last_activation)
    return LatentMLP(time, made, seen, ACTIVATIONS[known(last_activation, "last_activation", ACTIVATIONS)])
