"""PDAE's files against that program's own answers: tables, autoencoder, prior, classifier."""

import shutil

import pytest
import torch
from torch import Tensor

import diffrep as dr
from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective, edit, kappa, lerp, slerp, weight
from diffrep.autoencoder.shifted import observe
from diffrep.errors import FormatError
from diffrep.experiments.gap import mean_factors
from diffrep.formats.pdae import below_root
from diffrep.noise import stack
from diffrep.sampling.steps import Step
from tests.formats.parity import SAMPLER, case

LINEAR, COSINE = dr.DiscreteSchedule.linear(), dr.DiscreteSchedule.cosine()
TOP = (slice(0, 1), slice(None), slice(0, 16))


@pytest.fixture(scope="module")
def answers():
    return case("pdae-celeba64-tiny")


@pytest.fixture(scope="module")
def model(answers) -> ShiftAutoencoder:
    return dr.load(answers.folder)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def noised(model: ShiftAutoencoder, answers) -> Tensor:
    alpha, sigma = model.schedule.at(answers["t"]).like(answers["x_0"])
    return alpha * answers["x_0"] + sigma * answers["noise"]


def test_every_way_to_the_autoencoder(answers, model):
    inner = answers.folder / "trained-models" / "autoencoder" / "celeba64"
    for path in (inner, inner / "checkpoint.pt"):
        other = dr.load(path)
        assert isinstance(other, ShiftAutoencoder)
        assert other.denoiser.identity == model.denoiser.identity
        assert all(part is not None for part in (other.code_stats, other.prior, other.classifier))


def test_the_pre_trained_dpm_alone_is_the_frozen_base(answers, model):
    base = dr.load(answers.folder / "pre-trained-dpms" / "celeba64")
    assert base.identity == model.denoiser.identity
    assert dr.load(model.denoiser.source).identity == base.identity
    answers.close("eps_bare", base(noised(model, answers), base.schedule.at(answers["t"])).eps)
    made = dr.ddim(base, answers["x_T"], base.schedule.path(10, rule=base.sampling.rule))
    answers.close("ddim10_bare_sample_top", made[TOP], SAMPLER)


def test_tables(answers, model):
    abar = model.schedule.alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])
    answers.close("table_alphas_cumprod", abar, 1e-12)
    answers.close("table_betas", 1 - abar / before, 1e-12)
    answers.close("table_x_0_posterior_mean_x_0_coef", mean_factors(model.schedule))
    variances = [0.0] + [
        Step(1, model.schedule.at(t), model.schedule.at(t - 1)).posterior_std ** 2 for t in range(1, 1000)
    ]
    answers.close("table_posterior_variance", torch.tensor(variances, dtype=torch.float64))
    for schedule, name in ((LINEAR, "table"), (COSINE, "table_cosine")):
        levels = schedule.at(list(range(1000)))
        answers.close(f"{name}_shift_coef", -kappa(schedule, levels) * levels.sigma)
        answers.close(f"{name}_weight", weight("pdae", levels.log_snr))


@pytest.mark.parametrize("steps", [5, 10, 20, 50, 100, 999, 1000])
def test_grids(answers, model, steps):
    path = model.schedule.path(steps, rule=model.sampling.rule, direction="up")
    assert model.schedule.time_of(path).tolist() == answers[f"grid_ddim{steps}"].tolist()
    if f"ddim{steps}_sampling_shift_coef" in answers.tensors:
        abar = path.alpha**2
        answers.close(f"ddim{steps}_sampling_shift_coef", -path.sigma)
        answers.close(f"ddim{steps}_sqrt_recip_alphas_cumprod_m1", path.sigma / path.alpha)
        assert torch.allclose(answers[f"ddim{steps}_alphas_cumprod_prev"][1:].double(), abar[:-1], rtol=1e-5)
        assert torch.allclose(answers[f"ddim{steps}_alphas_cumprod_next"][:-1].double(), abar[1:], rtol=1e-5)


def test_codes_and_predictions(answers, model):
    x, level = noised(model, answers), model.schedule.at(answers["t"])
    answers.close("z", model.encode(answers["x_0"]))
    prediction, maps = observe(model.denoiser, model.shift, x, level)
    answers.close("eps_bare", prediction.eps)
    answers.close("G", model.shift(maps, answers["z"]))
    answers.close("eps_shift_sampling_top", model.at(answers["z"])(x, level).eps[TOP])
    answers.close("eps_shift_training_top", model.at(answers["z"], scale="posterior")(x, level).eps[TOP])
    answers.close("bare_loss_per_sample", (prediction.eps - answers["noise"]).square().flatten(1).mean(1))


def test_losses(answers, model):
    found = ShiftObjective(model).loss_at(answers["x_0"], model.schedule.at(answers["t"]), answers["noise"])
    answers.close("loss_per_sample", found)
    answers.close("loss_mean", found.mean()[None])


def test_decoding_and_inversion(answers, model):
    z = answers["z"]
    answers.close("ddim10_decode", model.decode(z[:1], answers["x_T"], steps=10), SAMPLER)
    answers.close("ddim10_x_T", model.invert(answers["x_0"], z, steps=10), SAMPLER)
    answers.close("ddim10_round_trip", model.decode(z[:1], answers["ddim10_x_T"][:1], steps=10), SAMPLER)


def stopped(model: ShiftAutoencoder, z: Tensor, steps: int = 10, percent: float = 0.3):
    """Without the shift in the last steps, as the program samples unconditionally (PDAE 1.9)."""
    path = model.schedule.path(steps, rule=model.sampling.rule)
    last = path[-2 - int(percent * steps)]
    return dr.windowed(model.denoiser, model.at(z), high=float(last.log_snr)), path


def test_decoding_that_stops_to_shift(answers, model):
    denoise, path = stopped(model, answers["z"][:1])
    answers.close("ddim10_decode_stop30", dr.ddim(denoise, answers["x_T"], path), SAMPLER)


def test_ddpm_step(answers, model):
    t, x = int(answers["t"][1]), noised(model, answers)[1:]
    path = stack([model.schedule.at(t), model.schedule.at(t - 1)])
    denoise = model.at(answers["z"][1:], scale="posterior")
    made = dr.ddpm(denoise, x, path, clip=False, variance="posterior", noise=lambda *_: answers["noise"][:1])
    answers.close("ddpm_step_shift", made)


def test_one_step(answers, model):
    level = model.schedule.at(int(answers["one_step_t"][0]))
    alpha, sigma = level.like(answers["x_0"])
    x = (alpha * answers["x_0"] + sigma * answers["noise"])[:1]
    answers.close("one_step_bare_x_0", model.denoiser(x, level).x0)
    answers.close("one_step_x_0", model.at(answers["z"][:1], scale="posterior")(x, level).x0)


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
def test_gap(answers, model, law):
    x0, noise = answers["x_0"][:1], answers["noise"][:1]
    noise = noise if law == "gaussian" else (answers["x_0"][1:2] + 1) / 2
    factors = mean_factors(model.schedule)
    for name, denoise in (("bare", model.denoiser), ("shift", model.at(answers["z"][:1], scale="posterior"))):
        gaps = []
        for t in answers["gap_t"].tolist():
            level = model.schedule.at(t)
            alpha, sigma = level.like(x0)
            missed = denoise(alpha * x0 + sigma * noise, level).x0 - x0
            gaps.append(factors[t] ** 2 * missed.double().square().mean())
        answers.close(f"gap_{name}_{law}", torch.stack(gaps))


def test_interpolation_from_the_stored_start(answers, model):
    share, (u, v), z = answers["alpha"], answers["ddim10_x_T"].split(1), answers["z"]
    x_T, mixed = slerp(u, v, share), lerp(z[:1], z[1:], share)
    answers.close("slerp_x_T_top", x_T[TOP])
    answers.close("lerp_z", mixed)
    answers.close("interpolation_top", model.decode(mixed, x_T, steps=10)[TOP], SAMPLER)
    blended = model.blend([z[:1], z[1:]], [1 - float(share), float(share)])
    path = model.schedule.path(10, rule=model.sampling.rule)
    answers.close("trajectory_interpolation", dr.ddim(blended, x_T, path), SAMPLER)


def test_classifier_and_manipulation(answers, model):
    z = answers["z"]
    answers.close("latents_mean", model.code_stats.mean)
    answers.close("latents_std", model.code_stats.std)
    answers.close("z_normalized", model.code_stats.standardize(z))
    logits = model.classifier(model.code_stats.standardize(z))
    answers.close("attribute_logits", logits)
    wanted = (answers["attribute_labels"] > 0).float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    answers.close("attribute_loss", loss[None])
    scale = 0.3 * (512 / z.shape[1]) ** 0.5  # the program takes sqrt(512) whatever the code's width
    moved = edit(z[:1], model.classifier.weight[20], scale, model.code_stats)
    answers.close("manipulation_z", moved)
    answers.close("manipulation", model.decode(answers["manipulation_z"], answers["ddim10_x_T"][:1], steps=10), SAMPLER)


def test_latent_dpm(answers, model):
    prior = model.prior
    answers.close("latent_alphas_cumprod", prior.schedule.alphas_cumprod)
    level = prior.schedule.at(answers["latent_t"])
    alpha, sigma = level.like(answers["latent_z_0"])
    answers.close("latent_z_t", alpha * answers["latent_z_0"] + sigma * answers["z_noise"])
    answers.close("latent_eps", prior(answers["latent_z_t"], level).eps)
    codes, noise = model.code_stats.standardize(answers["z"]), answers["z_noise"][1:3]
    alpha, sigma = level[1:3].like(codes)
    losses = (prior(alpha * codes + sigma * noise, level[1:3]).eps - noise).abs().mean(1)
    answers.close("latent_loss_per_sample", losses)
    answers.close("latent_loss_mean", losses.mean()[None])


def test_drawn_codes_and_an_image_of_one(answers, model):
    z = model.prior.sample(z_T=answers["z_T"], steps=10)
    answers.close("latent_ddim10_z", z, SAMPLER)
    answers.close("latent_ddim10_z_normalized", model.code_stats.standardize(z), SAMPLER)
    denoise, path = stopped(model, z)
    answers.close("unconditional_sample", dr.ddim(denoise, answers["x_T"], path), SAMPLER)


def test_a_saved_copy_needs_no_original_and_keeps_every_part(answers, model, tmp_path):
    again = dr.load(dr.save(model, tmp_path / "model"))
    shutil.rmtree(shutil.copytree(tmp_path / "model", tmp_path / "moved") and tmp_path / "model")
    again = dr.load(tmp_path / "moved")
    assert again.config() == model.config()
    assert again.denoiser.identity == model.denoiser.identity
    assert torch.equal(again.encode(answers["x_0"]), model.encode(answers["x_0"]))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.equal(again.code_stats.std, model.code_stats.std)
    assert torch.equal(again.prior.sample(z_T=answers["z_T"], steps=3), model.prior.sample(z_T=answers["z_T"], steps=3))
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    assert dr.load(dr.save(again, tmp_path / "third")).denoiser.identity == model.denoiser.identity


# Files that lie elsewhere, in parts, or broken.


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


def test_a_classifier_without_a_config_belongs_to_the_only_autoencoder(copy, model):
    (copy / "trained-models" / "classifier" / "config.yml").unlink()
    assert torch.equal(dr.load(copy).classifier.weight, model.classifier.weight)
    other = copy / "trained-models" / "autoencoder" / "other"
    shutil.copytree(other.parent / "celeba64", other)
    assert dr.load(other.parent / "celeba64").classifier is None


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
