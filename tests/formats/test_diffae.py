"""Diff-AE's Lightning files against that program's own answers."""

import json
import shutil

import pytest
import torch

import diffrep as dr
from diffrep.autoencoder import ConditionalAutoencoder
from diffrep.errors import FormatError, InputError
from diffrep.formats.state_dicts import read_file
from tests.formats.parity import SAMPLER, Case, case

NAMES = ["celeba64d2c_autoenc", "celeba64d2c_autoenc_latent", "celeba64d2c_ddpm"]


@pytest.fixture(scope="module")
def answers() -> Case:
    return case("diff-ae")


@pytest.fixture(scope="module")
def models(answers):
    return {name: dr.load(answers.folder / "checkpoints" / name) for name in NAMES}


@pytest.fixture(scope="module")
def autoencoder(models) -> ConditionalAutoencoder:
    return models[NAMES[0]]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def halved(images):
    """The program gives images in [0, 1]."""
    return images / 2 + 0.5


def test_three_models_below_one_folder_are_listed(answers):
    with pytest.raises(InputError) as caught:
        dr.load(answers.folder)
    assert all(name in str(caught.value) for name in NAMES)


def test_kinds(models):
    kinds = [type(model).__name__ for model in models.values()]
    assert kinds == ["ConditionalAutoencoder", "ConditionalAutoencoder", "Denoiser"]


def test_codes_and_predictions(answers, autoencoder):
    level = autoencoder.schedule.at(answers["t"])
    alpha, sigma = level.like(answers["x_0"])
    answers.close("x_t", alpha * answers["x_0"] + sigma * answers["noise"])
    answers.close("z", autoencoder.encode(answers["x_0"]))
    eps = autoencoder.at(answers["z"])(answers["x_t"], level).eps
    answers.close("eps", eps)
    answers.close("loss", (eps - answers["noise"]).square().flatten(1).mean(1))


def test_both_files_hold_the_same_autoencoder(answers, models):
    for name in NAMES[:2]:
        found = models[name].at(answers["z"])(answers["x_t"], models[name].schedule.at(answers["t"])).eps
        answers.close("eps", found)
        answers.close("conds_mean", models[name].code_stats.mean)
        answers.close("conds_std", models[name].code_stats.std)
    assert models[NAMES[0]].prior is None


def test_render_and_inversion(answers, autoencoder):
    path = autoencoder.schedule.path(10, rule=autoencoder.sampling.rule)
    assert autoencoder.schedule.time_of(path[:-1]).flip(0).tolist() == answers["ddim10_timesteps"].tolist()
    answers.close("ddim10_render", halved(autoencoder.decode(answers["z"], answers["x_T"], steps=10)), SAMPLER)
    answers.close("ddim10_x_T", autoencoder.invert(answers["x_0"], answers["z"], steps=10), SAMPLER)


def test_latent_model(answers, models):
    model = models[NAMES[1]]
    answers.close("z_normalized", model.code_stats.standardize(answers["z"]))
    level = model.prior.schedule.at(answers["latent_t"])
    alpha, sigma = level.like(answers["z"])
    eps = model.prior(alpha * answers["z_normalized"] + sigma * answers["latent_noise"], level).eps
    answers.close("latent_eps", eps)
    answers.close("latent_loss", (eps - answers["latent_noise"]).square().mean(1))
    z = model.prior.sample(z_T=answers["z_T"], steps=10)
    answers.close("latent_ddim10_z_normalized", model.code_stats.standardize(z), SAMPLER)
    answers.close("sample", halved(model.decode(z, answers["x_T"], steps=10)), SAMPLER)


def test_the_model_without_codes(answers, models):
    denoiser = models[NAMES[2]]
    rule = denoiser.sampling.rule
    answers.close("ddim_model_eps", denoiser(answers["x_t"], denoiser.schedule.at(answers["t"])).eps)
    made = dr.ddim(denoiser, answers["x_T"], denoiser.schedule.path(10, rule=rule))
    answers.close("ddim_model_render", halved(made), SAMPLER)
    found = dr.invert(denoiser, answers["x_0"], denoiser.schedule.path(10, rule=rule, direction="up"))
    answers.close("ddim_model_x_T", found, SAMPLER)


def test_taps_answer_to_official_names(answers, autoencoder):
    denoiser = autoencoder.at(answers["z"])
    features = dr.TapFeatures(denoiser, ["output_blocks.0", "mid"], denoiser.schedule.at(100))
    found = features(answers["x_0"], noise=answers["noise"])
    assert [value.shape for value in found.values()] == [(2, 8), (2, 8)]


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_copy_needs_no_original(answers, models, name, tmp_path):
    model = models[name]
    again = dr.load(dr.save(model, tmp_path / "model"))
    assert again.config() == model.config()
    assert again.identity == model.identity
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    if name == NAMES[1]:
        assert torch.equal(again.code_stats.mean, model.code_stats.mean)
        start = answers["z_T"]
        assert torch.equal(again.prior.sample(z_T=start, steps=3), model.prior.sample(z_T=start, steps=3))


# Files without a config beside them, in parts, or broken.


def plain(answers: Case, name: str) -> dict:
    """What a checkpoint holds, without the classes that Lightning pickles."""
    data = read_file(answers.folder / "checkpoints" / name / "last.ckpt")
    state = {n: t.clone() for n, t in data["state_dict"].items() if n.startswith(("ema_model.", "conds_"))}
    return {"state_dict": state, "hyper_parameters": json.loads(json.dumps(data["hyper_parameters"]))}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_s_own_settings_are_enough(answers, name, tmp_path):
    torch.save(plain(answers, name), tmp_path / "any.ckpt")
    shutil.copy(answers.folder / "checkpoints" / NAMES[0] / "latent.pkl", tmp_path)
    model = dr.load(tmp_path / "any.ckpt")
    if name != NAMES[2]:
        answers.close("z", model.encode(answers["x_0"]))


def test_without_settings_everything_that_is_missing_is_named(answers, tmp_path):
    data = plain(answers, NAMES[0])
    del data["hyper_parameters"]
    torch.save(data, tmp_path / "any.ckpt")
    with pytest.raises(FormatError, match="image_size, T, beta_scheduler, beatgans_rescale_timesteps"):
        dr.load(tmp_path / "any.ckpt")
    facts = {"image_size": 16, "T": 1000, "beta_scheduler": "linear", "beatgans_rescale_timesteps": False}
    with pytest.raises(FormatError, match="enc_channel_mult, enc_num_res_block, enc_pool"):
        dr.load(tmp_path / "any.ckpt", architecture={**facts, "num_heads": 1})
    encoder = {"enc_channel_mult": [1, 1], "enc_num_res_block": 1, "enc_pool": "adaptivenonzero"}
    model = dr.load(tmp_path / "any.ckpt", architecture={**facts, **encoder, "num_heads": 1})
    answers.close("z", model.encode(answers["x_0"]))
    with pytest.raises(FormatError, match='enc_pool is "flatten"'):
        dr.load(tmp_path / "any.ckpt", architecture={**facts, **encoder, "num_heads": 1, "enc_pool": "flatten"})


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ema_model.out.2.bias", "out.2.bias"),
        ("ema_model.encoder.out.3.bias", "out.3.bias"),
        ("ema_model.latent_net.layers.1.norm.bias", "layers.1.norm.bias"),
        ("ema_model.input_blocks.1.0.cond_emb_layers.1.bias", "input_blocks.1.0.cond_emb_layers.1.bias"),
    ],
)
@pytest.mark.parametrize("change", ["missing", "left over"])
def test_loading_is_strict(answers, tmp_path, name, shown, change):
    data = plain(answers, NAMES[1])
    if change == "missing":
        data["state_dict"].pop(name)
    else:
        data["state_dict"][f"{name}x"] = torch.zeros(1)
    torch.save(data, tmp_path / "any.ckpt")
    with pytest.raises(FormatError, match=f"1 {change}: {shown}"):
        dr.load(tmp_path / "any.ckpt")


def test_a_latent_model_without_statistics_is_refused(answers, tmp_path):
    data = plain(answers, NAMES[1])
    del data["state_dict"]["conds_mean"]
    torch.save(data, tmp_path / "any.ckpt")
    with pytest.raises(FormatError, match="conds_mean"):
        dr.load(tmp_path / "any.ckpt")


@pytest.mark.parametrize(
    ("name", "value"),
    [("model_channels", 16), ("num_res_blocks", 2), ("channel_mult", [1, 2]), ("attention_resolutions", [16])],
)
def test_settings_of_another_model_are_refused(answers, name, value):
    file = answers.folder / "checkpoints" / NAMES[0] / "last.ckpt"
    settings = read_file(file)["hyper_parameters"]["model_conf"]
    with pytest.raises(FormatError, match=f"{name} "):
        dr.load(file, architecture={"model_conf": {**settings, name: value}})
