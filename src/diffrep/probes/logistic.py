"""Multinomial logistic regression: the linear probe in the strict sense, for the few cells that are left."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, one_hot, pad, softmax

from diffrep.probes.arrays import Array, ArrayIn, chunks, distinct, like, standardisation
from diffrep.probes.base import Penalty, Probe, usable_folds

GRADIENT = 1e-6  # largest entry of the gradient of the mean objective at which L-BFGS stops
CONVERGED = 1e-4  # scikit-learn's tolerance; a larger gradient at the end is reported


class LinearProbe(Probe):
    """Logistic regression on standardised features, by L-BFGS in float64.

    Minimises ||w||^2 / 2 + c * sum of log-losses, the intercept unpenalised: scikit-learn's
    `make_pipeline(StandardScaler(), LogisticRegression(C=c))`. Two classes share one weight vector, as there.

    Args:
        c: inverse penalty, above 0; "cv", or a list, for the best of several by cross-validation within the
            training data, ties to the stronger penalty (smaller c).
        folds: of that cross-validation.
        seed: of its folds.
        max_iter: most L-BFGS steps; a fit that needs more warns, and `converged_` is False.

    After `fit`: `coef_` (D, K) and `intercept_` (K,) for standardised features (K is 1 for two classes),
    `mean_` and `scale_` (D,), `n_iter_`, `converged_`.
    """

    penalty: ClassVar[str] = "c"
    grid: ClassVar[tuple[float, ...]] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1)
    learned: ClassVar[tuple[str, ...]] = ("coef_", "intercept_", "mean_", "scale_")
    coef_: Tensor
    intercept_: Tensor
    mean_: Tensor
    scale_: Tensor
    n_iter_: int
    converged_: bool

    def __init__(self, c: Penalty = 1.0, folds: int = 5, seed: int = 0, max_iter: int = 1000) -> None:
        self.c, self.folds, self.seed, self.max_iter = c, folds, seed, max_iter

    def decision_function(self, x: ArrayIn) -> Array:
        """Return logits (N, K); of two classes, 0 and the log-odds of the second."""
        rows = self._checked(x)
        return like(self._logits(rows).to(rows.dtype), x)

    def cross_validate(self, x: Tensor, y: Tensor, fold: Tensor) -> list[float]:
        """Return one accuracy per candidate as `Probe.cross_validate`; a penalty starts from the last."""
        penalties = self.penalties()
        hits, seen = torch.zeros(len(penalties), dtype=torch.float64), 0
        for held in usable_folds(y, fold):
            values, target = distinct(y[~held])
            mean, scale = standardisation(x[~held])
            z, rows = ((part.double() - mean) / scale for part in (x[~held], x[held]))
            start = _zeros(z, len(values))
            for i, c in enumerate(penalties):
                start, _, _ = minimise(z, target, c, start, self.max_iter)
                found = values[logits(rows, start).argmax(1)]
                hits[i] += int((found == y[held]).sum())
            seen += int(held.sum())
        return (hits / max(seen, 1)).tolist()

    def _fit(self, x: Tensor, target: Tensor) -> None:
        self.mean_, self.scale_ = standardisation(x)
        z = (x.double() - self.mean_) / self.scale_
        c = 1.0 if self.penalty_ is None else self.penalty_
        start = _zeros(z, len(self.classes_))
        weights, self.n_iter_, gradient = minimise(z, target, c, start, self.max_iter)
        self.coef_, self.intercept_ = weights[:-1].clone(), weights[-1].clone()
        self.converged_ = gradient <= CONVERGED
        if not self.converged_:
            warnings.warn(
                f"LinearProbe(c={c}) stopped after {self.n_iter_} steps with a gradient of {gradient:.1e}; "
                f"raise max_iter={self.max_iter} or lower c",
                RuntimeWarning,
                stacklevel=3,
            )

    def _logits(self, x: Tensor) -> Tensor:
        weights = torch.cat([self.coef_, self.intercept_[None]])
        return torch.cat([logits((rows.double() - self.mean_) / self.scale_, weights) for rows in chunks(x)])

    def _predict_proba(self, x: Tensor) -> Tensor:
        return softmax(self._logits(x), 1)

    @classmethod
    def _strongest_first(cls, values: Sequence[float]) -> list[float]:
        return sorted(values)


def logits(z: Tensor, weights: Tensor) -> Tensor:
    """Logits (N, K) of standardised features (N, D) by weights (D + 1, K), the intercept last.

    For K = 2 the weights are (D + 1, 1): the log-odds of the second class; the first class's logit is 0.
    """
    out = z @ weights[:-1] + weights[-1]
    return pad(out, (1, 0)) if out.shape[1] == 1 else out


def minimise(z: Tensor, target: Tensor, c: float, start: Tensor, max_iter: int) -> tuple[Tensor, int, float]:
    """Minimise the penalised log-loss by L-BFGS with a strong Wolfe line search.

    Args:
        z: standardised features (N, D), float64.
        target: class indices (N,).
        c: weight of the summed log-loss against ||w||^2 / 2.
        start: weights to start from, (D + 1, K or 1).
        max_iter: most steps.

    Returns:
        The weights, the number of steps, and the largest entry of the gradient (of the objective over c N).
    """
    weights = start.clone().requires_grad_()
    hot = one_hot(target, int(target.max()) + 1).double()
    decay = 1 / (c * len(z))

    def objective() -> Tensor:
        scores = logits(z, weights.detach())
        error = (softmax(scores, 1) - hot)[:, -weights.shape[1] :] / len(z)
        body = weights.detach()[:-1]
        weights.grad = torch.cat([z.T @ error + decay * body, error.sum(0, keepdim=True)])
        loss = -(log_softmax(scores, 1) * hot).sum() / len(z)
        return loss + 0.5 * decay * body.square().sum()

    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=max_iter,
        max_eval=2 * max_iter,
        tolerance_grad=GRADIENT,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(objective)  # type: ignore[arg-type, no-untyped-call, unused-ignore]
    steps = int(optimizer.state[weights].get("n_iter", 0))
    objective()
    gradient = 0.0 if weights.grad is None else float(weights.grad.abs().max())
    return weights.detach(), steps, gradient


def _zeros(z: Tensor, classes: int) -> Tensor:
    return z.new_zeros(z.shape[1] + 1, classes if classes > 2 else 1)
