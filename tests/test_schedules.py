"""Schedules against the published tables, and time as the exact inverse of level."""

import numpy as np
import pytest
import torch

from diffrep.continuous import EDMSchedule, FlowSchedule
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.paths import TABLE_RULES
from diffrep.randomness import Draw
from diffrep.schedules import DiscreteSchedule, schedule_from_config

ALL = [DiscreteSchedule.linear(), DiscreteSchedule.cosine(), EDMSchedule(), FlowSchedule()]


@pytest.mark.parametrize(
    ("t", "alpha_bar", "snr"),
    [(0, 0.9999, 9999), (1, 0.9997800921, 4546.3577), (10, 0.9978065725, 454.90748), (500, 0.07779665837, 0.084359549)],
)
def test_the_linear_schedule_has_the_published_values(t, alpha_bar, snr):
    level = DiscreteSchedule.linear().at(t)
    assert float(level.alpha**2) == pytest.approx(alpha_bar, rel=1e-9)
    assert float(level.snr) == pytest.approx(snr, rel=1e-7)


def test_the_cosine_schedule_has_the_published_betas():
    table = DiscreteSchedule.cosine().alphas_cumprod
    betas = 1 - table[1:] / table[:-1]
    assert 1 - float(table[0]) == pytest.approx(4.12842e-5, rel=1e-5)
    assert float(betas[-2]) == pytest.approx(0.75, abs=1e-6)
    assert float(betas[-1]) == pytest.approx(0.999, abs=1e-9)


def test_the_edm_table_is_the_published_one_ascending():
    sigma = EDMSchedule().at(torch.arange(18)).sigma
    assert sigma[[0, 3, 4, 17]].tolist() == pytest.approx([0.002, 0.05994731125, 0.1395164743, 80.0], rel=1e-6)


@pytest.mark.parametrize("schedule", ALL[:3], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("convention", ["vp", "ve", "flow"])
def test_time_of_is_exact_on_the_schedules_own_levels_in_any_convention_and_precision(schedule, dtype, convention):
    times = torch.arange(len(schedule))
    level = schedule.at(times)
    same = NoiseLevel.of(level.log_snr, convention)
    found = schedule.time_of(NoiseLevel(same.alpha.to(dtype), same.sigma.to(dtype)))
    if dtype == torch.float64 or convention != "flow":  # a float32 1 - s has lost the noise of the cleanest levels
        assert torch.equal(found, times.double())


def test_fractional_times_lie_between_their_neighbours():
    schedule = DiscreteSchedule.linear()
    middle = schedule.at(10.5)
    assert schedule.at(11).log_snr < middle.log_snr < schedule.at(10).log_snr
    assert float(schedule.time_of(middle)) == pytest.approx(10.5)
    assert torch.equal(schedule.at(10.0005).alpha, schedule.at(10).alpha)  # snapped


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_a_schedule_is_made_again_from_its_config(schedule):
    assert schedule_from_config(schedule.config()) == schedule


def test_a_table_keeps_its_rounding():
    table = torch.linspace(0.99, 0.01, 7, dtype=torch.float32)
    assert torch.equal(DiscreteSchedule(table).alphas_cumprod, table.double())


@pytest.mark.parametrize(
    ("steps", "points"),
    [
        (1, [0, 999]),
        (5, [0, 199, 399, 599, 799, 999]),
        (10, [0, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999]),
    ],
)
def test_the_pdae_grid(steps, points):
    schedule = DiscreteSchedule.linear()
    assert schedule.time_of(schedule.path(steps, "pdae", "up")).tolist() == points
    assert schedule.time_of(schedule.path(steps, "pdae")).tolist() == points[::-1]


def test_the_pdae_grid_floors_the_float_product_and_drops_duplicates():
    schedule = DiscreteSchedule.linear()
    assert schedule.time_of(schedule.path(123, "pdae", "up"))[41] == 332
    assert len(schedule.path(1000, "pdae")) == 1000  # 999 steps


def test_the_guided_diffusion_grid_has_an_integer_stride_and_ends_at_the_image():
    schedule = DiscreteSchedule.linear()
    path = schedule.path(50, "guided-diffusion")
    assert schedule.time_of(path[:-1]).tolist() == list(range(980, -1, -20))
    assert (float(path.alpha[-1]), float(path.sigma[-1])) == (1, 0)
    assert len(schedule.path(7, "guided-diffusion")) == 8
    assert float(schedule.path(50, "guided-diffusion", "up").alpha[-1]) == 0


def test_the_ddae_grid_starts_at_990_and_ends_before_the_table():
    schedule = DiscreteSchedule(DiscreteSchedule.linear().alphas_cumprod, clean=0.9999)
    path = schedule.path(100, "ddae")
    assert schedule.time_of(path[:-1])[[0, -1]].tolist() == [990, 0]
    assert float(path.alpha[-1]) == pytest.approx(np.sqrt(0.9999))
    assert len(schedule.path(300, "ddae")) == 335  # 334 evaluations, as the official program


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("rule", ["karras", "uniform-log-snr"])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_general_rules_stay_in_range_and_run_one_way(schedule, rule, steps):
    low, high = schedule.log_snr_range
    for direction in ("down", "up"):
        path = schedule.path(steps, rule, direction)
        assert len(path) == steps + 1
        inside = path.log_snr[torch.isfinite(path.log_snr)]
        assert bool((inside >= low - 1e-9).all())
        assert bool((inside <= high + 1e-9).all())
        change = path.log_snr[1:] - path.log_snr[:-1]
        assert bool((change > 0).all()) if direction == "down" else bool((change < 0).all())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda s: s.at(1000), "1000"),
        (lambda s: s.at(-1), "-1"),
        (lambda s: s.at([0, 1200]), "t = 1200.0 is outside"),
        (lambda s: s.at("x"), "t = 'x'"),
        (lambda s: s.at([[1], [2]]), "shape"),
        (lambda s: s.path(10, "pdea"), "pdae"),
        (lambda s: s.path(0), "at least 1"),
        (lambda s: s.path(10, direction="sideways"), "up"),
        (lambda s: s.time_of(NoiseLevel.from_sigma(1e-3)), "range"),
        (lambda s: s.check(NoiseLevel(1.0, 0.0)), "range"),
        (lambda s: EDMSchedule().path(10, "pdae"), "karras"),
        (lambda s: DiscreteSchedule([0.1, 0.9]), "falling"),
    ],
)
def test_what_is_wrong_is_named(wrong, named):
    with pytest.raises(UsageError, match=named):
        wrong(DiscreteSchedule.linear())


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("rule", TABLE_RULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
def test_any_number_of_steps_gives_a_way_to_walk(rule, steps, direction):
    schedule = DiscreteSchedule.linear()
    path = schedule.path(steps, rule, direction)
    gain = path.log_snr.diff()
    assert len(gain) >= 1
    assert bool((gain > 0).all() if direction == "down" else (gain < 0).all())
    schedule.check(path[0])  # the network is evaluated at every level but the last


def test_a_flow_runs_from_the_image_at_0_to_noise_at_1():
    schedule = FlowSchedule()
    level = schedule.at([0.0, 0.25, 1.0])
    assert level.alpha.tolist() == [1.0, 0.75, 0.0]
    assert level.sigma.tolist() == [0.0, 0.25, 1.0]
    for convention in ("vp", "ve", "flow"):
        same = NoiseLevel.of(schedule.at(0.25).log_snr, convention)
        assert float(schedule.time_of(same)) == pytest.approx(0.25)


@pytest.mark.parametrize("source", ["draw", "generator"])
def test_levels_are_drawn_from_the_distribution_of_training(source):
    n = 4000

    def drawn(schedule):
        ids = [str(k) for k in range(n)]
        return schedule.sample(n, Draw(0, 0, ids) if source == "draw" else torch.Generator().manual_seed(0))

    small = DiscreteSchedule.linear(steps=5)
    counts = small.time_of(drawn(small)).long().bincount(minlength=5)
    assert counts.sum() == n
    assert counts.tolist() == pytest.approx([n / 5] * 5, abs=5 * (n * 0.16) ** 0.5)
    log_sigma = drawn(EDMSchedule(p_mean=-1.2, p_std=0.8)).sigma.log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=0.06)
    assert float(log_sigma.std()) == pytest.approx(0.8, abs=0.05)
    s = drawn(FlowSchedule()).sigma
    assert (float(s.mean()), float(s.std())) == pytest.approx((0.5, 12**-0.5), abs=0.02)
    s = drawn(FlowSchedule("logit-normal")).sigma
    assert (float(s.logit().mean()), float(s.logit().std())) == pytest.approx((0, 1), abs=0.07)


def test_the_grids_of_diffusers_have_their_points():
    """T = 10 in 5 steps, as its schedulers' set_timesteps gives them (steps_offset 0 and 1)."""
    schedule = DiscreteSchedule.linear(steps=10)
    wanted = {
        "leading": [8, 6, 4, 2, 0],
        "leading-1": [9, 7, 5, 3, 1],
        "trailing": [9, 7, 5, 3, 1],
        "linspace": [9, 7, 4, 2, 0],
    }
    for rule, points in wanted.items():
        assert schedule.time_of(schedule.path(5, rule)[:-1]).tolist() == points, rule
