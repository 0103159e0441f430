"""Accuracy with few labels, over many draws of them: where good features differ most from weak controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffrep.errors import UsageError
from diffrep.metrics import mean_interval
from diffrep.probes.base import Probe
from diffrep.probes.feature_sets import Features, check_comparable, labels_of, protocol_of, rows_of
from diffrep.probes.folds import few_labels


@dataclass(frozen=True)
class FewShot:
    """Test accuracies of probes that saw a few labels per class, each with another draw of labels.

    Attributes:
        mean: mean accuracy, a fraction.
        std: standard deviation between draws (n - 1); 0 for one draw.
        interval: Student's 95 % interval of the mean, over draws of labels; None for one draw. Chance in the
            test images, the same in every draw, is not in it.
        scores: one accuracy per draw.
        penalties: the penalty that each draw chose; None without one.
        protocol: every choice that the numbers depend on, JSON-able.
    """

    mean: float
    std: float
    interval: tuple[float, float] | None
    scores: list[float]
    penalties: list[float | None] = field(repr=False)
    protocol: dict[str, Any] = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return everything, JSON-able, for a report."""
        interval = None if self.interval is None else list(self.interval)
        return {**vars(self), "interval": interval}


def few_shot(
    probe: Probe,
    train: Features,
    test: Features,
    name: str,
    *,
    per_class: int = 10,
    draws: int = 20,
    seed: int = 0,
) -> FewShot:
    """Fit on `per_class` labels of each class, test, and repeat with other draws of labels.

    A probe that chooses its penalty does so within each draw, so no other label helps it. The draws depend on
    the labels and the seed alone: another model's features of the same images get the same draws.

    Args:
        probe: what to fit; it is copied, not changed.
        train: features to draw from; a `FeatureSet`, or anything with `names`, `labels` and `[name]`.
        test: features to report on.
        name: the feature; where it was chosen with all labels, say so beside the number.
        per_class: labels per class, 1 or more.
        draws: number of draws.
        seed: of the draws.

    Returns:
        A `FewShot`.

    Errors:
        UsageError: an unknown name, or numbers below 1. InputError: a class with fewer images, or no labels.

    Example:
        >>> few_shot(RidgeProbe(), train, test, "mid@log_snr=6", per_class=10).mean   # doctest: +SKIP
    """
    if draws < 1:
        raise UsageError(f"draws={draws}", "give 1 or more; 20 is usual")
    check_comparable({"train": train, "test": test})
    y, truth = labels_of(train, "train"), labels_of(test, "test")
    x, held = (rows_of(part, name, role) for part, role in ((train, "train"), (test, "test")))
    scores, penalties, fitted = [], [], probe
    for draw in range(draws):
        chosen = few_labels(y, per_class, draw, seed)
        fitted = type(probe)(**probe.get_params()).fit(x[chosen.to(x.device)], y[chosen])
        scores.append(fitted.score(held, truth))
        penalties.append(fitted.penalty_)
    protocol = _protocol(probe, fitted, name, (per_class, draws, seed), {"train": train, "test": test})
    std = float(np.std(scores, ddof=1)) if draws > 1 else 0.0
    return FewShot(float(np.mean(scores)), std, mean_interval(scores), scores, penalties, protocol)


def _protocol(
    probe: Probe, fitted: Probe, name: str, drawn: tuple[int, int, int], parts: dict[str, Features]
) -> dict[str, Any]:
    """What the numbers depend on: the draws, the probe and both splits' features."""
    per_class, draws, seed = drawn
    images = {"train": per_class * len(fitted.classes_), "drawn_from": len(parts["train"].labels)}
    return {
        "metric": "accuracy",
        "feature": name,
        "per_class": per_class,
        "draws": draws,
        "seed": seed,
        "penalty_from": "each draw's own labels",
        "images": {**images, "test": len(parts["test"].labels)},
        "probe": {"probe": type(probe).__name__, "given": repr(probe), "last_draw": fitted.protocol()},
        "features": {role: protocol_of(part) for role, part in parts.items()},
        "model": protocol_of(parts["train"]).get("model"),
    }
