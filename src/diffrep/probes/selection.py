"""Choosing a tap and level: on validation images or by cross-validation, never on the test set.

The official DDAE program reads the best cell of its grid off the test accuracy; here the winner alone is
tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffrep.errors import InputError, UsageError
from diffrep.metrics import proportion_interval
from diffrep.probes.base import Probe, best
from diffrep.probes.feature_sets import (
    Features,
    check_comparable,
    check_name,
    labels_of,
    protocol_of,
    rows_of,
)
from diffrep.probes.folds import stratified_folds

Progress = Callable[[int, int], None]
"""Told after each cell: (done, total)."""


@dataclass(frozen=True)
class Selection:
    """The feature that was chosen, and what it is worth on the test set.

    Attributes:
        name: the winner's name.
        score: its accuracy on the test set, a fraction; the only test accuracy that was computed.
        validation: the accuracy that it was chosen by.
        table: one row per feature: name, validation, penalty, selected. No test numbers.
        probe: the fitted probe behind `score`.
        protocol: every choice that the numbers depend on, JSON-able.
    """

    name: str
    score: float
    validation: float
    table: list[dict[str, Any]] = field(repr=False)
    probe: Probe
    protocol: dict[str, Any] = field(repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `score`: how far chance in the test images alone may move it."""
        return proportion_interval(self.score, self.protocol["images"]["test"])

    def record(self) -> dict[str, Any]:
        """Return everything but the probe's weights, JSON-able, for a report."""
        return {
            "name": self.name,
            "score": self.score,
            "interval": list(self.interval),
            "validation": self.validation,
            "table": self.table,
            "protocol": self.protocol,
        }


def select(
    probe: Probe,
    train: Features,
    val: Features | None,
    test: Features,
    *,
    cv: int | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Selection:
    """Choose the feature whose probe validates best, and test that one probe.

    Without `cv` each probe is fitted on train, where it may choose its penalty, and compared on val; the winner
    is tested as it is. With `cv` feature and penalty are chosen together over folds of train and val, and the
    winner is fitted once more on both. Of equals: the first name in the alphabet, the stronger penalty.

    Args:
        probe: what to fit; it is copied, not changed.
        train: features to fit on; a `FeatureSet`, or anything with `names`, `labels` and `[name]`.
        val: features to choose on; may be None with `cv`.
        test: features to report on.
        cv: number of stratified folds, or None to choose on val; with few images cv chooses better.
        names: which features compete; None: all of train's.
        seed: of the folds.
        progress: called with (done, total) after each feature.

    Errors:
        UsageError: no val and no cv, or an unknown name. InputError: no labels, or splits of other models.

    Example:
        >>> select(RidgeProbe(), train, val, test, cv=5).score   # doctest: +SKIP
    """
    if val is None and cv is None:
        raise UsageError("nothing to choose on: no validation features and no cv", "give val, or cv=5")
    splits = Splits.of({"train": train, "validation": val, "test": test})
    cells = splits.cells(train.names if names is None else names)
    judge = _on_validation(probe, splits) if cv is None else _by_folds(probe, splits, cv, seed)
    table, name, fitted = _winner(judge, cells, progress)
    if cv is not None:
        fitted.fit(splits.rows(name, SEEN), splits.labels(SEEN))
    score = fitted.score(splits.rows(name, ["test"]), splits.labels(["test"]))
    validation = next(row["validation"] for row in table if row["selected"])
    choices = {"probe": fitted.protocol(), "probe_given": repr(probe), "candidates": len(cells), "seed": seed}
    return Selection(name, score, validation, table, fitted, {**choices, **_protocol(splits, cv)})


SEEN = ("train", "validation")  # roles that may be looked at while choosing

Judge = Callable[[str], tuple[float, Probe]]
"""A feature's name -> its validation accuracy, and the probe, fitted on train or to be fitted on `SEEN`."""


def _winner(judge: Judge, cells: Sequence[str], progress: Progress | None) -> tuple[list[dict[str, Any]], str, Probe]:
    """Judge every feature; return the table, the first of the best names and its probe."""
    table: list[dict[str, Any]] = []
    name, highest, kept = cells[0], -1.0, None
    for done, cell in enumerate(cells, 1):
        accuracy, fitted = judge(cell)
        if kept is None or accuracy > highest:  # only one probe is kept: neighbours hold their training set
            name, highest, kept = cell, accuracy, fitted
        table.append({"name": cell, "validation": accuracy, "penalty": _penalty(fitted)})
        if progress is not None:
            progress(done, len(cells))
    assert kept is not None
    return [{**row, "selected": row["name"] == name} for row in table], name, kept


@dataclass(frozen=True)
class Splits:
    """The splits that were given, by role, and their labels."""

    parts: dict[str, Features]
    truth: dict[str, Tensor]

    @classmethod
    def of(cls, parts: dict[str, Features | None]) -> Splits:
        """Check that the splits have labels and comparable features; what is None is left out."""
        given = {role: part for role, part in parts.items() if part is not None}
        check_comparable(given)
        return cls(given, {role: labels_of(part, role) for role, part in given.items()})

    def cells(self, names: Sequence[str]) -> list[str]:
        """The names that compete, in alphabetical order; every split must have them all."""
        cells = sorted({names} if isinstance(names, str) else set(names))
        if not cells:
            raise InputError("no features to choose from", "extract some, or give their names")
        for role, part in self.parts.items():
            for name in cells:
                check_name(part, name, role)
        return cells

    def labels(self, roles: Sequence[str]) -> Tensor:
        """Labels of several roles, one after the other (N,)."""
        return torch.cat([self.truth[role] for role in roles if role in self.truth])

    def rows(self, name: str, roles: Sequence[str]) -> Tensor:
        """A feature of several roles, one after the other (N, D), checked."""
        found = [rows_of(self.parts[r], name, r) for r in roles if r in self.parts]
        if len({x.shape[1] for x in found}) > 1:
            widths = ", ".join(str(x.shape[1]) for x in found)
            raise InputError(f'feature "{name}" has {widths} columns in {", ".join(roles)}', "extract all alike")
        return found[0] if len(found) == 1 else torch.cat(found)


def _on_validation(probe: Probe, splits: Splits) -> Judge:
    """Fit on train, where the probe may choose its penalty, and score on validation."""

    def judge(name: str) -> tuple[float, Probe]:
        fitted = type(probe)(**probe.get_params()).fit(splits.rows(name, ["train"]), splits.labels(["train"]))
        return fitted.score(splits.rows(name, ["validation"]), splits.labels(["validation"])), fitted

    return judge


def _by_folds(probe: Probe, splits: Splits, cv: int, seed: int) -> Judge:
    """Cross-validate every penalty on the same folds of train and validation, and keep the best."""
    y = splits.labels(SEEN)
    fold = stratified_folds(y, cv, seed)

    def judge(name: str) -> tuple[float, Probe]:
        x = splits.rows(name, SEEN)
        scores = probe.cross_validate(x, y.to(x.device), fold.to(x.device))
        return scores[best(scores)], probe.candidates()[best(scores)]

    return judge


def _penalty(probe: Probe) -> float | None:
    values = [probe.penalty_] if hasattr(probe, "penalty_") else probe.penalties()
    return values[0] if values else None


def _protocol(splits: Splits, cv: int | None) -> dict[str, Any]:
    """What the numbers depend on, apart from the probe: the rule, the splits and their features."""
    folds = f"{cv}-fold stratified cross-validation"
    seen = [role for role in SEEN if role in splits.parts]
    return {
        "metric": "accuracy",
        "selection": "accuracy on validation" if cv is None else f"accuracy by {folds}, with the penalty",
        "selected_on": ["validation"] if cv is None else seen,
        "fitted_on": ["train"] if cv is None else seen,
        "reported_on": "test, the selected feature only",
        "ties": "first name in alphabetical order, stronger penalty",
        "folds": cv,
        "images": {role: len(y) for role, y in splits.truth.items()},
        "features": {role: protocol_of(part) for role, part in splits.parts.items()},
        "model": protocol_of(splits.parts["train"]).get("model"),
    }
