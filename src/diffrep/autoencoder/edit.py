"""Arithmetic on codes and on x_T: ways between two images, and directions that mean something (PDAE 1.11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffrep.errors import UsageError

SMALL_ANGLE = 1e-4
"""Below this sine of the angle a great circle is a straight line to float32's precision."""


@dataclass(frozen=True)
class CodeStats:
    """Mean and standard deviation of codes, (D,) each, over a training set; the unit of `edit`."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, codes: Tensor) -> CodeStats:
        """Of codes (N, D), N >= 2, unbiased as in the official program; a constant coordinate gets std 1."""
        if codes.ndim != 2 or len(codes) < 2:
            raise UsageError(f"statistics of codes of shape {tuple(codes.shape)}", "expected (N, D) with N >= 2")
        std = codes.std(0)
        return cls(codes.mean(0), torch.where(std > 0, std, torch.ones_like(std)))

    def standardize(self, z: Tensor) -> Tensor:
        """(z - mean) / std, (B, D)."""
        return (z - self.mean.to(z)) / self.std.to(z)

    def restore(self, standardized: Tensor) -> Tensor:
        """The inverse of `standardize`."""
        return standardized * self.std.to(standardized) + self.mean.to(standardized)


def direction(codes: Tensor, present: Tensor, stats: CodeStats) -> Tensor:
    """What tells images with an attribute from those without: the difference of their mean standardized codes, (D,).

    Args:
        codes: (N, D).
        present: (N,) bool, both values occurring.
        stats: of the training set.
    """
    chosen = present.to(torch.bool)
    if not bool(chosen.any()) or bool(chosen.all()):
        raise UsageError(
            "a direction needs images with the attribute and images without", f"{int(chosen.sum())} of {len(chosen)}"
        )
    standardized = stats.standardize(codes)
    return standardized[chosen].mean(0) - standardized[~chosen].mean(0)


def edit(z: Tensor, along: Tensor, scale: float, stats: CodeStats) -> Tensor:
    """Move codes along a direction of standardized code space: z~ + scale * sqrt(D) * w / |w| (PDAE 1.11).

    Args:
        z: (B, D).
        along: w, (D,): a row of a linear classifier on standardized codes, or `direction`.
        scale: how far, in standard deviations per coordinate; its sign adds or removes. Official: -0.3 to 0.3.
        stats: of the training set.

    Returns:
        (B, D). The official program takes sqrt(512) whatever D is.
    """
    unit = along.to(z) / along.to(z).norm().clamp_min(1e-12)
    return stats.restore(stats.standardize(z) + scale * z.shape[1] ** 0.5 * unit)


def lerp(u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """(1 - weight) u + weight v; u and v (B, ...), weight (B,) or ()."""
    w = _column(weight, u)
    return (1 - w) * u + w * v


def slerp(u: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """Along the great circle from u to v, one angle per pair of whole images (PDAE 1.11).

    Between nearly parallel vectors the straight line is taken, where the official program divides by zero.

    Args:
        u: (B, ...).
        v: (B, ...).
        weight: 0 at u, 1 at v; (B,) or ().
    """
    flat_u, flat_v = u.double().flatten(1), v.double().flatten(1)
    cosine = (flat_u * flat_v).sum(1) / (flat_u.norm(dim=1) * flat_v.norm(dim=1)).clamp_min(1e-30)
    angle = _column(cosine.clamp(-1, 1).arccos(), u.double())
    w = _column(weight, u.double())
    near = angle.sin() < SMALL_ANGLE
    sine = torch.where(near, torch.ones_like(angle), angle.sin())
    round_way = u.double() * ((1 - w) * angle).sin() / sine + v.double() * (w * angle).sin() / sine
    return torch.where(near, lerp(u.double(), v.double(), weight), round_way).to(u.dtype)


def _column(weight: Tensor, like: Tensor) -> Tensor:
    w = weight.to(like)
    return w.reshape(-1, *[1] * (like.ndim - 1)) if w.ndim else w
