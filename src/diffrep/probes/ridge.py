"""Ridge on labels in {-1, 1}: the closed-form probe that ranks a whole grid of taps and levels in seconds."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from diffrep.probes.arrays import Array, ArrayIn, chunked_mean, chunks, distinct, like, standardisation
from diffrep.probes.base import Penalty, Probe, usable_folds
from diffrep.probes.least_squares import Moments, others, solve, solve_all


class RidgeProbe(Probe):
    """Least squares on one-hot labels in {-1, 1}, with standardised features and an unpenalised intercept.

    Equals scikit-learn's `make_pipeline(StandardScaler(), Ridge(alpha=l2))` on the same targets, in float64.

    Args:
        l2: penalty on the weights of standardised features, 0 or more; "cv", or a list, for the best of
            several by cross-validation within the training data, ties to the stronger.
        folds: of that cross-validation.
        seed: of its folds.

    After `fit`: `coef_` (D, K) and `intercept_` (K,) for standardised features, `mean_` and `scale_` (D,),
    `solver_` ("cholesky", or "eigen" where Cholesky's residual was too large).

    Example:
        >>> x = torch.tensor([[0.0], [0.2], [0.8], [1.0]])
        >>> RidgeProbe(l2=1.0).fit(x, [3, 3, 7, 7]).predict(torch.tensor([[0.1], [0.9]]))
        tensor([3, 7])
    """

    penalty: ClassVar[str] = "l2"
    grid: ClassVar[tuple[float, ...]] = (1e4, 1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2, 1e-3)
    learned: ClassVar[tuple[str, ...]] = ("coef_", "intercept_", "mean_", "scale_")
    coef_: Tensor
    intercept_: Tensor
    mean_: Tensor
    scale_: Tensor
    solver_: str

    def __init__(self, l2: Penalty = "cv", folds: int = 5, seed: int = 0) -> None:
        self.l2, self.folds, self.seed = l2, folds, seed

    def decision_function(self, x: ArrayIn) -> Array:
        """Return the least-squares scores, (N, K): about 1 for the row's class and -1 for the others."""
        rows = self._checked(x)
        return like(self._scores(rows).to(rows.dtype), x)

    def cross_validate(self, x: Tensor, y: Tensor, fold: Tensor) -> list[float]:
        """Return one accuracy per candidate as `Probe.cross_validate`, by one eigendecomposition a fold."""
        values, target = distinct(y)
        masks = usable_folds(target, fold)
        primal = x.shape[1] <= len(x)
        run = _hits_of_features if primal else _hits_of_images
        hits = run(x, target, masks, self.penalties(), len(values))
        return (hits / max(sum(int(m.sum()) for m in masks), 1)).tolist()

    def _fit(self, x: Tensor, target: Tensor) -> None:
        classes = len(self.classes_)
        share = torch.bincount(target, minlength=classes).double() / len(target)
        self.intercept_ = 2 * share - 1
        if x.shape[1] <= len(x):
            shift = chunked_mean(x)
            moments = Moments.of(x, target, classes, shift)
            self.mean_, self.scale_, gram, cross = moments.standardised(shift)
            self.coef_, self.solver_ = solve(gram, cross, _number(self.penalty_))
        else:
            self.mean_, self.scale_ = standardisation(x)
            z = (x.double() - self.mean_) / self.scale_
            centred = 2 * (one_hot(target, classes).double() - share)
            weights, self.solver_ = solve(z @ z.T, centred, _number(self.penalty_))
            self.coef_ = z.T @ weights

    def _scores(self, x: Tensor) -> Tensor:
        weight = self.coef_ / self.scale_[:, None]
        bias = self.intercept_ - self.mean_ @ weight
        return torch.cat([rows.double() @ weight + bias for rows in chunks(x)])

    def _predict(self, x: Tensor) -> Tensor:
        return self._scores(x).argmax(1)

    def _predict_proba(self, x: Tensor) -> Tensor:
        """(score + 1) / 2 estimates a probability and sums to 1 over classes; what is below 0 is cut off."""
        share = ((self._scores(x) + 1) / 2).clamp_min(0)
        return share / share.sum(1, keepdim=True)

    @staticmethod
    def _valid(value: float) -> bool:
        return 0 <= value < float("inf")


def _hits_of_features(x: Tensor, target: Tensor, masks: list[Tensor], penalties: list[float], classes: int) -> Tensor:
    """Correct held-out predictions per penalty (P,); the folds share the sums of their gram matrices."""
    shift = chunked_mean(x)
    rest = ~torch.stack(masks).any(0) if masks else torch.ones_like(target, dtype=torch.bool)
    parts = [Moments.of(x[m], target[m], classes, shift) for m in [*masks, rest]]
    hits = x.new_zeros(len(penalties), dtype=torch.float64)
    for i, held in enumerate(masks):
        kept = others(parts, i)
        mean, scale, gram, cross = kept.standardised(shift)
        coef = solve_all(gram, cross, penalties)
        z = (x[held].double() - mean) / scale
        hits += _hits(z, coef, 2 * kept.counts / kept.count - 1, target[held])
    return hits


def _hits_of_images(x: Tensor, target: Tensor, masks: list[Tensor], penalties: list[float], classes: int) -> Tensor:
    """The same where there are more features than images: gram matrices of images."""
    hits = x.new_zeros(len(penalties), dtype=torch.float64)
    for held in masks:
        mean, scale = standardisation(x[~held])
        z = (x[~held].double() - mean) / scale
        hot = one_hot(target[~held], classes).double()
        share = hot.mean(0)
        weights = solve_all(z @ z.T, 2 * (hot - share), penalties)
        kernel = ((x[held].double() - mean) / scale) @ z.T
        hits += _hits(kernel, weights, 2 * share - 1, target[held])
    return hits


def _hits(z: Tensor, coef: Tensor, intercept: Tensor, target: Tensor) -> Tensor:
    """Correct predictions for each of P solutions: z (N, M), coef (P, M, K) -> (P,)."""
    return torch.stack([((z @ w + intercept).argmax(1) == target).sum() for w in coef]).double()


def _number(penalty: float | None) -> float:
    return 0.0 if penalty is None else penalty
