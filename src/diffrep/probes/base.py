"""What every probe does: scikit-learn's habits around a small supervised model on frozen features.

A *penalty* is the one parameter that a probe may choose by itself: a number fixes it, "cv" or a list has it
chosen by stratified cross-validation within the data that `fit` is given.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from diffrep.errors import InputError, UsageError, nearest
from diffrep.probes.arrays import Array, ArrayIn, distinct, features, labels, like, training
from diffrep.probes.folds import stratified_folds

Penalty = float | str | Sequence[float]
"""A number, "cv" (the probe's own grid) or a list of numbers to choose from."""


@dataclass(frozen=True)
class ProbeState:
    """A fitted probe as data.

    `tensors` belong in a safetensors file; `probe` (the class) and `params` (JSON-able) in its metadata.
    """

    probe: str
    params: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)


class Probe(ABC):
    """A classifier with `fit`, `predict`, `predict_proba`, `score`, `get_params` and `set_params`.

    Accepts numpy arrays, tensors and lists; answers with an array, or with a tensor on the features' device.
    Computes where the training features lie. After `fit`: `classes_` (K,) sorted labels, `n_features_in_`,
    `penalty_` (None where there is none) and `cv_` (accuracy per penalty, where it was chosen).
    """

    penalty: ClassVar[str] = ""  # name of the parameter that "cv" chooses
    grid: ClassVar[tuple[float, ...]] = ()  # what "cv" chooses from, strongest first
    learned: ClassVar[tuple[str, ...]] = ()  # names of the learned tensors, besides classes_
    folds: int
    seed: int
    classes_: Tensor
    n_features_in_: int
    penalty_: float | None
    cv_: dict[float, float]

    # -- what a probe adds --

    @abstractmethod
    def _fit(self, x: Tensor, target: Tensor) -> None:
        """Learn from features (N, D) and class indices (N,), with `self.penalty_`."""

    @abstractmethod
    def _predict_proba(self, x: Tensor) -> Tensor:
        """Class probabilities (N, K) float64 of checked features."""

    def _predict(self, x: Tensor) -> Tensor:
        return self._predict_proba(x).argmax(1)

    @classmethod
    def _strongest_first(cls, values: Sequence[float]) -> list[float]:
        return sorted(values, reverse=True)

    # -- scikit-learn's habits --

    def fit(self, x: ArrayIn, y: ArrayIn | None) -> Self:
        """Fit on features (N, D) and integer labels (N,), choosing the penalty first if it is "cv" or a list.

        Errors:
            InputError: fewer than two classes, NaN or infinity, no labels, or lengths that differ.
            UsageError: a parameter outside its range.
        """
        rows, values = training(x, y)
        self.classes_, target = distinct(values)
        self.n_features_in_ = rows.shape[1]
        self.penalty_, self.cv_ = self._chosen_penalty(rows, target)
        self._fit(rows, target)
        return self

    def predict(self, x: ArrayIn) -> Array:
        """Return the most probable class label of each row, (N,) int64."""
        rows = self._checked(x)
        return like(self.classes_[self._predict(rows)], x)

    def predict_proba(self, x: ArrayIn) -> Array:
        """Return class probabilities in the order of `classes_`, (N, K); rows sum to 1."""
        rows = self._checked(x)
        return like(self._predict_proba(rows).to(rows.dtype), x)

    def score(self, x: ArrayIn, y: ArrayIn | None) -> float:
        """Return the accuracy on features (N, D) and labels (N,), a fraction; unknown labels are wrong."""
        rows = self._checked(x)
        truth = labels(y, len(rows)).to(rows.device)
        return float((self.classes_[self._predict(rows)] == truth).double().mean())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:  # noqa: ANN401
        """Set constructor's arguments by name; effective at the next `fit`.

        Errors:
            UsageError: an unknown name.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise UsageError(f'{type(self).__name__} has no parameter "{name}"', nearest(name, self.get_params()))
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({values})"

    # -- penalties --

    def penalties(self) -> list[float]:
        """Return the penalties to choose from, strongest first; empty for a probe without one.

        Errors:
            UsageError: negative, not finite, no number, or a word other than "cv".
        """
        if not self.penalty:
            return []
        given = getattr(self, self.penalty)
        if isinstance(given, str):
            if given != "cv":
                raise UsageError(f'{self.penalty}="{given}"', 'give a number, a list of numbers or "cv"')
            return list(self.grid)
        try:
            values = np.atleast_1d(np.asarray(given, dtype=np.float64)).tolist()
        except (TypeError, ValueError):
            values = []
        if not values or not all(self._valid(v) for v in values):
            raise UsageError(f"{self.penalty}={given!r}", 'give positive numbers, or "cv"')
        return self._strongest_first(values)

    def candidates(self) -> list[Self]:
        """Return unfitted copies of this probe, one per penalty, strongest first, or one without."""
        params = self.get_params()
        return [type(self)(**{**params, self.penalty: p}) for p in self.penalties()] or [type(self)(**params)]

    def cross_validate(self, x: Tensor, y: Tensor, fold: Tensor) -> list[float]:
        """Return one accuracy per candidate, each image predicted by a probe fitted without its fold.

        Plain loops, one fit per fold and candidate; `RidgeProbe` and `LinearProbe` share work instead.

        Args:
            x: features (N, D).
            y: labels (N,).
            fold: fold of each image (N,), 0, 1, ...; a fold without which only one class is left is skipped.
        """
        hits, seen = [0.0] * len(self.candidates()), 0
        for held in usable_folds(y, fold):
            seen += int(held.sum())
            for i, probe in enumerate(self.candidates()):
                hits[i] += probe.fit(x[~held], y[~held]).score(x[held], y[held]) * int(held.sum())
        return [h / max(seen, 1) for h in hits]

    @staticmethod
    def _valid(value: float) -> bool:
        return 0 < value < float("inf")

    def _chosen_penalty(self, x: Tensor, target: Tensor) -> tuple[float | None, dict[float, float]]:
        values = self.penalties()
        if len(values) < 2:
            return (values[0] if values else None), {}
        fold = stratified_folds(target, self.folds, self.seed).to(x.device)
        scores = self.cross_validate(x, target, fold)
        return values[best(scores)], dict(zip(values, scores, strict=True))

    # -- records --

    def protocol(self) -> dict[str, Any]:
        """Return what the fitted probe is, JSON-able: class, parameters, penalty and how it was chosen."""
        self._check_fitted()
        record: dict[str, Any] = {"probe": type(self).__name__, "params": plain(self.get_params())}
        if self.penalty:
            record[self.penalty] = self.penalty_
        if self.cv_:
            record["penalty_rule"] = f"{self.folds}-fold stratified cross-validation, ties to the stronger"
            record["penalty_accuracy"] = [[p, accuracy] for p, accuracy in self.cv_.items()]
        return {**record, "features": self.n_features_in_, "classes": len(self.classes_)}

    def state(self) -> ProbeState:
        """Return the fitted probe as data, tensors on the CPU; `from_state` makes it a probe again."""
        self._check_fitted()
        names = ("classes_", *self.learned)
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in names}
        params = {**plain(self.get_params())}
        extra = {
            "penalty_": self.penalty_,
            "n_features_in_": self.n_features_in_,
            "cv_": list(self.cv_.items()),
        }
        return ProbeState(type(self).__name__, {**params, "fitted": extra}, tensors)

    @classmethod
    def from_state(cls, state: ProbeState) -> Self:
        """Make a fitted probe of this class from `state()`.

        Errors:
            InputError: the state is of another probe, or tensors are missing.
        """
        if state.probe != cls.__name__:
            raise InputError(f"a state of {state.probe} is no {cls.__name__}", "use diffrep.probes.from_state")
        missing = [name for name in ("classes_", *cls.learned) if name not in state.tensors]
        if missing:
            raise InputError(f"the probe's file lacks {', '.join(missing)}", "write it again with state()")
        params = dict(state.params)
        extra = params.pop("fitted")
        probe = cls(**params)
        for name in ("classes_", *cls.learned):
            setattr(probe, name, state.tensors[name])
        probe.penalty_, probe.n_features_in_ = extra["penalty_"], extra["n_features_in_"]
        probe.cv_ = {float(p): float(accuracy) for p, accuracy in extra["cv_"]}
        return probe

    def _check_fitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise UsageError(f"this {type(self).__name__} is not fitted", "call fit(features, labels) first")

    def _checked(self, x: ArrayIn) -> Tensor:
        self._check_fitted()
        return features(x, self.n_features_in_).to(self.classes_.device)


def usable_folds(y: Tensor, fold: Tensor) -> list[Tensor]:
    """Masks (N,) of the images that each fold holds out; folds that would leave one class are left out."""
    masks = [fold == f for f in distinct(fold)[0].tolist()]
    return [held for held in masks if len(distinct(y[~held])[0]) > 1]


def best(scores: Sequence[float]) -> int:
    """Index of the highest score; the first of equals, so the stronger penalty or the earlier name."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def plain(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them: sequences become lists, everything else is kept."""
    return {k: [float(x) for x in v] if not isinstance(v, int | float | str | None) else v for k, v in params.items()}
