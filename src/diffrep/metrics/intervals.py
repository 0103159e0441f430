"""Accuracy, and how far a mean or a proportion can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from diffrep.errors import InputError


def accuracy(predicted: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """Return the fraction of predictions that equal their label.

    Args:
        predicted: class labels, (N,), array or tensor.
        labels: true labels, (N,).

    Returns:
        A fraction in [0, 1].

    Errors:
        InputError: if the lengths differ or there is nothing to compare.

    Example:
        >>> accuracy([1, 2, 3, 3], [1, 2, 3, 4])
        0.75
    """
    a, b = (_array(predicted), _array(labels))
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"{a.shape} predictions for {b.shape} labels", "give one prediction per label")
    if not len(a):
        raise InputError("the accuracy of no predictions is not a number", "give at least one image")
    return float(np.mean(a == b))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's interval for the mean of independent values.

    Args:
        values: one number per repetition.
        confidence: probability that the interval holds the mean.

    Returns:
        (low, high), or None for one value, which says nothing about its spread.

    Errors:
        InputError: if there are no values.

    Example:
        >>> low, high = mean_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    from scipy.stats import t  # type: ignore[import-untyped, unused-ignore]

    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise InputError("no values to average", "give at least one")
    if x.size == 1:
        return None
    half = float(t.ppf(0.5 + confidence / 2, x.size - 1)) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return float(x.mean()) - half, float(x.mean()) + half


def proportion_interval(proportion: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for a proportion, such as an accuracy on `count` images.

    Args:
        proportion: the observed fraction in [0, 1].
        count: how many images it was observed on.
        confidence: probability that the interval holds the true proportion.

    Returns:
        (low, high), both in [0, 1].

    Errors:
        InputError: if `count` is not positive or the proportion is outside [0, 1].

    Example:
        >>> low, high = proportion_interval(0.95, 400)
        >>> round(low, 3), round(high, 3)
        (0.924, 0.967)
    """
    if count < 1 or not 0 <= proportion <= 1:
        raise InputError(f"no interval for a proportion of {proportion} of {count}", "give a fraction in [0, 1]")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (proportion + z * z / (2 * count)) / (1 + z * z / count)
    spread = math.sqrt(proportion * (1 - proportion) / count + (z / (2 * count)) ** 2)
    half = z / (1 + z * z / count) * spread
    low = centre - half if proportion > 0 else 0.0  # exact at the ends, where rounding would leave 1e-17
    return low, centre + half if proportion < 1 else 1.0


def _array(values: ArrayLike | Tensor) -> np.ndarray:
    """Bring a tensor of any device, or anything like an array, to numpy."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
