"""Schedules of the score SDEs: closed forms, inverses, training distributions."""

import math

import pytest
import torch

from diffrep.continuous import VESchedule, VPSchedule
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.randomness import Draw, generator
from diffrep.schedules import Schedule, schedule_from_config

SCHEDULES = [VPSchedule(), VPSchedule(9.9, 0.0, 1e-3), VESchedule(), VESchedule(0.01, 50.0)]


def test_vp_is_the_closed_form_of_the_sde() -> None:
    level = VPSchedule().at([1e-5, 0.3, 1.0])
    sigma = [math.sqrt(math.exp(0.5 * 19.9 * t * t + 0.1 * t) - 1) for t in (1e-5, 0.3, 1.0)]
    assert (level.sigma / level.alpha).tolist() == pytest.approx(sigma, rel=1e-9)
    assert (level.alpha**2 + level.sigma**2).tolist() == pytest.approx([1.0] * 3)


def test_ve_is_a_geometric_row_of_sigma() -> None:
    level = VESchedule().at([0.0, 0.5, 1.0])
    assert level.alpha.tolist() == [1.0] * 3
    assert level.sigma.tolist() == pytest.approx([0.02, math.sqrt(2), 100.0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_of_is_the_inverse_of_at_in_any_convention(schedule: Schedule) -> None:
    low = getattr(schedule, "t_min", 0.0)
    times = torch.linspace(low, 1, 11, dtype=torch.float64)
    level = schedule.at(times)
    for convention in ("vp", "ve", "flow"):
        back = schedule.time_of(NoiseLevel.of(level.log_snr, convention))
        assert back.tolist() == pytest.approx(times.tolist(), abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_range_config_paths_and_samples(schedule: Schedule) -> None:
    low, high = schedule.log_snr_range
    ends = schedule.at([1.0, getattr(schedule, "t_min", 0.0)]).log_snr.tolist()
    assert [low, high] == pytest.approx(ends)
    assert schedule_from_config(schedule.config()) == schedule
    path = schedule.path(5)
    assert path.log_snr[0] == pytest.approx(low)
    assert path.log_snr[4] == pytest.approx(high)
    drawn = schedule.sample(2000, generator(0, "test"))
    times = schedule.time_of(drawn)
    assert float(times.mean()) == pytest.approx(0.5, abs=0.03)
    by_id = schedule.sample(2, Draw(0, 1, ["a", "b"]))
    assert by_id.log_snr.tolist() == schedule.sample(2, Draw(0, 1, ["a", "b"])).log_snr.tolist()


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"t = 1\.5"):
        VPSchedule().at(1.5)
    with pytest.raises(UsageError, match="outside the schedule's range"):
        VESchedule().time_of(NoiseLevel.from_sigma(200.0))
    with pytest.raises(UsageError, match="sigma_min < sigma_max"):
        VESchedule(2.0, 1.0)
    with pytest.raises(UsageError, match="beta_d > 0"):
        VPSchedule(beta_d=0.0)
