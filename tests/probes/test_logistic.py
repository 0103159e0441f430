"""Logistic regression against scikit-learn."""

import numpy as np
import pytest
import torch

from diffrep.probes import LinearProbe, stratified_folds
from diffrep.probes.base import Probe
from tests.probes.stand_in import Digits


def reference(x, y, c):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000, tol=1e-8))
    return model.fit(x.astype(np.float64), y)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_agrees_with_scikit_learn_on_digits(digits: Digits, c: float) -> None:
    probe, model = LinearProbe(c).fit(digits.x, digits.y), reference(digits.x, digits.y, c)
    assert probe.converged_
    assert (probe.predict(digits.test_x) == model.predict(digits.test_x)).mean() >= 0.995
    np.testing.assert_allclose(probe.predict_proba(digits.test_x), model.predict_proba(digits.test_x), atol=2e-3)


@pytest.mark.parametrize(("classes", "seed"), [(2, 0), (3, 1), (7, 2)])
def test_agrees_with_scikit_learn_on_random_problems(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, 300) + 5
    x = rng.normal(size=(classes, 12))[y - 5] + rng.normal(size=(300, 12)) * 1.5
    probe, model = LinearProbe(0.3).fit(x, y), reference(x, y, 0.3)
    np.testing.assert_allclose(probe.coef_.T, model[1].coef_, atol=1e-4)
    np.testing.assert_allclose(probe.predict_proba(x), model.predict_proba(x), atol=1e-4)
    assert (probe.predict(x) == model.predict(x)).mean() >= 0.995


def test_warm_starts_find_what_separate_fits_find(digits: Digits) -> None:
    x, y = torch.as_tensor(digits.x[:200]), torch.as_tensor(digits.y[:200])
    fold, probe = stratified_folds(y, 3), LinearProbe([1e-3, 0.1, 1.0])
    fast, slow = probe.cross_validate(x, y, fold), Probe.cross_validate(probe, x, y, fold)
    assert fast == pytest.approx(slow, abs=0.0051)  # one image


def test_the_penalty_is_chosen_within_the_training_data(digits: Digits) -> None:
    probe = LinearProbe("cv", folds=3).fit(digits.x[:150], digits.y[:150])
    top = max(probe.cv_.values())
    assert probe.penalty_ == min(c for c, accuracy in probe.cv_.items() if accuracy == top)


def test_too_few_steps_are_said(digits: Digits) -> None:
    with pytest.warns(RuntimeWarning, match="max_iter=3"):
        probe = LinearProbe(1.0, max_iter=3).fit(digits.x, digits.y)
    assert not probe.converged_


def test_separable_data_with_a_weak_penalty_converges() -> None:
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    probe = LinearProbe(1e4).fit(x, [0, 0, 1, 1])
    assert probe.converged_
    assert probe.score(x, [0, 0, 1, 1]) == 1.0
