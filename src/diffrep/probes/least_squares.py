"""Ridge systems (gram + l2 I) w = rhs: all penalties by one eigendecomposition, or one by Cholesky.

The gram matrix is either of the features (D, D), where there are more images than features, or of the images
(N, N), where there are more features than images; the solution is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from diffrep.probes.arrays import chunks, is_constant

RESIDUAL = 1e-9  # relative to the right-hand side: above it Cholesky's solution is not used


@dataclass(frozen=True)
class Moments:
    """Sums over images that determine ridge, float64. They add up, so that folds share them.

    count images; counts (K,) per class; total (D,) and gram (D, D) of the shifted features; cross (D, K) sums
    of shifted features per class.
    """

    count: int
    counts: Tensor
    total: Tensor
    gram: Tensor
    cross: Tensor

    @classmethod
    def of(cls, x: Tensor, target: Tensor, classes: int, shift: Tensor) -> Moments:
        """Sum over images; features are relative to `shift` (D,), near their mean, to lose no digits."""
        width = x.shape[1]
        total, gram = x.new_zeros(width, dtype=torch.float64), x.new_zeros(width, width, dtype=torch.float64)
        cross = x.new_zeros(width, classes, dtype=torch.float64)
        for rows, some in zip(chunks(x), chunks(target), strict=True):
            z = rows.double() - shift
            total += z.sum(0)
            gram.addmm_(z.T, z)
            cross.addmm_(z.T, one_hot(some, classes).double())
        return cls(len(x), torch.bincount(target, minlength=classes).double(), total, gram, cross)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.counts + other.counts,
            self.total + other.total,
            self.gram + other.gram,
            self.cross + other.cross,
        )

    def standardised(self, shift: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and scale (D,) of the features; gram (D, D) and cross (D, K) once they are standardised.

        Targets are in {-1, 1} and centred. Columns whose variance is only rounding are constant, and zero.
        """
        offset = self.total / self.count
        second = self.gram.diagonal() / self.count
        var = (second - offset**2).clamp_min(0)
        constant = (var <= 1e-12 * second) | is_constant(var, offset + shift, self.count)
        scale = torch.where(constant, 1.0, var.sqrt())
        weight = ~constant / scale
        gram = (self.gram - self.count * offset[:, None] * offset) * (weight[:, None] * weight)
        cross = 2 * (self.cross - offset[:, None] * self.counts) * weight[:, None]
        return offset + shift, scale, gram, cross


def others(parts: Sequence[Moments], skip: int) -> Moments:
    """Add up all but one part: by addition only, which loses no digits to an outlier in the part left out."""
    rest = [part for i, part in enumerate(parts) if i != skip]
    out = rest[0]
    for part in rest[1:]:
        out = out + part
    return out


def solve(gram: Tensor, rhs: Tensor, l2: float) -> tuple[Tensor, str]:
    """Solve for one penalty by Cholesky; by eigenvectors where that fails or leaves a residual above 1e-9.

    Args:
        gram: symmetric, positive semi-definite (M, M), float64.
        rhs: (M, K).
        l2: penalty, 0 or more; with 0 the solution of least norm.

    Returns:
        The solution (M, K), and "cholesky" or "eigen": how it was found.
    """
    matrix = gram + l2 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not int(failed):
        w = torch.cholesky_solve(rhs, factor)
        if bool((matrix @ w - rhs).norm() <= RESIDUAL * rhs.norm()):
            return w, "cholesky"
    return solve_all(gram, rhs, [l2])[0], "eigen"


def solve_all(gram: Tensor, rhs: Tensor, penalties: Sequence[float]) -> Tensor:
    """Solve for every penalty with one eigendecomposition.

    Args:
        gram: symmetric, positive semi-definite (M, M), float64.
        rhs: (M, K).
        penalties: P numbers, 0 or more.

    Returns:
        (P, M, K). Directions that are only rounding get no weight, as in a pseudo-inverse.
    """
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    l2 = torch.tensor(penalties, dtype=gram.dtype, device=gram.device)[:, None]
    rounding = torch.finfo(gram.dtype).eps * len(gram) * values[-1]
    damped = values + l2  # (P, M)
    gain = torch.where(damped > rounding, 1 / damped.clamp_min(torch.finfo(gram.dtype).tiny), 0.0)
    projected: Tensor = vectors.T @ rhs
    return torch.matmul(vectors, gain[:, :, None] * projected)
