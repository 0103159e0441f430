"""PDAE's files where they lie elsewhere, in parts, or broken."""

import shutil

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError
from diffrep.formats.pdae import below_root
from diffrep.noise import stack
from tests.formats.test_pdae import _without_gradients as _without_gradients
from tests.formats.test_pdae import answers as answers
from tests.formats.test_pdae import model as model

LINEAR = dr.DiscreteSchedule.linear()


@pytest.fixture
def copy(answers, tmp_path):
    shutil.copytree(answers.folder, tmp_path / "pdae")
    return tmp_path / "pdae"


def test_an_autoencoder_without_anything_beside_it(copy):
    inner = copy / "trained-models" / "autoencoder" / "celeba64"
    for folder in ("latents", "latent_denoise_fn", "classifier"):
        shutil.rmtree(copy / "trained-models" / folder)
    alone = dr.load(inner)
    assert alone.code_stats is None
    assert alone.prior is None
    assert alone.classifier is None


def test_parts_of_another_autoencoder_stay_out(copy):
    config = copy / "trained-models" / "classifier" / "config.yml"
    config.write_text(config.read_text().replace("autoencoder/celeba64", "autoencoder/ffhq128"))
    model = dr.load(copy)
    assert model.classifier is None
    assert model.prior is not None


def test_without_the_dpm_s_config_its_facts_are_asked_for(copy):
    shutil.rmtree(copy / "pre-trained-dpms")
    inner = copy / "trained-models" / "autoencoder" / "celeba64"
    with pytest.raises(FormatError, match="num_heads, use_new_attention_order"):
        dr.load(inner)
    model = dr.load(inner, architecture={"num_heads": 2, "use_new_attention_order": False})
    assert model.schedule == LINEAR


@pytest.mark.parametrize("written", ["../", "/somebody/else/pdae/", "../../pdae/"])
def test_configs_written_elsewhere_still_name_the_dpm(copy, model, written):
    """The program ran from folders of its own, and on other machines."""
    inner = copy / "trained-models" / "autoencoder" / "celeba64"
    config = inner / "config.yml"
    config.write_text(config.read_text().replace("./pre-trained-dpms", f"{written}pre-trained-dpms"))
    if written == "../../pdae/":
        copy.rename(copy.parent / "moved")
        inner = copy.parent / "moved" / "trained-models" / "autoencoder" / "celeba64"
        with pytest.raises(FormatError, match="num_heads"):  # no such folder: nothing is guessed
            dr.load(inner)
        return
    assert dr.load(inner).denoiser.identity == model.denoiser.identity


@pytest.mark.parametrize("named", ["/etc/hostname", "etc/hostname", "../../../../../../../etc/hostname", "", None, 3])
def test_a_file_outside_of_the_project_is_not_read(copy, named):
    assert below_root(copy / "runs" / "a" / "b.pt", named) is None


def test_a_classifier_without_a_config_belongs_to_the_only_autoencoder_or_to_its_encoder(copy, model, caplog):
    (copy / "trained-models" / "classifier" / "config.yml").unlink()
    assert torch.equal(dr.load(copy).classifier.weight, model.classifier.weight)
    other = copy / "trained-models" / "autoencoder" / "other"
    shutil.copytree(other.parent / "celeba64", other)
    assert dr.load(other.parent / "celeba64").classifier is None
    assert "neither a config nor its encoder names it" in caplog.text
    file = copy / "trained-models" / "classifier" / "checkpoint.pt"
    data, mine = torch.load(file, weights_only=True), torch.load(other / "checkpoint.pt", weights_only=True)
    torch.save({**data, "encoder": mine["ema_encoder"]}, file)  # as the program saves it
    assert torch.equal(dr.load(other).classifier.weight, model.classifier.weight)


def test_a_prior_without_statistics_is_left_out_and_said(copy, caplog):
    shutil.rmtree(copy / "trained-models" / "latents")
    assert dr.load(copy).prior is None
    assert "its latent DPM is left out" in caplog.text


def test_ancestral_steps_never_clamp(copy, answers):
    """`regular_ddpm_sample` does not, though `ddim_sample` does."""
    base = dr.load(copy / "pre-trained-dpms")
    level, then = base.schedule.at(900), base.schedule.at(899)
    x = 3 * answers["x_T"]
    noise = torch.zeros_like(x)
    made = dr.ddpm(base, x, stack([level, then]), noise=lambda step, shape: noise)
    eps = base(x, level).eps
    beta = 1 - float(level.alpha**2 / then.alpha**2)
    assert torch.allclose(made, (x - beta / float(level.sigma) * eps) / (1 - beta) ** 0.5, atol=1e-5)
    assert (base(x, level).x0.abs() > 1).any()


def test_a_part_is_no_model(copy):
    for name in ("latent_denoise_fn/celeba64", "classifier"):
        with pytest.raises(FormatError, match="load the autoencoder"):
            dr.load(copy / "trained-models" / name / "checkpoint.pt")


@pytest.mark.parametrize(
    ("half", "name", "change"),
    [
        ("ema_decoder", "shift_middle_block.0.emb_z_layers.1.bias", "missing"),
        ("ema_decoder", "out.2.bias", "missing"),
        ("ema_encoder", "encoder.8.bias", "missing"),
        ("ema_decoder", "shift_out.7.weight", "left over"),
    ],
)
def test_loading_is_strict(copy, half, name, change):
    file = copy / "trained-models" / "autoencoder" / "celeba64" / "checkpoint.pt"
    data = torch.load(file, weights_only=True)
    data[half].pop(name) if change == "missing" else data[half].update({name: torch.zeros(3)})
    torch.save(data, file)
    with pytest.raises(FormatError, match=f"1 {change}: {name}"):
        dr.load(file)


def test_broken_statistics_are_refused(copy):
    torch.save({"mean": torch.zeros(5), "std": torch.ones(16)}, copy / "trained-models" / "latents" / "celeba64.pt")
    with pytest.raises(FormatError, match="expected two vectors of 16"):
        dr.load(copy)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_networks_are_taken_off(answers, model, copy, prefix):
    """DataParallel and torch.compile put them before every name."""
    for folder in ("trained-models/autoencoder/celeba64", "pre-trained-dpms/celeba64"):
        file = copy / folder / "checkpoint.pt"
        data = torch.load(file, weights_only=True)
        for key in [key for key in data if key.startswith("ema_")]:
            data[key] = {prefix + name: tensor for name, tensor in data[key].items()}
        torch.save(data, file)
    assert torch.equal(dr.load(copy).encode(answers["x_0"]), model.encode(answers["x_0"]))
    assert dr.load(copy / "pre-trained-dpms").identity == model.denoiser.identity


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_channel": 64},
        {"channel_multiplier": [1, 2]},
        {"num_residual_blocks_of_a_block": 2},
        {"attention_resolutions": [1]},
        {"num_class": 4},
        {"learn_sigma": True},
        {"image_size": -1},
        {"timesteps": "all"},
    ],
)
def test_facts_of_another_model_are_refused(answers, wrong):
    with pytest.raises(FormatError, match=next(iter(wrong))):
        dr.load(answers.folder / "pre-trained-dpms", architecture=wrong)


def test_a_code_of_another_width_is_refused(answers):
    with pytest.raises(FormatError, match="latent_dim is 99, in the file 16"):
        dr.load(answers.folder, architecture={"latent_dim": 99})
