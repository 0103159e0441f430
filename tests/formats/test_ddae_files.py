"""DDAE's files: what one without its config cannot tell, wrong facts, wrappers, strict loading."""

import shutil

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError, UsageError
from tests.formats.parity import Case, case
from tests.formats.test_ddae import DDPM, EDM


def checkpoint(answers: Case):
    return next((answers.folder).rglob("*.pth"))


def alone(answers: Case, tmp_path):
    """The file without its config."""
    return shutil.copy(checkpoint(answers), tmp_path / "model.pth")


def test_without_its_config_everything_that_is_missing_is_named(tmp_path):
    file = alone(case("ddae-ddpm"), tmp_path)
    with pytest.raises(FormatError, match=r"model_type, attn_channels_per_head, image_shape.*with n_T, betas; or"):
        dr.load(file)
    with pytest.raises(FormatError, match=r"not tell: attn_channels_per_head, image_shape, n_T, betas"):
        dr.load(file, architecture={"model_type": "DDPM"})
    with pytest.raises(FormatError, match="expected DDPM or EDM"):
        dr.load(file, architecture={"model_type": "GAN", "attn_channels_per_head": None, "image_shape": [3, 8, 8]})


def test_facts_can_be_given(tmp_path):
    answers = case("ddae-ddpmpp")
    facts = {"model_type": "DDPM", "attn_channels_per_head": 16, "image_shape": [3, 8, 8], "n_T": 1000}
    denoiser = dr.load(alone(answers, tmp_path), architecture={**facts, "betas": [1e-4, 0.02]})
    with torch.no_grad():
        answers.close("eps", denoiser(answers["x_t"], denoiser.schedule.at(answers["t"] - 1)).eps)


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_loading_is_strict(tmp_path, change):
    answers = case("ddae-ddpm")
    data = torch.load(checkpoint(answers), weights_only=True)
    prefix = "ema_model.nn_model."
    if change == "missing":
        del data["EMA"][f"{prefix}up.0.res.conv1.bias"]
    else:
        data["EMA"][f"{prefix}up.99.extra.weight"] = torch.zeros(3)
        data["EMA"]["another.weight"] = torch.zeros(3)
    torch.save(data, tmp_path / "model.pth")
    shutil.copytree(answers.folder / "config", tmp_path / "config")
    which = {"missing": r"1 missing: up\.0\.res\.conv1\.bias", "left over": r"2 left over: up\.99.*another\.weight"}
    with pytest.raises(FormatError, match=rf"DDAE: .*{which[change]}"):
        dr.load(tmp_path / "model.pth")


@pytest.mark.parametrize("name", [*DDPM, *EDM])
def test_a_saved_copy_needs_no_original(name, tmp_path):
    denoiser = dr.load(case(name).folder)
    again = dr.load(dr.save(denoiser, tmp_path / "model"))
    assert again.identity == denoiser.identity
    assert again.config() == denoiser.config()
    assert [t.aliases for t in again.taps] == [t.aliases for t in denoiser.taps]
    for (a, x), (b, y) in zip(again.state_dict().items(), denoiser.state_dict().items(), strict=True):
        assert a == b
        assert torch.equal(x, y)


def test_an_unknown_tap_names_the_nearest():
    denoiser = dr.load(case("ddae-ddpm").folder)
    with pytest.raises(UsageError, match="out_"):
        dr.TapFeatures(denoiser, ["out_99"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_channels": 64},
        {"ch_mults": [1, 2]},
        {"is_attn": [True, True]},
        {"n_blocks": 3},
        {"use_res_for_updown": True},
        {"augment_dim": 9},
        {"image_shape": [1, 8, 8]},
        {"image_shape": [3, -8, -8]},
        {"image_shape": 8},
        {"n_T": 0},
        {"attn_channels_per_head": 0},
        {"attn_channels_per_head": "16"},
    ],
)
def test_facts_of_another_model_are_refused(wrong):
    with pytest.raises(FormatError, match=next(iter(wrong))):
        dr.load(case("ddae-ddpm").folder, architecture=wrong)


def test_betas_of_the_optimizer_are_not_the_schedule_s(tmp_path):
    answers = case("ddae-ddpm")
    file = alone(answers, tmp_path)
    [config] = (answers.folder / "config").glob("*.yaml")
    (tmp_path / "config.yaml").write_text("optim_args: {betas: [0.9, 0.95]}\n" + config.read_text())
    assert dr.load(file).schedule == dr.load(answers.folder).schedule
    for betas in ([0.02, 1e-4], [0.1], "all"):
        with pytest.raises(FormatError, match="betas is"):
            dr.load(file, architecture={"diffusion": {"betas": betas}})


def test_a_few_facts_are_no_whole_config(tmp_path):
    """Of a whole config what is absent has the program's default; of a few facts nothing has."""
    answers = case("ddae-ddpm")
    file = alone(answers, tmp_path)
    facts = {"model_type": "DDPM", "n_T": 1000, "betas": [1e-4, 0.02], "n_channels": 32}
    with pytest.raises(FormatError, match="not tell: attn_channels_per_head, image_shape"):
        dr.load(file, architecture=facts)
    network = {"n_channels": 32, "ch_mults": [1], "is_attn": [True], "n_blocks": 1}
    with pytest.raises(FormatError, match="ch_mults"):  # another network's, but nothing is asked for
        dr.load(file, architecture={**facts, "network": {**network, "ch_mults": [1, 2, 3]}})


def test_a_misspelt_fact_is_pointed_out(caplog):
    dr.load(case("ddae-ddpm").folder, architecture={"attn_channels_per_haed": 8, "lr": 0.1})
    assert 'has "attn_channels_per_haed", which nothing asked for; was "attn_channels_per_head" meant?' in caplog.text
    assert '"lr"' not in caplog.text


def test_a_misspelt_fact_is_pointed_out_where_the_right_one_is_missing(tmp_path):
    facts = {"model_type": "DDPM", "attn_channels_per_haed": 8}
    with pytest.raises(FormatError, match=r'"attn_channels_per_haed", was "attn_channels_per_head" meant\?'):
        dr.load(alone(case("ddae-ddpm"), tmp_path), architecture=facts)


def test_a_config_under_any_name_beside_the_file(tmp_path):
    answers = case("ddae-ddpm")
    file = alone(answers, tmp_path)
    [config] = (answers.folder / "config").glob("*.yaml")
    shutil.copy(config, tmp_path / "DDPM_ddpm.yaml")
    assert dr.load(file).identity == dr.load(answers.folder).identity


def test_churn_is_the_config_s(tmp_path):
    answers = case("ddae-edm")
    told = {"S_min": 0.05, "S_max": 20, "S_noise": 1.003}
    model = dr.load(answers.folder, architecture=told)
    assert (model.sampling.churn_range, model.sampling.churn_noise) == ((0.05, 20.0), 1.003)
    assert dr.load(answers.folder).sampling.churn_range == (0.01, 1.0)
    again = dr.load(dr.save(model, tmp_path / "model"))
    assert again.sampling == model.sampling
    start = torch.randn(1, 3, 8, 8) * 80
    path, noise = model.schedule.path(6), torch.randn(1, 3, 8, 8)
    made, other = (
        dr.heun(m, start, path, churn=1.0, noise=lambda step, shape: noise, **settings)
        for m, settings in ((model, {}), (dr.load(answers.folder), {"churn_range": (0.05, 20), "churn_noise": 1.003}))
    )
    assert torch.equal(made, other)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_wrapped_networks(wrapper, tmp_path):
    """DataParallel and torch.compile put their names before the network's, inside the average's own."""
    answers = case("ddae-ddpm")
    data = torch.load(checkpoint(answers), weights_only=True)
    for key in ("EMA", "MODEL"):
        names = {name: name.replace("nn_model.", f"{wrapper}nn_model.") for name in data[key]}
        data[key] = {names[name]: tensor for name, tensor in data[key].items()}
    torch.save(data, tmp_path / "m.pt")
    shutil.copytree(answers.folder / "config", tmp_path / "config")
    assert dr.load(tmp_path / "m.pt").identity == dr.load(answers.folder).identity


@pytest.mark.parametrize("prefix", ["ema_model.nn_model.", "nn_model.", ""])
def test_a_bare_state_dict(prefix, tmp_path):
    answers = case("ddae-ddpm")
    state = torch.load(checkpoint(answers), weights_only=True)["EMA"]
    ours = "ema_model.nn_model."
    torch.save({prefix + n.removeprefix(ours): t for n, t in state.items() if n.startswith(ours)}, tmp_path / "m.pt")
    shutil.copytree(answers.folder / "config", tmp_path / "config")
    assert dr.load(tmp_path / "m.pt").identity == dr.load(answers.folder).identity
