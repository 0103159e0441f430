"""Few-label accuracy: draws, penalties, intervals and records."""

import json

import numpy as np
import pytest
import torch

from diffrep.errors import InputError, UsageError
from diffrep.probes import KNNProbe, LinearProbe, Probe, RidgeProbe, few_labels, few_shot
from tests.probes.stand_in import FeatureSet, make_splits

TRAIN, _, TEST = make_splits(3, (200, 10, 120))


@pytest.mark.parametrize("probe", [RidgeProbe(), RidgeProbe(1.0), LinearProbe([0.01, 1.0]), KNNProbe(3)], ids=repr)
def test_each_draw_is_a_fit_on_its_own_labels(probe: Probe) -> None:
    found = few_shot(probe, TRAIN, TEST, "cell.002", per_class=4, draws=3, seed=7)
    for draw, score in enumerate(found.scores):
        rows = few_labels(torch.as_tensor(TRAIN.labels), 4, draw, 7).numpy()
        fitted = type(probe)(**probe.get_params()).fit(TRAIN["cell.002"][rows], TRAIN.labels[rows])
        assert score == fitted.score(TEST["cell.002"], TEST.labels)
        assert found.penalties[draw] == fitted.penalty_
    assert found.mean == pytest.approx(np.mean(found.scores))
    assert found.std == pytest.approx(np.std(found.scores, ddof=1))
    assert found.interval[0] <= found.mean <= found.interval[1]
    assert json.loads(json.dumps(found.record())) == found.record()
    assert found.protocol["model"] == "abc"
    assert not hasattr(probe, "classes_")


def test_more_labels_help_and_one_label_is_safe() -> None:
    means = [few_shot(RidgeProbe(), TRAIN, TEST, "cell.002", per_class=n, draws=6).mean for n in (1, 5, 20)]
    assert means[0] < means[1] < means[2]
    assert means[0] > 0.3  # chance is 0.2
    for probe in (LinearProbe("cv"), KNNProbe()):
        assert few_shot(probe, TRAIN, TEST, "cell.002", per_class=1, draws=2).mean > 0.3


def test_two_classes_with_one_label_each() -> None:
    x = np.array([[0.0], [0.1], [1.0], [1.1]], np.float32)
    part = FeatureSet({"a": x}, np.array([0, 0, 1, 1]))
    for probe in (RidgeProbe(), LinearProbe("cv"), KNNProbe()):
        assert len(few_shot(probe, part, part, "a", per_class=1, draws=3).scores) == 3
    assert few_shot(RidgeProbe(), part, part, "a", per_class=1, draws=3).mean == 1.0


def test_another_models_features_get_the_same_draws() -> None:
    train, test = (FeatureSet({"x": part.arrays["cell.002"]}, part.labels) for part in (TRAIN, TEST))
    renamed = few_shot(RidgeProbe(), train, test, "x", draws=3)
    assert renamed.scores == few_shot(RidgeProbe(), TRAIN, TEST, "cell.002", draws=3).scores


def test_one_draw_has_no_interval() -> None:
    found = few_shot(RidgeProbe(1.0), TRAIN, TEST, "cell.001", draws=1)
    assert found.interval is None
    assert found.std == 0.0


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="and 90 per class were asked for"):
        few_shot(RidgeProbe(), TRAIN, TEST, "cell.001", per_class=90)
    with pytest.raises(UsageError, match="draws=0"):
        few_shot(RidgeProbe(), TRAIN, TEST, "cell.001", draws=0)
    with pytest.raises(UsageError, match="did you mean"):
        few_shot(RidgeProbe(), TRAIN, TEST, "cell.01")
    with pytest.raises(InputError, match="train images have no labels"):
        few_shot(RidgeProbe(), FeatureSet(TRAIN.arrays, None), TEST, "cell.001")
