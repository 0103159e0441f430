"""What every probe does alike: containers, labels, parameters, records, states and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffrep.errors import InputError, UsageError
from diffrep.probes import KNNProbe, LinearProbe, Probe, ProbeState, RidgeProbe, from_state
from tests.probes.stand_in import Digits

PROBES = [RidgeProbe(1.0), RidgeProbe("cv", folds=3), LinearProbe(0.1), LinearProbe([0.01, 0.1], folds=2), KNNProbe(5)]
each_probe = pytest.mark.parametrize("probe", PROBES, ids=repr)


def copy(probe: Probe) -> Probe:
    return type(probe)(**probe.get_params())


@each_probe
def test_the_answer_comes_in_the_kind_of_container_that_was_given(probe: Probe, digits: Digits) -> None:
    x, y, rows = digits.x[:120], digits.y[:120], digits.test_x[:30]
    arrays = copy(probe).fit(x, y)
    tensors = copy(probe).fit(torch.as_tensor(x), torch.as_tensor(y))
    assert isinstance(arrays.predict(rows), np.ndarray)
    assert isinstance(tensors.predict(torch.as_tensor(rows)), torch.Tensor)
    assert isinstance(tensors.predict(rows), np.ndarray)
    assert arrays.predict_proba(rows).dtype == np.float32
    assert (arrays.predict(rows) == tensors.predict(torch.as_tensor(rows)).numpy()).all()
    assert copy(probe).fit(x.tolist(), y.tolist()).predict(rows.tolist()).dtype == np.int64


@each_probe
def test_labels_need_not_be_counted_from_zero(probe: Probe, digits: Digits) -> None:
    x, y, rows = digits.x[:150], digits.y[:150], digits.test_x[:60]
    names = np.array([-7, 3, 1000, 5, 6, 70, 71, 72, 2**40, -1])
    plain, renamed = copy(probe).fit(x, y), copy(probe).fit(x, names[y])
    assert set(renamed.predict(rows).tolist()) <= set(names.tolist())
    assert renamed.classes_.tolist() == sorted(names.tolist())
    if not plain.cv_:  # folds are dealt by label
        assert (renamed.predict(rows) == names[plain.predict(rows)]).all()
    assert renamed.score(rows, names[digits.test_y[:60]]) > 0.7


@each_probe
def test_probabilities_sum_to_one_and_agree_with_the_prediction(probe: Probe, digits: Digits) -> None:
    fitted = copy(probe).fit(digits.x[:120], digits.y[:120])
    shares = fitted.predict_proba(digits.test_x.astype(np.float64))
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-12)
    assert shares.min() >= 0
    found = np.asarray(fitted.classes_)[shares.argmax(1)]
    assert (found == fitted.predict(digits.test_x.astype(np.float64))).all()
    truth = digits.test_y
    assert fitted.score(digits.test_x, truth) == pytest.approx((fitted.predict(digits.test_x) == truth).mean())


@each_probe
def test_two_fits_are_equal_to_the_bit(probe: Probe, digits: Digits) -> None:
    one, two = (copy(probe).fit(digits.x[:120], digits.y[:120]) for _ in range(2))
    a, b = one.state().tensors, two.state().tensors
    assert all(torch.equal(a[name], b[name]) for name in a)


@each_probe
def test_float32_and_float64_of_the_same_numbers_agree(probe: Probe, digits: Digits) -> None:
    single = copy(probe).fit(digits.x[:200], digits.y[:200]).predict_proba(digits.test_x)
    double = copy(probe).fit(digits.x[:200].astype(np.float64), digits.y[:200])
    np.testing.assert_allclose(single, double.predict_proba(digits.test_x.astype(np.float64)), atol=2e-5)


def test_half_precision_and_integer_features_are_accepted(digits: Digits) -> None:
    pixels = torch.as_tensor(digits.x[:120])
    expected = RidgeProbe(1.0).fit(pixels, digits.y[:120]).coef_
    for dtype in (torch.float16, torch.bfloat16, torch.uint8):
        assert torch.equal(RidgeProbe(1.0).fit(pixels.to(dtype), digits.y[:120]).coef_, expected)


@pytest.mark.filterwarnings("error")
def test_read_only_and_strided_arrays_are_accepted(digits: Digits) -> None:
    x = digits.x[:120].copy()
    expected = RidgeProbe(1.0).fit(x, digits.y[:120]).coef_
    x.flags.writeable = False
    assert torch.equal(RidgeProbe(1.0).fit(x, digits.y[:120]).coef_, expected)
    torch.testing.assert_close(RidgeProbe(1.0).fit(x[::-1], digits.y[:120][::-1]).coef_, expected)
    assert torch.equal(RidgeProbe(1.0).fit(x.astype(">f4"), digits.y[:120]).coef_, expected)


@each_probe
def test_parameters_are_read_set_and_cloned_as_in_scikit_learn(probe: Probe) -> None:
    from sklearn.base import clone

    assert clone(probe).get_params() == probe.get_params()
    name = next(iter(probe.get_params()))
    assert copy(probe).set_params(**{name: 3}).get_params()[name] == 3
    with pytest.raises(UsageError, match="known: "):
        copy(probe).set_params(alpha=1)


@each_probe
def test_states_survive_a_safetensors_file(probe: Probe, digits: Digits, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    fitted = copy(probe).fit(digits.x[:120], digits.y[:120])
    state = fitted.state()
    save_file(state.tensors, tmp_path / "probe.safetensors")
    params = json.loads(json.dumps(state.params))
    again = from_state(ProbeState(state.probe, params, load_file(tmp_path / "probe.safetensors")))
    assert (again.predict_proba(digits.test_x) == fitted.predict_proba(digits.test_x)).all()
    assert again.protocol() == fitted.protocol()
    assert json.loads(json.dumps(fitted.protocol())) == fitted.protocol()


def test_a_wrong_state_is_refused(digits: Digits) -> None:
    state = RidgeProbe(1.0).fit(digits.x[:120], digits.y[:120]).state()
    with pytest.raises(InputError, match="no LinearProbe"):
        LinearProbe.from_state(state)
    with pytest.raises(InputError, match="did you mean"):
        from_state(ProbeState("RidgeProb", state.params, state.tensors))
    with pytest.raises(InputError, match="lacks coef_"):
        from_state(ProbeState(state.probe, state.params, {k: v for k, v in state.tensors.items() if k != "coef_"}))


X = np.arange(12.0).reshape(4, 3) ** 2
Y = [0, 0, 1, 1]


@each_probe
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, [5, 5, 5, 5], "of class 5"),
        (X * [np.nan, 1, np.inf], Y, "2 of 3 feature columns"),
        (X, None, "labels=FILE.csv"),
        (X, [0, 1, 1], "4 rows of features and 3 labels"),
        (X, [0.0, 1.0, 0.0, 1.0], "expected integers"),
        (X, [[1, 0], [0, 1], [1, 0], [0, 1]], "one-hot"),
        (X, ["a", "b", "a", "b"], "expected numbers"),
        (X[0], Y, "expected \\(images, features\\)"),
        (X[:0], [], "expected \\(images, features\\)"),
        (None, Y, "no features"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(probe: Probe, x: Any, y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        copy(probe).fit(x, y)


@each_probe
def test_a_fitted_probe_knows_its_width_and_an_unfitted_one_says_so(probe: Probe, digits: Digits) -> None:
    with pytest.raises(UsageError, match="not fitted"):
        copy(probe).predict(X)
    with pytest.raises(UsageError, match="not fitted"):
        copy(probe).state()
    fitted = copy(probe).fit(digits.x[:60], digits.y[:60])
    with pytest.raises(InputError, match="3 columns, and the probe was fitted on 64"):
        fitted.predict(X)
    with pytest.raises(InputError, match="1 of 64 feature columns"):
        fitted.predict(np.where(np.arange(64) == 3, np.nan, digits.test_x))


@pytest.mark.parametrize("value", ["best", -1.0, float("nan"), float("inf"), [], [1.0, -1.0], None, "1"])
@pytest.mark.parametrize("kind", [RidgeProbe, LinearProbe])
def test_wrong_penalties(kind: type[Probe], value: Any) -> None:
    with pytest.raises(UsageError, match='"cv"'):
        kind(value).fit(X, Y)


def test_penalties_may_be_numpy_numbers() -> None:
    assert RidgeProbe(np.float32(2.0)).fit(X, Y).penalty_ == 2.0
    assert RidgeProbe(np.logspace(-1, 1, 3), folds=2).fit(X, Y).protocol()["params"]["l2"] == [0.1, 1.0, 10.0]
    with pytest.raises(UsageError, match="c=0"):
        LinearProbe(0).fit(X, Y)
    with pytest.raises(UsageError, match="1 folds"):
        RidgeProbe(folds=1).fit(X, Y)


def test_labels_that_were_never_seen_count_as_wrong() -> None:
    assert RidgeProbe(1.0).fit(X, Y).score(X, [0, 0, 1, 9]) == 0.75
