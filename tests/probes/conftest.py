"""Fixtures of the probes' tests."""

import numpy as np
import pytest

from tests.probes.stand_in import Digits


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order].astype(np.float32), y[order]
    return Digits(x[:1397], y[:1397], x[1397:], y[1397:])
