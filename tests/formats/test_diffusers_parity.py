"""The three folders of diffusers beside the repository: outputs, taps, samplers."""

import pytest
import torch

import diffrep as dr
from diffrep.errors import UsageError
from diffrep.noise import stack
from tests.formats.parity import SAMPLER, case

LINEAR = dr.DiscreteSchedule.linear()


@pytest.mark.parametrize(
    "inside", ["", "pipeline", "pipeline/unet", "pipeline/unet/diffusion_pytorch_model.safetensors"]
)
def test_a_pipeline_and_its_unet_are_the_same_model(inside):
    c = case("diffusers-ddpm")
    model = dr.load(c.folder / inside)
    c.close("output", model(c["x_t"], model.schedule.at(c["t"])).eps)


def test_the_scheduler_is_the_models_schedule():
    c = case("diffusers-ddpm")
    model = dr.load(c.folder)
    c.close("alphas_cumprod", model.schedule.alphas_cumprod)
    alpha, sigma = model.schedule.at(c["t"]).like(c["x_0"])
    c.close("x_t", alpha * c["x_0"] + sigma * c["noise"])
    assert model.schedule.time_of(model.schedule.at(torch.arange(1000))).equal(torch.arange(1000).double())
    walked = model.schedule.path(10, rule=model.sampling.rule)
    assert model.schedule.time_of(walked[torch.arange(10)]).long().equal(c["ddim10_timesteps"])


def test_official_tap_names_give_official_values():
    c = case("diffusers-ddpm")
    model = dr.load(c.folder)
    maps = dr.read(model, c["x_t"], model.schedule.at(c["t"]), ["up_blocks.0", "up_blocks.1", "mid_block"])
    for k in (0, 1):
        c.close(f"up_block_{k}", maps[f"up_blocks.{k}"].mean((2, 3)))


@pytest.mark.parametrize("k", [0, 1])
def test_features_are_the_official_pooled_ones(k):
    c = case("diffusers-ddpm")
    model = dr.load(c.folder)
    features = dr.TapFeatures(model, ["up_blocks.0", "up_blocks.1"], levels=model.schedule.at([int(c["t"][k])]))
    found = features(c["x_0"], noise=c["noise"])
    for name, value in found.items():
        expected = c[f"up_block_{name[len('up_blocks.')]}"]
        assert float((value[k] - expected[k]).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_samplers_follow_the_schedulers():
    c = case("diffusers-ddpm")
    model = dr.load(c.folder)
    c.close("ddim10", dr.ddim(model, c["x_T"], model.schedule.path(10, rule=model.sampling.rule)), SAMPLER)
    t = int(c["t"][0])
    path = stack([model.schedule.at(t), model.schedule.at(t - 1)])
    c.close("ddpm_step", dr.ddpm(model, c["x_t"][:1], path, noise=lambda step, shape: c["noise"][:1]), SAMPLER)


@pytest.mark.parametrize("inside", ["", "transformer"])
def test_dit_predicts_noise_and_variance(inside):
    c = case("diffusers-dit")
    model = dr.load(c.folder / inside, schedule=LINEAR)
    answer = model(c["x_t"], LINEAR.at(c["t"]), y=c["y"])
    c.close("output", torch.cat([answer.eps, answer.log_variance], dim=1))


def test_dit_without_a_label_has_its_null_class():
    c = case("diffusers-dit")
    model = dr.load(c.folder, schedule=LINEAR)
    answer = model(c["x_t"], LINEAR.at(c["t"])).eps
    assert torch.equal(answer[1:], model(c["x_t"], LINEAR.at(c["t"]), y=c["y"]).eps[1:])


@pytest.mark.parametrize("name", ["diffusers-dit", "diffusers-unet-condition"])
def test_without_a_scheduler_the_schedule_asks_for_one(name):
    c = case(name)
    if "condition" in name:
        pytest.importorskip("diffusers", reason="the class of diffusers runs this network")
    with pytest.raises(UsageError, match=r"schedule=dr\.DiscreteSchedule\.linear\(\)"):
        dr.load(c.folder).schedule.at(10)


def test_a_given_and_an_empty_prompt():
    pytest.importorskip("diffusers", reason="the class of diffusers runs this network")
    c = case("diffusers-unet-condition")
    level = LINEAR.at(c["t"])
    c.close("output_zero_context", dr.load(c.folder, schedule=LINEAR)(c["x_t"], level).eps)
    told = {"encoder_hidden_states": c["context"]}
    model = dr.load(c.folder / "unet", schedule=LINEAR, architecture=told)
    c.close("output", model(c["x_t"], level).eps)
    maps = dr.read(model, c["x_t"], level, ["up_blocks.0", "up_blocks.1"])
    for k in (0, 1):
        c.close(f"up_block_{k}", maps[f"up_blocks.{k}"].mean((2, 3)))
