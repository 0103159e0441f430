"""Scheduler configs: tables to the bit, grids, habits, and DDIM's own way with clipped images."""

from importlib import import_module

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError, UsageError
from diffrep.formats.diffusers_common import UnknownSchedule, sampling_of, schedule_of, table
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
    ours, theirs = table(dict(scheduler.config)), scheduler.alphas_cumprod
    if config.get("rescale_betas_zero_snr"):
        assert theirs[-1] == 0
        assert 0 < ours[-1] < 1e-7
        ours, theirs = ours[:-1], theirs[:-1]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0), ("linspace", 0)])
@pytest.mark.parametrize("steps", [1, 7, 10, 30, 300])
def test_the_path_walks_the_schedulers_timesteps(spacing, offset, steps):
    scheduler = diffusers().DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    config = {"_class_name": "DDIMScheduler", **scheduler.config}
    schedule, habits = schedule_of(config, "a"), sampling_of(config, "a")
    path = schedule.path(steps, rule=habits.rule)
    assert schedule.time_of(path[torch.arange(steps)]).long().equal(scheduler.timesteps)
    assert float(path.sigma[-1]) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_sample": False},
        {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"prediction_type": "sample", "beta_schedule": "scaled_linear"},
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


def test_flow_schedulers_are_flows():
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert schedule_of({"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler.config}, "a").convention == "flow"


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


def test_what_a_scheduler_must_tell():
    with pytest.raises(FormatError, match="beta_start"):
        table({"beta_schedule": "linear", "num_train_timesteps": 10, "beta_end": 0.02})
    with pytest.raises(FormatError, match=r'beta_schedule "liner".*linear'):
        table({"beta_schedule": "liner", "num_train_timesteps": 10, "beta_start": 1e-4, "beta_end": 0.02})
    assert isinstance(schedule_of({"_class_name": "ScoreSdeVeScheduler"}, "a"), UnknownSchedule)
