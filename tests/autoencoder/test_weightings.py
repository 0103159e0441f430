"""Loss weights against the table of PDAE 1.6 and the official program's own table."""

import math

import pytest
import torch
from torch import Tensor

from diffrep.autoencoder import WEIGHTINGS, weight
from diffrep.errors import UsageError
from diffrep.schedules import DiscreteSchedule

LINEAR = DiscreteSchedule.linear()
TABLE = [  # name, gamma, weights at t = 0, 1, 500, 999
    ("uniform", None, (1, 1, 1, 1)),
    ("pdae", None, (2.5118613e-4, 5.1051352e-4, 0.72017844, 0.36356118)),
    ("pdae", 0.0, (1e-4, 2.199e-4, 0.92220, 0.99996)),
    ("pdae", 1.0, (0.9999, 0.99978, 0.07780, 4.036e-5)),
    ("pdae", 0.5, (0.0099995, 0.014828, 0.26785, 6.353e-3)),
    ("p2", None, (1e-4, 2.199e-4, 0.92220, 0.99996)),
    ("p2", 0.5, (0.01, 0.014829, 0.96031, 0.99998)),
    ("min_snr", None, (5.0005e-4, 1.0998e-3, 1, 1)),
]


@pytest.mark.parametrize(("name", "gamma", "expected"), TABLE)
def test_weights_equal_the_table(name: str, gamma: float | None, expected: tuple[float, ...]) -> None:
    found = weight(name, LINEAR.at([0, 1, 500, 999]).log_snr, gamma=gamma)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_pdae_weight_has_its_top_where_the_formula_says_so() -> None:
    weights = weight("pdae", LINEAR.at(range(1000)).log_snr)
    assert int(weights.argmax()) == 475
    assert float(weights.max()) == pytest.approx(0.72246665, rel=1e-7)
    assert float(weights.mean()) == pytest.approx(0.49267421, rel=1e-7)


def test_min_snr_bends_between_t_129_and_t_130() -> None:
    below, above = weight("min_snr", LINEAR.at([129, 130]).log_snr).tolist()
    assert below < 1
    assert above == 1


def test_weights_of_all_steps_are_the_official_ones(official: dict[str, Tensor]) -> None:
    for schedule, name in ((LINEAR, "table_weight"), (DiscreteSchedule.cosine(), "table_cosine_weight")):
        found = weight("pdae", schedule.at(range(1000)).log_snr)
        torch.testing.assert_close(found, official[name], rtol=1e-6, atol=0)


CASES = [*((name, None) for name in WEIGHTINGS), *((name, g) for name in ("pdae", "p2") for g in (0.0, 1.0))]


@pytest.mark.parametrize(("name", "gamma"), CASES)
def test_weights_are_finite_from_image_to_noise(name: str, gamma: float | None) -> None:
    found = weight(name, torch.tensor([-math.inf, -700.0, 0.0, 700.0, math.inf]), gamma=gamma)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()


def test_ends_of_the_pdae_weight_are_zero() -> None:
    assert weight("pdae", torch.tensor([-math.inf, math.inf])).tolist() == [0, 0]


def test_unknown_names_and_needless_parameters_are_refused() -> None:
    with pytest.raises(UsageError, match=r'did you mean "min_snr"'):
        weight("minsnr", torch.zeros(()))
    with pytest.raises(UsageError, match="has no gamma"):
        weight("uniform", torch.zeros(()), gamma=0.5)
