"""The scales of the shift against the tables of PDAE 1.2 and the official program's own."""

import pytest
import torch
from torch import Tensor

from diffrep.autoencoder import kappa
from diffrep.autoencoder.shifted import coefficient
from diffrep.continuous import EDMSchedule, FlowSchedule
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.schedules import DiscreteSchedule

LINEAR = DiscreteSchedule.linear()
TABLE = {  # t: kappa, training coefficient
    0: (0.0, 0.0),
    1: (0.4547085, -0.0067430055),
    2: (0.6112932, -0.011593913),
    10: (0.8637221, -0.040451596),
    100: (0.9810761, -0.31769057),
    500: (0.9941044, -0.95465251),
    999: (0.9899487, -0.98992870),
}


def test_kappa_and_coefficient_equal_the_table() -> None:
    level = LINEAR.at(list(TABLE))
    c = coefficient("posterior", LINEAR, level, torch.zeros(len(TABLE), 1, dtype=torch.float64)).flatten()
    assert kappa(LINEAR, level).tolist() == pytest.approx([k for k, _ in TABLE.values()], rel=1e-6, abs=0)
    assert c.tolist() == pytest.approx([c for _, c in TABLE.values()], rel=1e-7, abs=0)


def test_training_coefficients_of_all_steps_are_the_official_ones(official: dict[str, Tensor]) -> None:
    torch.testing.assert_close(LINEAR.alphas_cumprod, official["table_alphas_cumprod"], rtol=1e-6, atol=0)
    column = torch.zeros(1000, 1, dtype=torch.float64)
    for schedule, name in ((LINEAR, "table_shift_coef"), (DiscreteSchedule.cosine(), "table_cosine_shift_coef")):
        found = coefficient("posterior", schedule, schedule.at(range(1000)), column).flatten()
        torch.testing.assert_close(found[1:], official[name][1:], rtol=1e-6, atol=0)
        assert abs(float(found[0])) <= 1e-12


@pytest.mark.parametrize("steps", [5, 10, 20, 50, 100, 999, 1000])
def test_paths_are_the_official_grids(official: dict[str, Tensor], steps: int) -> None:
    times = LINEAR.time_of(LINEAR.path(steps, rule="pdae", direction="up"))
    assert times.tolist() == official[f"grid_ddim{steps}"].tolist()


@pytest.mark.parametrize("steps", [5, 10, 100])
def test_sampling_coefficients_are_the_official_ones(official: dict[str, Tensor], steps: int) -> None:
    path = LINEAR.path(steps, rule="pdae", direction="up")
    found = coefficient("score", LINEAR, path, torch.zeros(len(path), 1)).flatten()
    expected = official[f"ddim{steps}_sampling_shift_coef"].float()
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-5, atol=0)  # its table is a float32 recursion
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=0)


def test_kappa_between_two_steps_lies_between_theirs_and_ignores_convention() -> None:
    low, between, high = kappa(LINEAR, LINEAR.at([1.0, 1.5, 2.0])).tolist()
    assert low < between < high
    level = LINEAR.at(1.5)
    same = NoiseLevel.from_sigma(level.sigma / level.alpha)
    assert float(kappa(LINEAR, same)) == pytest.approx(between, rel=1e-9)


def test_kappa_survives_float32() -> None:
    level = LINEAR.at(range(1000))
    rough = NoiseLevel(level.alpha.float(), level.sigma.float())
    torch.testing.assert_close(kappa(LINEAR, rough), kappa(LINEAR, level), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [EDMSchedule(), FlowSchedule()])
def test_continuous_schedules_have_no_posterior_scale(schedule: EDMSchedule | FlowSchedule) -> None:
    with pytest.raises(UsageError, match='training_scale="score"'):
        kappa(schedule, schedule.at(0.5))
