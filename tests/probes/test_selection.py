"""Selection: what is chosen, that the test set is not looked at, and what is written down."""

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diffrep.errors import InputError, UsageError
from diffrep.probes import KNNProbe, LinearProbe, Probe, RidgeProbe, select, stratified_folds
from tests.probes.stand_in import FeatureSet, make_splits

PROBES = [RidgeProbe(), RidgeProbe(1.0), LinearProbe(0.01), KNNProbe()]
each_probe = pytest.mark.parametrize("probe", PROBES, ids=repr)
each_rule = pytest.mark.parametrize("cv", [None, 4])
SIZES = (150, 60, 80)


@each_probe
@each_rule
def test_only_the_winner_is_read_of_the_test_set(probe: Probe, cv: int | None) -> None:
    train, val, test = make_splits(6, SIZES)
    chosen = select(probe, train, val, test, cv=cv)
    assert test.read == [chosen.name]
    test.forbidden = set(test.names) - {chosen.name}
    assert select(probe, train, val, test, cv=cv).record() == chosen.record()
    assert "test" not in json.dumps(chosen.table)


@each_rule
def test_the_test_set_does_not_move_the_choice(cv: int | None) -> None:
    train, val, test = make_splits(6, SIZES)
    chosen = select(RidgeProbe(), train, val, test, cv=cv)
    rng = np.random.default_rng(0)
    junk = {name: rng.normal(size=x.shape) for name, x in test.arrays.items()}
    other = select(RidgeProbe(), train, val, FeatureSet(junk, rng.integers(0, 5, 80), "test"), cv=cv)
    assert (other.name, other.validation, other.table) == (chosen.name, chosen.validation, chosen.table)
    assert other.score < 0.45


@each_probe
def test_on_validation_it_is_a_fit_on_train_for_every_cell(probe: Probe) -> None:
    train, val, test = make_splits(5, SIZES)
    chosen = select(probe, train, val, test)
    fitted = {n: type(probe)(**probe.get_params()).fit(train[n], train.labels) for n in train.names}
    table = {n: p.score(val[n], val.labels) for n, p in fitted.items()}
    assert {row["name"]: row["validation"] for row in chosen.table} == table
    assert chosen.name == min(n for n in table if table[n] == max(table.values()))
    assert chosen.score == fitted[chosen.name].score(test[chosen.name], test.labels)
    assert [row["name"] for row in chosen.table if row["selected"]] == [chosen.name]


@each_probe
def test_by_folds_it_is_the_plain_path_and_a_refit_on_both(probe: Probe) -> None:
    train, val, test = make_splits(5, SIZES)
    chosen = select(probe, train, val, test, cv=4, seed=3)
    y = np.concatenate([train.labels, val.labels])
    fold = stratified_folds(torch.as_tensor(y), 4, 3).numpy()
    for row in chosen.table:
        x = np.concatenate([train[row["name"]], val[row["name"]]])
        plain = plain_accuracies(probe, x, y, fold)
        assert row["validation"] == pytest.approx(max(plain), abs=1e-12)
        penalties = probe.penalties() or [None]
        assert row["penalty"] == penalties[int(np.argmax(plain))]
    x = np.concatenate([train[chosen.name], val[chosen.name]])
    penalty = next(row["penalty"] for row in chosen.table if row["selected"])
    params = {**probe.get_params(), **({probe.penalty: penalty} if probe.penalty else {})}
    assert chosen.score == type(probe)(**params).fit(x, y).score(test[chosen.name], test.labels)


def plain_accuracies(
    probe: Probe, x: NDArray[np.float32], y: NDArray[np.int64], fold: NDArray[np.int64]
) -> list[float]:
    out = []
    for candidate in probe.candidates():
        right = np.zeros(len(y), dtype=bool)
        for f in range(fold.max() + 1):
            held = fold == f
            right[held] = candidate.fit(x[~held], y[~held]).predict(x[held]) == y[held]
        out.append(right.mean())
    return out


def test_the_better_cell_wins_and_names_restrict_the_choice() -> None:
    train, val, test = make_splits(8, (300, 100, 100))
    assert select(RidgeProbe(), train, val, test, cv=5).name >= "cell.005"
    chosen = select(RidgeProbe(), train, val, test, names=["cell.002", "cell.000"], cv=5)
    assert [row["name"] for row in chosen.table] == ["cell.000", "cell.002"]
    assert "cell.007" not in train.read[-2:]


def test_ties_go_to_the_first_name_whatever_the_order() -> None:
    train, val, test = make_splits(1, SIZES)
    for part in (train, val, test):
        part.arrays = {name: part.arrays["cell.000"] for name in ("z", "b", "mid")}
    for names in (None, ["mid", "z", "b"], ["z", "mid", "b"]):
        assert select(RidgeProbe(), train, val, test, names=names).name == "b"


def test_folds_need_no_validation_split() -> None:
    train, _, test = make_splits(3, SIZES)
    chosen = select(RidgeProbe(), train, None, test, cv=3)
    assert chosen.protocol["selected_on"] == ["train"]
    assert chosen.protocol["images"] == {"train": 150, "test": 80}


@each_probe
@each_rule
def test_the_protocol_holds_every_choice(probe: Probe, cv: int | None) -> None:
    chosen = select(probe, *make_splits(3, SIZES), cv=cv, seed=5)
    protocol = chosen.protocol
    assert json.loads(json.dumps(chosen.record())) == chosen.record()
    assert protocol["model"] == "abc"
    assert protocol["folds"] == cv
    assert protocol["seed"] == 5
    assert protocol["images"] == {"train": 150, "validation": 60, "test": 80}
    assert protocol["probe"]["probe"] == type(probe).__name__
    assert protocol["features"]["test"]["pool"] == "mean"
    assert protocol["fitted_on"] == (["train"] if cv is None else ["train", "validation"])
    low, high = chosen.interval
    assert low <= chosen.score <= high


def test_the_given_probe_is_not_changed_and_progress_is_told() -> None:
    probe, told = RidgeProbe(), []
    select(probe, *make_splits(3, SIZES), cv=3, progress=lambda done, total: told.append((done, total)))
    assert not hasattr(probe, "classes_")
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_cannot_be_selected_is_refused() -> None:
    train, val, test = make_splits(2, SIZES)
    with pytest.raises(UsageError, match="cv=5"):
        select(RidgeProbe(), train, None, test)
    with pytest.raises(UsageError, match='did you mean "cell'):
        select(RidgeProbe(), train, val, test, names=["cell.01"])
    more = [FeatureSet({**p.arrays, "x": p.arrays["cell.000"]}, p.labels) for p in (train, val)]
    with pytest.raises(UsageError, match='test features lack "x"'):
        select(RidgeProbe(), more[0], more[1], test)
    with pytest.raises(InputError, match="no features to choose"):
        select(RidgeProbe(), train, val, test, names=[])
    with pytest.raises(InputError, match="test images have no labels"):
        select(RidgeProbe(), train, val, FeatureSet(test.arrays, None, "test"))
    missing = FeatureSet(val.arrays, np.where(np.arange(60) < 2, -1, val.labels))
    with pytest.raises(InputError, match="2 of 60 validation images have no label"):
        select(RidgeProbe(), train, missing, test)
    with pytest.raises(InputError, match="differ in model"):
        select(RidgeProbe(), train, val, FeatureSet(test.arrays, test.labels, "test", {"model": "other"}))
    narrow = FeatureSet({name: x[:, :3] for name, x in val.arrays.items()}, val.labels)
    with pytest.raises(InputError, match="16, 3 columns"):
        select(RidgeProbe(), train, narrow, test, cv=3)
