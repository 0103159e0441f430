"""Scheduler configs: tables to the bit, grids, habits, and DDIM's own way with clipped images."""

from importlib import import_module

import pytest
import torch

import diffrep as dr
from diffrep.continuous import FlowSchedule
from diffrep.errors import FormatError, UsageError
from diffrep.formats.diffusers_scheduler import UnknownSchedule, sampling_of, schedule_of, table
from diffrep.noise import NoiseLevel, stack
from tests.formats.diffusers_models import UNET, close, diffusers, inputs, random, saved

CONFIGS = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid", "num_train_timesteps": 200},
    {"trained_betas": [0.001, 0.01, 0.02, 0.3]},
    {"rescale_betas_zero_snr": True},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: "-".join(map(str, c)) or "default")
def test_the_table_is_diffusers_to_the_bit(config):
    scheduler = diffusers().DDPMScheduler(**config)
    assert torch.equal(table(dict(scheduler.config)), scheduler.alphas_cumprod)


def test_eulers_table_ends_almost_at_pure_noise():
    settings = {"rescale_betas_zero_snr": True, "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100}
    scheduler = diffusers().EulerDiscreteScheduler(**settings)
    ours = table({"_class_name": "EulerDiscreteScheduler", **scheduler.config})
    assert torch.equal(ours, scheduler.alphas_cumprod)
    assert float(ours[-1]) == 2.0**-24


@pytest.mark.parametrize(
    ("spacing", "offset"), [("leading", 0), ("leading", 1), ("leading", 5), ("trailing", 0), ("linspace", 0)]
)
@pytest.mark.parametrize("steps", [1, 7, 10, 30, 48, 122, 300])
def test_the_path_walks_the_schedulers_timesteps(spacing, offset, steps):
    scheduler = diffusers().DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    config = {"_class_name": "DDIMScheduler", **scheduler.config}
    schedule, habits = schedule_of(config, "a"), sampling_of(config, "a")
    path = schedule.path(steps, rule=habits.rule)
    wanted = scheduler.timesteps[scheduler.timesteps >= 0]  # its rounding can add one below
    assert schedule.time_of(path[torch.arange(len(path) - 1)]).long().equal(wanted)
    assert float(path.sigma[-1]) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_sample": False},
        {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"prediction_type": "sample", "beta_schedule": "scaled_linear"},
        {"set_alpha_to_one": False},
        {"clip_sample_range": 2.0},
        {"steps_offset": 5, "set_alpha_to_one": False},
        {
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True,
            "clip_sample": False,
        },
    ],
)
def test_ddim_gives_the_pipelines_images(settings, tmp_path):
    scheduler = diffusers().DDIMScheduler(**settings)
    theirs = random("UNet2DModel", **UNET)
    model = dr.load(saved(theirs, tmp_path, scheduler))
    x = start = inputs(3)[0]
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
        x = scheduler.step(theirs(x, t).sample, t, x).prev_sample
    close(dr.ddim(model, start, model.schedule.path(10, rule=model.sampling.rule)), x, share=1e-4)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_steps_have_the_schedulers_variance(variance, tmp_path, monkeypatch):
    program = import_module(diffusers().DDPMScheduler.__module__)
    scheduler = diffusers().DDPMScheduler(variance_type=variance)
    theirs = random("UNet2DModel", **UNET)
    model = dr.load(saved(theirs, tmp_path, scheduler))
    x = start = inputs(3)[0]
    draws = torch.randn(6, *x.shape, generator=torch.Generator().manual_seed(5))
    for k, t in enumerate(range(5, -1, -1)):
        out = theirs(x, torch.tensor(t)).sample
        monkeypatch.setattr(program, "randn_tensor", lambda *args, k=k, **kwargs: draws[k])
        x = scheduler.step(out, t, x).prev_sample
    path = stack([*(model.schedule.at(t) for t in range(5, -1, -1)), NoiseLevel(1.0, 0.0)])
    close(dr.ddpm(model, start, path, noise=lambda step, shape: draws[step - 1]), x, share=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_schedulers_are_flows_with_their_own_times(shift):
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(shift=shift)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler.config}
    schedule, rule = schedule_of(config, "a"), sampling_of(config, "a").rule
    assert schedule.convention == "flow"
    for steps in (1, 4, 10):
        scheduler.set_timesteps(steps)
        assert torch.allclose(schedule.path(steps, rule=rule).sigma, scheduler.sigmas.double(), atol=1e-6)


def test_solvers_of_flows_are_flows():
    solver = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 2.0}
    assert schedule_of(solver, "a") == FlowSchedule(shift=2.0)


@pytest.mark.parametrize("settings", [{}, {"set_alpha_to_one": False, "clip_sample": True}])
@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"])
def test_settings_that_a_class_does_not_read_are_not_read(kind, settings):
    config = {**diffusers().DDIMScheduler(**settings).config, "_class_name": kind}
    assert schedule_of(config, "a").clean == 1.0
    assert sampling_of(config, "a").clip == (kind == "DDPMScheduler")


def test_an_unknown_schedule_answers_every_question_with_the_fix():
    schedule = UnknownSchedule("mine")
    level = dr.NoiseLevel(0.8, 0.6)
    questions = [
        lambda: schedule.at(1),
        lambda: schedule.time_of(level),
        lambda: schedule.path(10),
        lambda: schedule.sample(1, torch.Generator()),
        lambda: schedule.config(),
        lambda: schedule.convert(level),
        lambda: schedule.check(level),
    ]
    for question in questions:
        with pytest.raises(UsageError, match=r"schedule=dr\.DiscreteSchedule\.linear\(\)"):
            question()
    assert schedule == schedule
    assert schedule != UnknownSchedule("mine")
    assert hash(schedule)


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "linear", "num_train_timesteps": 10, "beta_end": 0.02},
        {"beta_schedule": "laplace", "num_train_timesteps": 10, "beta_start": 1e-4, "beta_end": 0.02},
        {"beta_schedule": "linear", "num_train_timesteps": 9, "beta_start": 0.1, "beta_end": 0.2, "snr_shift_scale": 3},
        {"_class_name": "KarrasVeScheduler"},
    ],
)
def test_a_table_that_is_not_told_or_known_is_asked_for(config):
    schedule = schedule_of(config, "mine")
    assert isinstance(schedule, UnknownSchedule)
    with pytest.raises(UsageError, match="schedule="):
        schedule.at(1)


@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
def test_a_table_without_end_is_refused(kind):
    with pytest.raises(FormatError, match="num_train_timesteps is 1000000000"):
        schedule_of({"beta_schedule": kind, "num_train_timesteps": 10**9, "beta_start": 0.1, "beta_end": 0.2}, "mine")


def test_a_table_that_does_not_fall_is_refused():
    with pytest.raises(FormatError, match="scheduler of mine has no falling table"):
        schedule_of({"trained_betas": [2, 3]}, "mine")


def test_pure_noise_at_the_end_of_a_table(tmp_path):
    settings = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "clip_sample": False}
    theirs, scheduler = random("UNet2DModel", **UNET), diffusers().DDIMScheduler(**settings)
    model = dr.load(saved(theirs, tmp_path, scheduler))
    schedule, (x, _) = model.schedule, inputs(3)
    time = torch.tensor([0.0, 3.5, 998.0, 998.25, 998.5, 999.0], dtype=torch.float64)
    assert torch.allclose(schedule.time_of(schedule.at(time)), time, atol=1e-9)
    assert float(schedule.at(999).alpha) == 0
    assert schedule.at(998.5).alpha < schedule.at(998).alpha
    answer = model(x, schedule.at(999))
    close(answer.x0, -theirs(x, 999).sample)
    assert torch.equal(answer.eps, x)
    assert dr.DiscreteSchedule(**{k: v for k, v in schedule.config().items() if k == "alphas_cumprod"}) == schedule
    for rule in ("pdae", "karras", "uniform-log-snr", "trailing"):
        assert dr.ddim(model, x, schedule.path(4, rule=rule)).isfinite().all()
    code = dr.ShiftAutoencoder.fresh(model, 8)
    loss = dr.ShiftObjective(code).loss_at(x, schedule.at([998, 999]), torch.randn(2, 3, 8, 8))
    assert loss.isfinite().all()
    z = torch.randn(2, 8)
    assert code.decode(z, x, steps=4).isfinite().all()
    assert torch.equal(code.at(z)(x, schedule.at(999)).x0, answer.x0)
