"""Ridge against scikit-learn, and its fast paths against the plain one."""

import numpy as np
import pytest
import torch

from diffrep.probes import RidgeProbe, stratified_folds
from diffrep.probes.base import Probe
from diffrep.probes.least_squares import solve, solve_all
from tests.probes.stand_in import Digits


def reference(x, y, l2):
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x.astype(np.float64))
    target = 2.0 * (y[:, None] == np.unique(y)) - 1
    model = Ridge(alpha=l2).fit(scaler.transform(x.astype(np.float64)), target)
    return lambda rows: model.predict(scaler.transform(rows.astype(np.float64)))


def problem(n: int, d: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    x = rng.normal(size=(4, d))[y] + 2 * rng.normal(size=(n, d)) * rng.uniform(0.01, 100, d) + 50
    return x, y


@pytest.mark.parametrize("l2", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize(("n", "d"), [(300, 20), (40, 200), (50, 50), (30, 1)])
def test_equals_scikit_learn(n: int, d: int, l2: float) -> None:
    x, y = problem(n, d)
    rows = problem(25, d, seed=1)[0]
    got = RidgeProbe(l2).fit(x, y).decision_function(rows)
    np.testing.assert_allclose(got, reference(x, y, l2)(rows), atol=1e-8)


def test_equals_scikit_learn_on_digits_with_constant_columns(digits: Digits) -> None:
    probe = RidgeProbe(1.0).fit(digits.x, digits.y)
    got = probe.decision_function(digits.test_x.astype(np.float64))
    np.testing.assert_allclose(got, reference(digits.x, digits.y, 1.0)(digits.test_x), atol=1e-8)
    assert probe.solver_ == "cholesky"


def test_dual_equals_primal() -> None:
    x, y = problem(60, 60)
    primal = RidgeProbe(1.0).fit(x, y)
    dual = RidgeProbe(1.0).fit(np.concatenate([x, np.full((60, 1), 7.0)], 1), y)  # one constant column: 61 > 60
    np.testing.assert_allclose(dual.coef_[:60], primal.coef_, atol=1e-10)
    assert dual.coef_[60].abs().max() < 1e-12


@pytest.mark.parametrize(("n", "d"), [(200, 30), (60, 59), (60, 150)])
def test_shared_work_equals_a_fit_per_fold_and_penalty(n: int, d: int) -> None:
    x, y = (torch.as_tensor(v) for v in problem(n, d))
    fold = stratified_folds(y, 5)
    probe = RidgeProbe("cv")
    assert probe.cross_validate(x, y, fold) == pytest.approx(Probe.cross_validate(probe, x, y, fold), abs=1e-12)


def test_shared_work_with_columns_that_are_constant_in_some_folds() -> None:
    x, y = (torch.as_tensor(v) for v in problem(100, 10))
    x[:, 3], x[0, 3], x[:, 4], x[1, 5] = 0.0, 1.0, 0.1, 1e9
    fold, probe = stratified_folds(y, 5), RidgeProbe("cv")
    assert probe.cross_validate(x, y, fold) == pytest.approx(Probe.cross_validate(probe, x, y, fold), abs=1e-12)


def test_shared_work_with_a_class_of_one_image() -> None:
    x, y = (torch.as_tensor(v) for v in problem(60, 10))
    y[0] = 9
    fold, probe = stratified_folds(y, 5), RidgeProbe("cv")
    assert probe.cross_validate(x, y, fold) == pytest.approx(Probe.cross_validate(probe, x, y, fold), abs=1e-12)


def test_penalty_is_the_best_of_the_grid_and_ties_go_to_the_stronger(digits: Digits) -> None:
    probe = RidgeProbe("cv").fit(digits.x[:200], digits.y[:200])
    top = max(probe.cv_.values())
    assert probe.penalty_ == max(l2 for l2, accuracy in probe.cv_.items() if accuracy == top)
    again = RidgeProbe(probe.penalty_).fit(digits.x[:200], digits.y[:200])
    assert torch.equal(again.coef_, probe.coef_)
    x = np.array([[0.0], [0.1], [0.9], [1.0]])
    assert RidgeProbe([1e-3, 1.0, 7.0], folds=2).fit(x, [0, 0, 1, 1]).penalty_ == 7.0


def test_probabilities_keep_the_order_of_the_scores(digits: Digits) -> None:
    probe = RidgeProbe(10.0).fit(digits.x, digits.y)
    scores, shares = probe.decision_function(digits.test_x), probe.predict_proba(digits.test_x)
    np.testing.assert_allclose(scores.sum(1), 2 - 10, atol=1e-4)
    assert (scores.argmax(1) == shares.argmax(1)).all()
    assert (shares >= 0).all()


def test_without_penalty_a_singular_problem_falls_back_to_the_least_norm() -> None:
    x, y = problem(50, 5)
    twice = np.concatenate([x, x], 1)
    probe = RidgeProbe(0.0).fit(twice, y)
    np.testing.assert_allclose(
        probe.decision_function(twice), RidgeProbe(0.0).fit(x, y).decision_function(x), atol=1e-8
    )
    np.testing.assert_allclose(probe.coef_[:5], probe.coef_[5:], atol=1e-8)


def test_a_bad_cholesky_is_noticed() -> None:
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    gram = q @ torch.diag(torch.tensor([1e8, 1.0, 1e-4, 1e-10, 1e-12, 0.0], dtype=torch.float64)) @ q.T
    gram = (gram + gram.T) / 2
    rhs = gram @ torch.ones(6, 1, dtype=torch.float64)
    found, how = solve(gram, rhs, 0.0)
    assert how == "eigen"
    assert (gram @ found - rhs).norm() < 1e-6 * rhs.norm()
    everything = solve_all(gram, rhs, [0.0, 1.0])
    assert torch.equal(everything[0], found)
    torch.testing.assert_close(everything[1], solve(gram, rhs, 1.0)[0])


def test_the_whole_grid_is_fast() -> None:
    import time

    from diffrep.probes import select
    from tests.probes.stand_in import make_splits

    train, val, test = make_splits(36, (1200, 200, 100), width=64, classes=10)
    start = time.process_time()
    select(RidgeProbe(), train, val, test, cv=5)
    assert time.process_time() - start < 4  # about 0.5 s on one idle core
