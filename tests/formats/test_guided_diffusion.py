"""Files of guided-diffusion against that program's own answers; its options, and what a file cannot tell."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import diffrep as dr
from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective
from diffrep.data.batches import Batch
from diffrep.errors import FormatError, UsageError
from diffrep.formats import official_names
from diffrep.networks import UNet, adm
from diffrep.noise import NoiseLevel, stack
from diffrep.randomness import Draw, generator
from tests.formats.parity import SAMPLER, case, no_noise

CASES = ["guided-diffusion-adm", "guided-diffusion-plain"]
FACTS = {
    "image_size": 8,
    "num_heads": 4,
    "use_new_attention_order": False,
    "steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": False,
}


@pytest.fixture(params=CASES)
def loaded(request):
    answers = case(request.param)
    labels = answers["y"] if "y" in answers.tensors else None
    return dr.load(answers.folder), answers, labels


def told(denoiser, labels):
    """The denoiser with labels filled in, where the model has classes."""
    return denoiser if labels is None else dr.conditioned(denoiser, labels)


@torch.no_grad()
def test_predictions(loaded):
    denoiser, answers, y = loaded
    level = denoiser.schedule.at(answers["t"])
    alpha, sigma = level.like(answers["x_0"])
    answers.close("x_t", alpha * answers["x_0"] + sigma * answers["noise"])
    found = told(denoiser, y)(answers["x_t"], level)
    out = found.eps if found.log_variance is None else torch.cat([found.eps, found.log_variance], dim=1)
    answers.close("output", out)
    answers.close_x0("pred_xstart", found.clipped().x0, "output", level)
    answers.close("loss_mse", (found.eps - answers["noise"]).square().flatten(1).mean(1))
    answers.close("network_t", denoiser.conditioning(denoiser.schedule, level))
    answers.close("table_alphas_cumprod", denoiser.schedule.alphas_cumprod, 1e-12)


def test_official_taps_have_the_value_after_the_upsampler(loaded):
    denoiser, answers, y = loaded
    names = [f"output_blocks.{k}" for k in range(4)]
    maps = dr.read(denoiser, answers["x_t"], denoiser.schedule.at(answers["t"]), names, y=y)
    for k, name in enumerate(names):
        answers.close(f"tap_{k}", maps[name].mean(dim=(2, 3)))
    assert maps["output_blocks.1"].shape[-1] == 8
    own = dr.read(denoiser, answers["x_t"], denoiser.schedule.at(answers["t"]), ["dec.2"], y=y)["dec.2"]
    assert own.shape[-1] == 4


def test_ancestral_step(loaded):
    denoiser, answers, y = loaded
    for k, t in enumerate(answers["t"].tolist()):
        now, then = denoiser.schedule.at(t), denoiser.schedule.at(t - 1) if t else NoiseLevel(1.0, 0.0)
        one = told(denoiser, None if y is None else y[k : k + 1])
        x, noise = answers["x_t"][k : k + 1], answers["noise"][k : k + 1]
        mean = dr.ddpm(one, x, stack([now, then]), noise=no_noise)
        made = dr.ddpm(one, x, stack([now, then]), noise=lambda step, shape, n=noise: n)
        assert (mean - answers["p_mean"][k : k + 1]).abs().max() <= 1e-5 * 4
        assert (made - answers["p_sample"][k : k + 1]).abs().max() <= 1e-5 * 5
        if t:
            far = noise.abs() > 0.5
            log_variance = 2 * ((made - mean) / noise).log()
            found, wanted = log_variance[far], answers["p_log_variance"][k : k + 1][far]
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "clip"), [("ddim10", None), ("ddim10_noclip", False)])
def test_ddim(loaded, name, clip):
    denoiser, answers, y = loaded
    path = denoiser.schedule.path(10, rule=denoiser.sampling.rule)
    assert denoiser.schedule.time_of(path[:-1]).flip(0).tolist() == answers["ddim10_timesteps"].tolist()
    answers.close("ddim10_alphas_cumprod", (path.alpha[:-1] ** 2).flip(0), 1e-12)
    made = dr.ddim(told(denoiser, None if y is None else y[:2]), answers["x_T"], path, clip=clip)
    answers.close(name, made, SAMPLER)


def test_inversion_ends_at_pure_noise(loaded):
    denoiser, answers, y = loaded
    path = denoiser.schedule.path(10, rule=denoiser.sampling.rule, direction="up")
    made = dr.invert(told(denoiser, None if y is None else y[:2]), answers["x_0"][:2], path)
    answers.close("ddim10_reverse", made, SAMPLER)


def test_a_class_conditional_model_wants_a_label():
    denoiser = dr.load(case(CASES[0]).folder)
    x, level = torch.zeros(1, 3, 8, 8), denoiser.schedule.at(5)
    assert denoiser.labels.num_classes == 10
    with pytest.raises(UsageError, match='y="none"'):
        denoiser(x, level)
    with torch.no_grad():
        assert not torch.equal(denoiser(x, level, y="none").eps, denoiser(x, level, y=3).eps)


# Files that other options of the program write: random tensors under official names.


def state_of(network: UNet) -> dict[str, Tensor]:
    """An official state dict of our network's weights; attention is made of 1x1 convolutions there."""
    own = network.state_dict()
    pairs = official_names.adm(network)
    return {
        a: own[b][..., None] if a.split(".")[-2] in ("qkv", "proj_out") and own[b].ndim == 2 else own[b]
        for a, b in pairs
    }


def random_network(**changes) -> UNet:
    shape = {"channels": 32, "multipliers": (1, 2), "attention": (False, True), "blocks": 1, "heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = adm(**{**shape, **changes})
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def written(tmp_path: Path, network: UNet, facts: dict | None = None) -> Path:
    torch.save(state_of(network), tmp_path / "model.pt")
    if facts is not None:
        (tmp_path / "args.json").write_text(json.dumps(facts))
    return tmp_path / "model.pt"


OPTIONS = {
    "plain": {"scale_shift": False, "resampling": "conv", "order": "heads"},
    "new order": {"order": "qkv"},
    "deep": {"multipliers": (0.5, 1, 2), "attention": (False, False, True), "channels": 64, "blocks": 2},
    "one level": {"multipliers": (1,), "attention": (True,)},
    "classes and variance": {"classes": 7, "learns_variance": True},
    "one channel": {"image_channels": 1},
}


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_the_shape_is_read_from_the_file(tmp_path, name):
    network = random_network(**OPTIONS[name])
    facts = {**FACTS, "use_new_attention_order": name == "new order"}
    denoiser = dr.load(written(tmp_path, network), architecture=facts)
    x = torch.randn(2, network.config["image_channels"], 8, 8, generator=generator(0, "x"))
    y = torch.tensor([1, 3]) if "classes" in name else None
    out, level = network(x, torch.tensor([11.0, 11.0]), y), denoiser.schedule.at(11)
    found = denoiser(x, level, y=y)
    assert torch.equal(found.eps, out[:, : x.shape[1]])
    assert (found.log_variance is None) == ("variance" not in name)
    again = dr.load(dr.save(denoiser, tmp_path / "again"))
    assert torch.equal(again(x, level, y=y).eps, found.eps)
    assert again.config() == denoiser.config()


@pytest.mark.parametrize("steps", [100, 1000, 4000])
@torch.no_grad()
def test_other_numbers_of_steps(tmp_path, steps):
    """Linear betas are scaled by 1000 / T; with rescaled timesteps the network sees 0..1000 whatever T is."""
    network = random_network()
    facts = {**FACTS, "steps": steps, "rescale_timesteps": True}
    denoiser = dr.load(written(tmp_path, network), architecture=facts)
    betas = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    torch.testing.assert_close(denoiser.schedule.alphas_cumprod, (1 - betas).cumprod(0), rtol=1e-12, atol=0)
    x, t = torch.randn(1, 3, 8, 8, generator=generator(0, "x")), steps // 3
    assert torch.equal(denoiser(x, denoiser.schedule.at(t)).eps, network(x, torch.tensor([t * 1000 / steps])))


@torch.no_grad()
def test_x0_prediction_of_a_known_image(tmp_path):
    """A network that always answers with the image is exact at every tenth t."""
    network = random_network()
    for parameter in network.parameters():
        parameter.zero_()
    network.head.conv.bias.copy_(torch.tensor([0.1, -0.4, 0.7]))
    denoiser = dr.load(written(tmp_path, network), architecture={**FACTS, "predict_xstart": True})
    image = torch.tensor([0.1, -0.4, 0.7]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    for t in range(0, 1000, 10):
        level = denoiser.schedule.at(t)
        alpha, sigma = level.like(image)
        noise = torch.randn(1, 3, 8, 8, generator=generator(t, "noise"))
        found = denoiser(alpha * image + sigma * noise, level)
        torch.testing.assert_close(found.x0, image, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.eps, noise, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        ({}, "num_heads, use_new_attention_order, image_size, steps, noise_schedule, rescale_timesteps"),
        ({"num_heads": 4}, "use_new_attention_order, image_size, steps, noise_schedule, rescale_timesteps"),
        ({"num_head_channels": 16, "image_size": 8}, "use_new_attention_order, steps"),
        ({"num_heads": 1}, "image_size, steps, noise_schedule, rescale_timesteps"),
        ({k: v for k, v in FACTS.items() if k != "rescale_timesteps"}, "rescale_timesteps"),
    ],
)
def test_what_the_file_cannot_tell_is_named(tmp_path, facts, missing):
    with pytest.raises(FormatError, match=rf"does not tell: {missing}.*architecture="):
        dr.load(written(tmp_path, random_network()), architecture=facts)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model_channels": 64}, "model_channels is 64, in the file 32"),
        ({"channel_mult": [1, 3]}, "channel_mult"),
        ({"learn_sigma": True}, "learn_sigma"),
        ({"attention_resolutions": [1]}, "attention_resolutions"),
        ({"attention_resolutions": "8"}, "attention_resolutions"),
        ({"class_cond": True}, "class_cond is True, in the file False"),
        ({"num_classes": 10}, "num_classes"),
        ({"num_channels": 64}, "num_channels"),
        ({"num_head_channels": 48}, "heads of width 48"),
        ({"noise_schedule": "sigmoid"}, 'unknown noise schedule "sigmoid"'),
        ({"num_heads_upsample": 2}, "num_heads_upsample"),
        ({"image_size": 10**12}, "image_size is 1000000000000"),
        ({"image_size": 0}, "a whole number from 1"),
        ({"steps": -1}, "steps is -1"),
        ({"rescale_timesteps": "False"}, "rescale_timesteps is 'False'.*true or false"),
        ({"resblock_updown": False}, "resblock_updown is False, in the file True"),
        ({"dims": 1}, "dims is 1, in the file 2"),
        ({"large_size": 64}, "makes large images of small ones"),
        ({"conv_resample": False}, "without convolutions"),
        ({"steps": 1000, "diffusion_steps": 400}, "steps is 1000, in the file 400"),
    ],
)
def test_facts_of_another_model_are_refused(tmp_path, wrong, words):
    with pytest.raises(FormatError, match=words):
        dr.load(written(tmp_path, random_network()), architecture={**FACTS, **wrong})


@pytest.mark.parametrize(
    ("gone", "words"),
    [("out.2.bias", "1 missing: out.2.bias"), ("input_blocks.0.0.weight", "missing: input_blocks.0.0.weight")],
)
def test_loading_is_strict(tmp_path, gone, words):
    state = state_of(random_network())
    state.pop(gone)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(FormatError, match=words):
        dr.load(tmp_path / "model.pt", architecture=FACTS)


def test_tensors_left_over_and_misshapen_are_named(tmp_path):
    state = state_of(random_network())
    state |= {f"extra.{k}.weight": torch.zeros(1) for k in range(7)}
    state["out.0.weight"] = torch.zeros(48)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(
        FormatError, match=r"7 left over: extra.0.weight.*extra.4.weight; 1 of another shape: out.0"
    ) as caught:
        dr.load(tmp_path / "model.pt", architecture=FACTS)
    assert "extra.5" not in str(caught.value)


def test_an_upsampling_model_is_refused(tmp_path):
    state = state_of(random_network())
    state["input_blocks.0.0.weight"] = torch.zeros(32, 6, 3, 3)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(FormatError, match="up-sampling models are not read"):
        dr.load(tmp_path / "model.pt", architecture=FACTS)


def test_ema_comes_before_raw_weights(tmp_path):
    answers = case(CASES[1])
    denoiser = dr.load(answers.folder)
    assert dr.load(answers.folder / "ema_0.9999_500000.pt").identity == denoiser.identity
    shutil.copytree(answers.folder, tmp_path / "raw")
    (tmp_path / "raw" / "ema_0.9999_500000.pt").unlink()
    raw = dr.load(tmp_path / "raw")
    assert float(raw.network.enc["1"].weight.detach().mean()) == pytest.approx(0.01)


def test_pdae_trains_on_a_learned_variance():
    base = dr.conditioned(dr.load(case(CASES[0]).folder), "none")
    model = ShiftAutoencoder.fresh(base, 8)
    objective = ShiftObjective(model)
    optimizer = torch.optim.AdamW(list(objective.parameters()), lr=2e-3)
    images = torch.rand(8, 3, 1, 1, generator=generator(0, "colors")).expand(8, 3, 8, 8) * 2 - 1
    ids = [str(k) for k in range(8)]
    losses = []
    objective.train()
    for step in range(50):
        optimizer.zero_grad()
        loss = objective.loss(Batch(images, None, ids), Draw(0, step % 5, ids)).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
