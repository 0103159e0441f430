"""What a denoiser takes: pixels of a size and range, or latents, and how these are made of a VAE's.

Most programs multiply by one number that stands in the VAE's own config (Stable Diffusion, DiT, SiT: 0.18215). Where a
model has numbers of its own (EDM2, LightningDiT), they belong to its `InputSpec` and travel with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentScaling:
    """A model's latents are (z - shift) * scale of what the VAE makes of pixels.

    Args:
        shift: one number per channel, or one for all.
        scale: likewise.
        pixels: what 0 and 255 become before the VAE sees them.

    Errors:
        ValueError: numbers that are not finite, or a scale of 0.

    Example:
        >>> import torch
        >>> LatentScaling((1.0,), (0.5,)).normalize(torch.full((1, 4, 1, 1), 3.0))[0, 0].item()
        1.0
    """

    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    pixels: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.shift, *self.scale))) or 0 in self.scale:
            raise ValueError(f"latents are shifted by {self.shift} and scaled by {self.scale}")

    def normalize(self, z: Tensor) -> Tensor:
        """Latents as the VAE gives them, (B, C, H, W), to what the model takes."""
        return (z - _column(self.shift, z)) * _column(self.scale, z)

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return x / _column(self.scale, x) + _column(self.shift, x)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LatentScaling:
        """The scaling whose `dataclasses.asdict` this is, also read back from JSON."""
        return cls(**{name: tuple(value) for name, value in config.items()})


@dataclass(frozen=True)
class InputSpec:
    """What a denoiser takes: (B, channels, size, size) with values in `range`; `latent` if these are no pixels.

    `scaling` says how its latents are made of a VAE's, where that is not in the VAE's own config.
    """

    channels: int
    size: int
    range: tuple[float, float] = (-1.0, 1.0)
    latent: bool = False
    scaling: LatentScaling | None = None

    def config(self) -> dict[str, Any]:
        """All that is said, as JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> InputSpec:
        """The input that `config()` described, also read back from JSON."""
        scaling = LatentScaling.from_config(config["scaling"]) if config.get("scaling") else None
        return cls(**{**config, "range": tuple(config["range"]), "scaling": scaling})


def _column(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)
