"""What must hold of probes whatever the features: agreement with scikit-learn, and no leak of test labels."""

import numpy as np
import pytest
from numpy.typing import NDArray

from diffrep.probes import KNNProbe, LinearProbe, Probe, RidgeProbe, few_shot, select
from tests.probes.stand_in import FeatureSet

PROBES = [RidgeProbe(), LinearProbe(0.1), KNNProbe()]
each_probe = pytest.mark.parametrize("probe", PROBES, ids=repr)


@pytest.fixture(scope="module")
def pixels() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return x[order].astype(np.float32), y[order]


def test_ridge_is_scikit_learns(pixels: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    x, y = pixels[0].astype(np.float64), pixels[1]
    scaler = StandardScaler().fit(x[:1300])
    model = Ridge(alpha=0.1).fit(scaler.transform(x[:1300]), 2.0 * np.eye(10)[y[:1300]] - 1)
    got = RidgeProbe(0.1).fit(x[:1300], y[:1300]).decision_function(x[1300:])
    np.testing.assert_allclose(got, model.predict(scaler.transform(x[1300:])), atol=1e-8)


def test_logistic_agrees_with_scikit_learn(pixels: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = pixels[0].astype(np.float64), pixels[1]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000)).fit(x[:1300], y[:1300])
    probe = LinearProbe(1.0).fit(x[:1300], y[:1300])
    assert (probe.predict(x[1300:]) == model.predict(x[1300:])).mean() >= 0.995


@each_probe
@pytest.mark.parametrize("cv", [None, 3])
def test_permuted_labels_leave_chance(
    probe: Probe, cv: int | None, pixels: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    x, y = pixels[0], np.random.default_rng(1).permutation(pixels[1])
    rng = np.random.default_rng(2)
    cells = {"pixels": x, **{f"noise.{i}": rng.normal(size=(len(y), 20)).astype(np.float32) for i in range(5)}}
    parts = [
        FeatureSet({name: values[rows] for name, values in cells.items()}, y[rows])
        for rows in (slice(0, 800), slice(800, 1100), slice(1100, None))
    ]
    chosen = select(probe, *parts, cv=cv)
    spread = (0.1 * 0.9 / len(parts[2].labels)) ** 0.5
    assert abs(chosen.score - 0.1) < 4 * spread
    few = few_shot(probe, parts[0], parts[2], "pixels", per_class=10, draws=4)
    assert abs(few.mean - 0.1) < 4 * spread
