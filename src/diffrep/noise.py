"""Noise levels: the one currency in which everything in diffrep speaks about noise.

A level is the pair (alpha, sigma) of x_t = alpha * x_0 + sigma * eps. Three conventions are in use: "vp" with
alpha^2 + sigma^2 = 1, "ve" with alpha = 1, and "flow" with alpha + sigma = 1. Levels of equal log-SNR carry the
same information, and x_t is converted between conventions by a factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffrep.errors import UsageError

CONVENTIONS = ("vp", "ve", "flow")

Numbers = Tensor | float | Sequence[float]


@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """A noise level, or several: x_t = alpha * x_0 + sigma * eps.

    Args:
        alpha: factor of the image, >= 0; shape (), (B,) or (K,). Numbers, lists and arrays become float64.
        sigma: factor of the noise, >= 0; same shape.

    Errors:
        UsageError: another shape, or a part that is negative or NaN.

    Example:
        >>> NoiseLevel(0.8, 0.6).log_snr
        tensor(0.5754, dtype=torch.float64)
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(self, alpha: Numbers, sigma: Numbers) -> None:
        a, s = _tensor(alpha), _tensor(sigma)
        a, s = a.expand_as(a * s), s.expand_as(a * s)
        if a.ndim > 1:
            raise UsageError(f"a noise level has shape {tuple(a.shape)}", "expected () or one axis: (B,) or (K,)")
        if not (bool((a >= 0).all()) and bool((s >= 0).all())):
            raise UsageError(f"a noise level has a negative part or NaN: alpha {a.tolist()}, sigma {s.tolist()}")
        object.__setattr__(self, "alpha", a)
        object.__setattr__(self, "sigma", s)

    @classmethod
    def from_log_snr(cls, log_snr: Numbers) -> NoiseLevel:
        """The variance-preserving level of this log-SNR."""
        return cls.of(_tensor(log_snr), "vp")

    @classmethod
    def from_sigma(cls, sigma: Numbers) -> NoiseLevel:
        """The variance-exploding level: alpha = 1."""
        s = _tensor(sigma)
        return cls(torch.ones_like(s), s)

    @classmethod
    def of(cls, log_snr: Tensor, convention: str) -> NoiseLevel:
        """The level of this log-SNR in a convention: "vp", "ve" or "flow"."""
        half = log_snr / 2
        if convention == "vp":
            return cls(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())
        if convention == "flow":
            return cls(torch.sigmoid(half), torch.sigmoid(-half))
        return cls(torch.ones_like(half), torch.exp(-half))

    @property
    def log_snr(self) -> Tensor:
        """2 (ln alpha - ln sigma), in float64; infinite for a clean image and for pure noise."""
        return 2 * (self.alpha.double().log() - self.sigma.double().log())

    @property
    def snr(self) -> Tensor:
        """(alpha / sigma)^2, in float64."""
        return (self.alpha.double() / self.sigma.double()) ** 2

    @property
    def shape(self) -> torch.Size:
        """() for one level, (B,) or (K,) for several."""
        return self.alpha.shape

    def like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma in x's dtype and device, shaped to broadcast over x (B, ...).

        Errors:
            UsageError: if there are several levels, but not one per sample of x.
        """
        shape = self.shape if not self.shape else (*self.shape, *[1] * (x.ndim - 1))
        if self.shape and self.shape[0] not in (1, x.shape[0]):
            raise UsageError(
                f"{self.shape[0]} noise levels for {x.shape[0]} images",
                "give one level, or one per image; iterate over more",
            )
        dtype = x.dtype if x.is_floating_point() else torch.float32
        alpha, sigma = (part.to(x.device, dtype).reshape(shape) for part in (self.alpha, self.sigma))
        return alpha, sigma

    def to(self, device: torch.device | str) -> NoiseLevel:
        """The same level on another device."""
        return NoiseLevel(self.alpha.to(device), self.sigma.to(device))

    def expand(self, n: int) -> NoiseLevel:
        """One level per sample: shape () or (n,) becomes (n,)."""
        return NoiseLevel(self.alpha.expand(n), self.sigma.expand(n))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single noise level has no length")
        return self.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> NoiseLevel:
        return NoiseLevel(self.alpha[index], self.sigma[index])

    def __iter__(self) -> Iterator[NoiseLevel]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        return f"NoiseLevel(alpha={self.alpha.tolist()}, sigma={self.sigma.tolist()})"


def stack(levels: list[NoiseLevel]) -> NoiseLevel:
    """Join single levels and rows of levels into one row (K,)."""
    return NoiseLevel(
        torch.cat([level.alpha.reshape(-1) for level in levels]),
        torch.cat([level.sigma.reshape(-1) for level in levels]),
    )


def _tensor(value: Numbers) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
