"""What every semantic autoencoder can do, whatever it is made of."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from diffrep.autoencoder.edit import CodeStats
from diffrep.denoiser import InputSpec
from diffrep.randomness import Noise
from diffrep.schedules import Schedule


@runtime_checkable
class Autoencoder(Protocol):
    """Images to codes, codes to denoisers, and back to images."""

    code_stats: CodeStats | None
    prior: nn.Module | None
    classifier: nn.Module | None

    @property
    def schedule(self) -> Schedule:
        """The noise levels that its decoder knows."""

    @property
    def input(self) -> InputSpec:
        """Channels, size and range of its images."""

    def encode(self, x0: Tensor) -> Tensor:
        """Images (B, C, H, W) to codes (B, D)."""

    def at(self, z: Tensor) -> nn.Module:
        """The denoiser that these codes make."""

    def decode(self, z: Tensor, x_T: Tensor | None = None, *, steps: int = 50, noise: Noise | None = None) -> Tensor:
        """Codes (B, D), and x_T or noise, to images (B, C, H, W)."""

    def invert(self, x0: Tensor, z: Tensor, *, steps: int = 100) -> Tensor:
        """The x_T from which `decode` rebuilds these images."""

    def interpolate(self, a: Tensor, b: Tensor, *, num_frames: int = 8, steps: int = 50) -> Tensor:
        """A way from images a to images b, both ends included; the frames come first."""
