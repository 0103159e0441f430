"""Accuracy and intervals against textbook values."""

import numpy as np
import pytest
import torch

from diffrep.errors import InputError
from diffrep.metrics import accuracy, mean_interval, proportion_interval


def test_accuracy_of_arrays_and_tensors() -> None:
    assert accuracy(torch.tensor([1, 2, 3, 3]), np.array([1, 2, 3, 4])) == 0.75
    with pytest.raises(InputError, match="one prediction per label"):
        accuracy([1, 2], [1])
    with pytest.raises(InputError, match="no predictions"):
        accuracy([], [])


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    intervals = [mean_interval(d.tolist()) for d in draws]
    hit = [low <= 3.0 <= high for low, high in intervals]
    assert np.mean(hit) == pytest.approx(0.95, abs=0.015)


def test_few_values() -> None:
    assert mean_interval([1.0]) is None
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(InputError, match="no values"):
        mean_interval([])


def test_the_interval_of_a_proportion() -> None:
    low, high = proportion_interval(0.0, 10)
    assert (low, high) == (0.0, pytest.approx(0.2775, abs=1e-4))
    low, high = proportion_interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    with pytest.raises(InputError, match="proportion"):
        proportion_interval(1.5, 10)
