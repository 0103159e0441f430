"""Files of pytorch_diffusion against that program's own answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError
from diffrep.formats.content import Content
from diffrep.formats.pytorch_diffusion import schedule_of
from diffrep.networks.blocks import sinusoid
from diffrep.noise import NoiseLevel, stack
from tests.formats.parity import SAMPLER, case


@pytest.fixture(scope="module")
def answers():
    return case("pytorch-diffusion")


@pytest.fixture(scope="module")
def denoiser(answers):
    return dr.load(answers.folder)


@torch.no_grad()
def test_predictions(denoiser, answers):
    level = denoiser.schedule.at(answers["t"])
    found = denoiser(answers["x_t"], level)
    answers.close("output", found.eps)
    answers.close_x0("pred_xstart", found.clipped().x0, "output", level)
    answers.close("temb_input", sinusoid(answers["t"].float(), 32, "sin-cos", endpoint=True))


def test_taps_by_official_names(denoiser, answers):
    level = denoiser.schedule.at(answers["t"])
    maps = dr.read(denoiser, answers["x_t"], level, ["mid", "mid.block_2"])
    for found in maps.values():
        answers.close("mid", found.mean(dim=(2, 3)))
    sizes = {n: tuple(m.shape[-2:]) for n, m in dr.read(denoiser, answers["x_t"], level, NAMES).items()}
    assert sizes == NAMES


NAMES = {
    "conv_in": (8, 8),
    "down.0.block.0": (8, 8),
    "down.0.downsample": (4, 4),
    "down.1.attn.0": (4, 4),
    "up.1.attn.1": (4, 4),
    "up.1.upsample": (8, 8),
    "up.0.block.1": (8, 8),
}


def test_ancestral_steps_have_the_large_variance(denoiser, answers):
    schedule = denoiser.schedule
    abar = schedule.alphas_cumprod
    torch.testing.assert_close((1 - abar[1:] / abar[:-1]).log(), answers["logvar"][1:], rtol=1e-9, atol=1e-9)
    for k, t in enumerate(answers["t"].tolist()):
        path = stack([schedule.at(t), schedule.at(t - 1) if t else NoiseLevel(1.0, 0.0)])
        noise = answers["noise"][k : k + 1]
        made = dr.ddpm(denoiser, answers["x_t"][k : k + 1], path, noise=lambda step, shape, n=noise: n)
        assert float((made - answers["step"][k : k + 1]).abs().max()) <= 1e-5 * answers.about["step"]["max_abs"]


def test_the_end_of_the_chain(denoiser, answers):
    path = stack([denoiser.schedule.at([4, 3, 2, 1, 0]), NoiseLevel(1.0, 0.0)])
    answers.close("chain_last5", dr.ddpm(denoiser, answers["x_T"], path, noise=answers.noise()), SAMPLER)


def test_the_moving_average_is_taken(denoiser, answers):
    file = "model-790000.ckpt"
    assert dr.load(answers.folder / "ema_diffusion_cifar10_model" / file).identity == denoiser.identity
    assert dr.load(answers.folder / "diffusion_cifar10_model" / file).identity != denoiser.identity


def test_without_its_config_everything_that_is_missing_is_named(answers, tmp_path):
    file = shutil.copy(answers.folder / "ema_diffusion_cifar10_model" / "model-790000.ckpt", tmp_path)
    with pytest.raises(FormatError, match="resolution, beta_schedule, beta_start, beta_end, num_diffusion_timesteps"):
        dr.load(file)
    facts = json.loads((answers.folder / "args.json").read_text())
    with torch.no_grad():
        found = dr.load(file, architecture=facts)
        answers.close("output", found(answers["x_t"], found.schedule.at(answers["t"])).eps)
    for name in ("quad", "const", "jsd"):
        assert dr.load(file, architecture={**facts, "beta_schedule": name}).schedule != found.schedule
    with pytest.raises(FormatError, match="expected linear, quad, const, jsd"):
        dr.load(file, architecture={**facts, "beta_schedule": "sigmoid"})


def test_schedules_by_name():
    """Ho et al.'s program: quad is even in the square root, const is the last beta, jsd is 1/T, 1/(T-1), ..., 1."""
    told = {"num_diffusion_timesteps": 4, "beta_start": 0.01, "beta_end": 0.04}

    def betas(name):
        abar = schedule_of(Content(Path("x"), None, {**told, "beta_schedule": name})).alphas_cumprod
        return (1 - abar / torch.cat([torch.ones(1), abar[:-1]])).tolist()

    assert betas("quad") == pytest.approx([0.01, (2 / 15) ** 2, (1 / 6) ** 2, 0.04])
    assert betas("const") == pytest.approx([0.04] * 4)
    assert betas("jsd") == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"out_ch": 6}, "out_ch is 6, in the file 3"),
        ({"resamp_with_conv": False}, "without convolutions"),
        ({"model_var_type": "learned"}, "expected one of fixedlarge, fixedsmall"),
        ({"num_diffusion_timesteps": 10.5}, "a whole number"),
        ({"num_diffusion_timesteps": "all"}, "a whole number"),
    ],
)
def test_settings_that_the_program_does_not_have_are_refused(answers, wrong, words):
    with pytest.raises(FormatError, match=words):
        dr.load(answers.folder, architecture=wrong)


@pytest.mark.parametrize(
    ("name", "missing"), [("mid.block_1.conv1.bias", "mid.block_1.conv1.bias"), ("mid.attn_1.k.bias", "mid.attn_1.qkv")]
)
def test_loading_is_strict(answers, tmp_path, name, missing):
    state = torch.load(answers.folder / "ema_diffusion_cifar10_model" / "model-790000.ckpt", weights_only=True)
    torch.save({k: v for k, v in state.items() if k != name}, tmp_path / "model.ckpt")
    shutil.copy(answers.folder / "args.json", tmp_path)
    with pytest.raises(FormatError, match=f"1 missing: {missing}"):
        dr.load(tmp_path / "model.ckpt")


def test_a_saved_copy_needs_no_original(denoiser, tmp_path):
    again = dr.load(dr.save(denoiser, tmp_path / "model"))
    assert again.identity == denoiser.identity
    assert again.config() == denoiser.config()
    assert [t.aliases for t in again.taps] == [t.aliases for t in denoiser.taps]


@pytest.mark.parametrize(
    "wrong", [{"ch": 64}, {"ch_mult": [1, 2]}, {"num_res_blocks": 2}, {"attn_resolutions": [8]}, {"in_channels": 1}]
)
def test_facts_of_another_model_are_refused(wrong):
    with pytest.raises(FormatError, match=next(iter(wrong))):
        dr.load(case("pytorch-diffusion").folder, architecture=wrong)
