"""The semantic encoder: an image in, its code z out.

Strided convolutions, attention at one place, an adaptive pool and a linear layer (PDAE 2.2). The pool makes any size
and shape go; where the map arrives at the pool's size, it changes nothing, so the official weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.errors import UsageError
from diffrep.networks.blocks import Attention, norm


class SemanticEncoder(nn.Module):
    """Maps images (B, C, H, W), in [-1, 1], to codes (B, D).

    Args:
        channels: C of the images.
        code_dim: D.
        widths: output channels of the convolutions, in order.
        strides: stride of each convolution; one number for all.
        attention: after which convolution, counted from 1, attention stands; None for none.
        heads: its number of heads.
        pool_size: the map is averaged to pool_size x pool_size before it is flattened.
        groups: groups of the normalisation, at most.
        group_width: channels of a group, at least (the official networks have 32 groups whatever the width: 1).

    Example:
        The official encoders of 64- and 128-pixel images:

        >>> small = SemanticEncoder(3, 512, (64, 128, 128, 128), attention=2, group_width=1)
        >>> large = SemanticEncoder(3, 512, (64, 128, 256, 256, 256), attention=3, group_width=1)
    """

    def __init__(
        self,
        channels: int,
        code_dim: int,
        widths: Sequence[int] = (64, 128, 128, 128),
        *,
        strides: int | Sequence[int] = 2,
        attention: int | None = None,
        heads: int = 4,
        pool_size: int = 4,
        groups: int = 32,
        group_width: int = 4,
    ) -> None:
        super().__init__()
        steps = [strides] * len(widths) if isinstance(strides, int) else list(strides)
        if not widths or len(steps) != len(widths):
            raise UsageError(f"{len(steps)} strides for {len(widths)} convolutions", "give one stride per width")
        if attention is not None and not 1 <= attention <= len(widths):
            raise UsageError(f"attention after convolution {attention}", f"expected 1 to {len(widths)}, or None")
        self._config: dict[str, Any] = {
            "channels": channels,
            "code_dim": code_dim,
            "widths": list(widths),
            "strides": steps,
            "attention": attention,
            "heads": heads,
            "pool_size": pool_size,
            "groups": groups,
            "group_width": group_width,
        }
        self.code_dim, self.pool_size = code_dim, pool_size
        kind = norm(groups, least=group_width)
        layers: list[nn.Module] = []
        for k, (inputs, outputs, step) in enumerate(zip([channels, *widths], widths, steps, strict=False), start=1):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=step, padding=1))
            if k == attention:
                layers.append(Attention(outputs, heads, norm=kind, zero=True))
            layers += [kind(outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] * pool_size**2, code_dim)

    @classmethod
    def small(cls, channels: int, code_dim: int, size: int, base: int = 32) -> SemanticEncoder:
        """The preset for small images: halved until 4x4 is near, widths from `base` up to four times it.

        Args:
            channels: C of the images.
            code_dim: D.
            size: the images' usual height; others go too.
            base: width of the first convolution.
        """
        halvings = 0
        while -(-size // 2) >= 4 and halvings < 6:
            size, halvings = -(-size // 2), halvings + 1
        widths = [min(base * 2**k, 4 * base) for k in range(halvings + 1)]
        return cls(channels, code_dim, [*widths, widths[-1]], strides=[1, *[2] * halvings, 1])

    def forward(self, x0: Tensor) -> Tensor:
        """Images (B, C, H, W) to codes (B, D)."""
        features: Tensor = self.layers(x0)
        if features.shape[-2:] != (self.pool_size, self.pool_size):
            features = F.adaptive_avg_pool2d(features, self.pool_size)
        code: Tensor = self.head(features.reshape(len(features), -1))
        return code

    def config(self) -> dict[str, Any]:
        """All arguments, as JSON can hold them."""
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SemanticEncoder:
        """The fresh encoder that `config()` described."""
        return cls(**config)
