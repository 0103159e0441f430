"""PDAE's files against that program's own answers: tables, autoencoder, prior, classifier."""

import shutil

import pytest
import torch
from torch import Tensor

import diffrep as dr
from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective, edit, kappa, lerp, slerp, weight
from diffrep.autoencoder.shifted import observe
from diffrep.experiments.gap import mean_factors
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
