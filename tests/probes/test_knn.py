"""Nearest neighbours against a plain reference."""

import numpy as np
import pytest
import torch

from diffrep.errors import UsageError
from diffrep.probes import KNNProbe, knn
from tests.probes.stand_in import Digits


def plain(x, y, rows, k, temperature):
    x, rows = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, rows))
    out = []
    for row in rows:
        similarity = x @ row
        near = np.argsort(-similarity)[:k]
        votes = np.array([np.exp(similarity[near][y[near] == c] / temperature).sum() for c in np.unique(y)])
        out.append(votes / votes.sum())
    return np.array(out)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (5, 1.0)])
def test_equals_the_plain_vote(digits: Digits, k: int, temperature: float) -> None:
    x, y, rows = digits.x[:300].astype(np.float64), digits.y[:300], digits.test_x[:50].astype(np.float64)
    got = KNNProbe(k, temperature).fit(x, y).predict_proba(rows)
    np.testing.assert_allclose(got, plain(x, y, rows, k, temperature), atol=1e-10)


def test_chunks_change_nothing(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = KNNProbe().fit(digits.x, digits.y)
    whole = probe.predict_proba(digits.test_x)
    monkeypatch.setattr(knn, "SIMILARITIES", 7 * len(digits.y))
    np.testing.assert_allclose(probe.predict_proba(digits.test_x), whole, atol=1e-5)
    monkeypatch.setattr(knn, "SIMILARITIES", 1)
    np.testing.assert_allclose(probe.predict_proba(digits.test_x[:9]), whole[:9], atol=1e-5)


def test_more_neighbours_than_images_are_all_images() -> None:
    x = torch.eye(4)
    probe = KNNProbe(k=20).fit(x, torch.tensor([0, 0, 1, 1]))
    assert probe.k_ == 4
    assert probe.protocol()["k_used"] == 4
    assert probe.predict(x).tolist() == [0, 0, 1, 1]


def test_no_temperature_overflows_and_zero_rows_are_safe() -> None:
    x = torch.cat([torch.eye(3), torch.zeros(1, 3)])
    shares = KNNProbe(k=3, temperature=1e-6).fit(x, [0, 1, 2, 2]).predict_proba(x)
    assert shares.isfinite().all()
    torch.testing.assert_close(shares.sum(1), torch.ones(4))


@pytest.mark.parametrize("params", [{"k": 0}, {"k": 2.5}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_wrong_parameters(params: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        KNNProbe(**params).fit(torch.eye(3), [0, 1, 2])
