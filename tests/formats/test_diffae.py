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
    all_of_them = (
        "image_size, T, beta_scheduler, beatgans_rescale_timesteps, enc_channel_mult, enc_num_res_block, enc_pool"
    )
    with pytest.raises(FormatError, match=all_of_them):
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


def test_statistics_of_codes_are_finite(answers, tmp_path):
    data = plain(answers, NAMES[1])
    data["state_dict"]["conds_std"] *= float("nan")
    torch.save(data, tmp_path / "any.ckpt")
    with pytest.raises(FormatError, match=r"NaN or infinity in 1 tensors: .*conds_std"):
        dr.load(tmp_path / "any.ckpt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_channels", 16),
        ("num_res_blocks", 2),
        ("channel_mult", [1, 2]),
        ("attention_resolutions", [16]),
        ("embed_channels", 99),
        ("enc_out_channels", 99),
        ("resblock_updown", False),
    ],
)
def test_settings_of_another_model_are_refused(answers, name, value):
    file = answers.folder / "checkpoints" / NAMES[0] / "last.ckpt"
    settings = read_file(file)["hyper_parameters"]["model_conf"]
    for told in ({"model_conf": {**settings, name: value}}, {name: value}):
        with pytest.raises(FormatError, match=f"{name} "):
            dr.load(file, architecture=told)


# Settings that the published files do not have, and that the program allows.


def changed(answers: Case, name: str, tmp_path, **settings):
    """A copy of a file with other settings; `model_conf` and `latent_net_conf` are changed inside."""
    data = plain(answers, name)
    hyper = data["hyper_parameters"]
    for key, value in settings.items():
        places = (hyper, hyper["model_conf"], hyper["model_conf"].get("latent_net_conf") or {})
        for place in [place for place in places if key in place] or [hyper]:
            place[key] = value
    torch.save(data, tmp_path / "any.ckpt")
    shutil.copy(answers.folder / "checkpoints" / NAMES[0] / "latent.pkl", tmp_path)
    return tmp_path / "any.ckpt"


def test_the_program_s_own_names_are_understood(answers, tmp_path):
    data = plain(answers, NAMES[1])
    hyper = data.pop("hyper_parameters")
    conf, latent = hyper["model_conf"], hyper["model_conf"]["latent_net_conf"]
    torch.save(data, tmp_path / "any.ckpt")
    told = {name: hyper[name] for name in ("T", "beta_scheduler", "beatgans_rescale_timesteps")}
    told |= {name: hyper[name] for name in ("latent_beta_scheduler", "latent_clip_sample", "latent_znormalize")}
    told |= {"img_size": conf["image_size"], "net_beatgans_attn_head": 1, "net_enc_pool": conf["enc_pool"]}
    told |= {"net_enc_channel_mult": conf["enc_channel_mult"], "net_enc_num_res_blocks": conf["enc_num_res_block"]}
    told |= {"net_latent_condition_bias": latent["condition_bias"]}
    model = dr.load(tmp_path / "any.ckpt", architecture=told)
    answers.close("z", model.encode(answers["x_0"]))
    again = dr.load(answers.folder / "checkpoints" / NAMES[1])
    start = answers["z_T"]
    assert torch.equal(model.prior.sample(z_T=start, steps=3), again.prior.sample(z_T=start, steps=3))


def test_a_latent_model_whose_network_settings_are_stale(answers, tmp_path):
    """The program saves settings before it makes those of the latent network of them."""
    latent = read_file(answers.folder / "checkpoints" / NAMES[1] / "last.ckpt")["hyper_parameters"]["model_conf"]
    bias = latent["latent_net_conf"]["condition_bias"]
    data = plain(answers, NAMES[1])
    data["hyper_parameters"]["model_conf"]["latent_net_conf"] = None
    data["hyper_parameters"]["net_latent_condition_bias"] = bias
    torch.save(data, tmp_path / "any.ckpt")
    start = answers["z_T"]
    official = dr.load(answers.folder / "checkpoints" / NAMES[1]).prior.sample(z_T=start, steps=3)
    assert torch.equal(dr.load(tmp_path / "any.ckpt").prior.sample(z_T=start, steps=3), official)


def test_constant_betas_belong_to_1000_steps():
    from diffrep.formats.guided_diffusion import named_schedule

    assert float(named_schedule("const0.01", 500).alphas_cumprod[0]) == pytest.approx(0.98)
    assert float(named_schedule("const0.008", 1000).alphas_cumprod[1]) == pytest.approx(0.992**2)


def test_clamped_codes_start_from_any_noise(answers, tmp_path):
    model = dr.load(changed(answers, NAMES[1], tmp_path, latent_clip_sample=True))
    prior, start = model.prior, 3 * answers["z_T"]
    path = prior.schedule.path(1, rule="guided-diffusion")
    level = path[0]
    x0 = prior(start, level).x0.clamp(-1, 1)
    assert torch.allclose(model.code_stats.standardize(prior.sample(z_T=start, steps=1)), x0, atol=1e-5)


def test_latent_time_is_rescaled_where_the_program_was_told(answers, tmp_path):
    model = dr.load(changed(answers, NAMES[1], tmp_path, T=500, latent_rescale_timesteps=True))
    level = model.prior.schedule.at(100)
    z = answers["z_T"]
    assert torch.equal(model.prior(z, level).eps, model.prior.network(z, torch.full((len(z),), 200.0)))


def test_bare_codes_need_no_statistics(answers, tmp_path):
    data = plain(answers, NAMES[1])
    data["hyper_parameters"]["latent_znormalize"] = False
    for name in ("conds_mean", "conds_std"):
        del data["state_dict"][name]
    torch.save(data, tmp_path / "any.ckpt")
    model = dr.load(tmp_path / "any.ckpt")
    start = answers["z_T"]
    path = model.prior.schedule.path(3, rule="guided-diffusion")
    drawn = model.prior.sample(z_T=start, steps=3)
    assert torch.equal(drawn, dr.ddim(model.prior, start, path, clip=False))
    again = dr.load(dr.save(model, tmp_path / "ours"))
    assert torch.equal(again.prior.sample(z_T=start, steps=3), drawn)


def test_the_encoder_s_levels_default_to_the_network_s(answers, tmp_path):
    model = dr.load(changed(answers, NAMES[0], tmp_path, enc_channel_mult=None, net_enc_channel_mult=None))
    answers.close("z", model.encode(answers["x_0"]))


def test_the_variance_can_be_told(answers):
    file = answers.folder / "checkpoints" / NAMES[2]
    assert dr.load(file).sampling.variance == "upper"
    assert dr.load(file, architecture={"beatgans_model_var_type": "fixed_small"}).sampling.variance == "posterior"
    with pytest.raises(FormatError, match="fixed_large, fixed_small"):
        dr.load(file, architecture={"model_var_type": "learned"})


def test_a_bare_state_dict_of_the_moving_average(answers, tmp_path):
    data = plain(answers, NAMES[0])
    flat = {n.removeprefix("ema_model."): t for n, t in data["state_dict"].items() if n.startswith("ema_model.")}
    told = data["hyper_parameters"]
    for state in (flat, {f"ema_model.{name}": t for name, t in flat.items()}):
        torch.save(state, tmp_path / "flat.pt")
        answers.close("z", dr.load(tmp_path / "flat.pt", architecture=told).encode(answers["x_0"]))


def test_layers_for_a_code_that_nothing_calls_are_reported(answers, models, tmp_path, caplog):
    data = plain(answers, NAMES[2])
    data["state_dict"]["ema_model.input_blocks.1.0.cond_emb_layers.1.weight"] = torch.zeros(2, 2)
    torch.save(data, tmp_path / "any.ckpt")
    assert dr.load(tmp_path / "any.ckpt").identity == models[NAMES[2]].identity
    assert "tensors are for a code and never used: input_blocks" in caplog.text


@pytest.mark.parametrize("name", ["latent.pkl", "last.ckpt"])
def test_what_lies_beside_a_model_says_what_it_is(answers, tmp_path, name):
    cls = tmp_path / "celeba64d2c_autoenc_cls"
    cls.mkdir()
    if name == "latent.pkl":
        shutil.copy(answers.folder / "checkpoints" / NAMES[0] / name, cls)
    else:
        torch.save({"state_dict": {"ema_classifier.weight": torch.zeros(3, 2), "model.x": torch.zeros(1)}}, cls / name)
    with pytest.raises(FormatError, match="codes"):
        dr.load(cls / name)
    shutil.copytree(answers.folder / "checkpoints" / NAMES[0], tmp_path / NAMES[0])
    assert isinstance(dr.load(tmp_path), ConditionalAutoencoder)
