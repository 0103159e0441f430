"""Weighted nearest neighbours, the probe without training (Wu et al. 2018; Caron et al. 2021, DINO)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffrep.errors import UsageError
from diffrep.probes.arrays import chunks
from diffrep.probes.base import Probe

SIMILARITIES = 2**24  # numbers held at a time: 64 MiB in float32


class KNNProbe(Probe):
    """Vote of the k nearest training images by cosine similarity s, each weighted by exp(s / temperature).

    Features are L2-normalised, not standardised. Memory does not grow with the number of rows asked for.

    Args:
        k: neighbours; where there are fewer training images, all of them (`k_` says how many voted).
        temperature: of the votes, above 0; DINO's 0.07.

    After `fit`: `train_` (N, D) normalised features, `target_` (N,) class indices, `k_`.
    """

    learned: ClassVar[tuple[str, ...]] = ("train_", "target_")
    train_: Tensor
    target_: Tensor

    def __init__(self, k: int = 20, temperature: float = 0.07) -> None:
        self.k, self.temperature = k, temperature

    @property
    def k_(self) -> int:
        """How many neighbours vote."""
        return min(self.k, len(self.train_))

    def protocol(self) -> dict[str, Any]:
        """Return what the fitted probe is, JSON-able, with the number of neighbours that vote."""
        return {**super().protocol(), "k_used": self.k_, "images": len(self.train_)}

    def _fit(self, x: Tensor, target: Tensor) -> None:
        if not isinstance(self.k, int) or self.k < 1:
            raise UsageError(f"k={self.k!r}", "give 1 neighbour or more; 20 is usual")
        if not self.temperature > 0:
            raise UsageError(f"temperature={self.temperature!r}", "give a number above 0; 0.07 is usual")
        self.train_, self.target_ = normalize(x, dim=1), target

    def _predict_proba(self, x: Tensor) -> Tensor:
        rows = max(1, SIMILARITIES // len(self.train_))
        return torch.cat([self._votes(some) for some in chunks(x, rows)])

    def _votes(self, x: Tensor) -> Tensor:
        """Normalised votes (N, K); weights relative to the nearest, so that no temperature overflows."""
        near = (normalize(x.to(self.train_), dim=1) @ self.train_.T).topk(self.k_, dim=1)
        similarity = near.values.double()
        weight = torch.exp((similarity - similarity[:, :1]) / self.temperature)
        votes = weight.new_zeros(len(x), len(self.classes_))
        votes.scatter_add_(1, self.target_[near.indices], weight)
        return votes / votes.sum(1, keepdim=True)
