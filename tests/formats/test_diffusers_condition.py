"""Text-conditioned networks: diffusers' own forward, taps, prompts, and the missing extra."""

import builtins
import json

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError, UsageError
from diffrep.formats.adapters import prompted
from tests.formats.diffusers_models import CONDITION, FLUX, PIXART, SD3, UNET, close, diffusers, inputs, random, saved

LINEAR = dr.DiscreteSchedule.linear()
XL = {
    **CONDITION,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 20,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
}


def words(n: int, width: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(n, 5, width, generator=torch.Generator().manual_seed(seed))


def test_stable_diffusion_with_a_given_prompt(tmp_path):
    theirs = random("UNet2DConditionModel", **CONDITION)
    prompt = words(1, 16)
    scheduler = diffusers().PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, set_alpha_to_one=False, steps_offset=1
    )
    model = dr.load(saved(theirs, tmp_path, scheduler), architecture={"encoder_hidden_states": prompt[0].tolist()})
    x, t = inputs(4)
    expected = theirs(x, t, encoder_hidden_states=prompt.expand(2, -1, -1)).sample
    close(model(x, model.schedule.at(t)).eps, expected)
    assert model.input.latent
    assert (model.sampling.rule, model.sampling.clip) == ("leading-1", False)
    assert model.schedule.clean == float(model.schedule.alphas_cumprod[0])
    walked = model.schedule.path(10, rule=model.sampling.rule)
    assert float(walked.sigma[-1]) > 0
    assert dr.ddim(model, x, walked).isfinite().all()


def test_xl_is_told_pooled_text_and_sizes(tmp_path):
    theirs = random("UNet2DConditionModel", **XL)
    x, t = inputs(4)
    prompt, pooled = words(1, 16), words(1, 20)[0, :1]
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
    model = dr.load(
        saved(theirs, tmp_path), schedule=LINEAR, architecture={"encoder_hidden_states": prompt, "text_embeds": pooled}
    )
    added = {"text_embeds": pooled.expand(2, -1), "time_ids": ids.expand(2, -1)}
    expected = theirs(x, t, encoder_hidden_states=prompt.expand(2, -1, -1), added_cond_kwargs=added).sample
    close(model(x, LINEAR.at(t)).eps, expected)


def test_the_refiner_is_told_a_score(tmp_path):
    theirs = random("UNet2DConditionModel", **{**XL, "projection_class_embeddings_input_dim": 5 * 8 + 20})
    folder = saved(theirs, tmp_path, diffusers().DDIMScheduler())
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "requires_aesthetics_score": True}))
    x, t = inputs(4)
    added = {"text_embeds": torch.zeros(2, 20), "time_ids": torch.tensor([[64.0, 64, 0, 0, 6]]).expand(2, -1)}
    expected = theirs(x, t, encoder_hidden_states=torch.zeros(2, 77, 16), added_cond_kwargs=added).sample
    model = dr.load(folder)
    close(model(x, model.schedule.at(t)).eps, expected)
    bare = folder / "unet"
    for told in ({"requires_aesthetics_score": True}, {"text_embeds": torch.zeros(1, 20)}):
        close(dr.load(bare, architecture=told)(x, model.schedule.at(t)).eps, expected)


@pytest.mark.parametrize(
    ("kind", "label"),
    [("timestep", torch.tensor([3.0, 8.0])), ("identity", words(1, 64)[0, :2]), ("projection", words(1, 12)[0, :2])],
)
@pytest.mark.parametrize("name", ["UNet2DModel", "UNet2DConditionModel"])
def test_an_embedded_class_must_be_told(name, kind, label, tmp_path):
    config = {**(UNET if name == "UNet2DModel" else CONDITION), "class_embed_type": kind}
    if kind == "projection":
        config["projection_class_embeddings_input_dim"] = 12
        if name == "UNet2DModel":
            pytest.skip("it has none")
    theirs = random(name, **config)
    folder = saved(theirs, tmp_path)
    with pytest.raises(FormatError, match="class_labels"):
        dr.load(folder, schedule=LINEAR)
    model = dr.load(folder, schedule=LINEAR, architecture={"class_labels": label})
    x, t = inputs(config["in_channels"])
    words_told = {} if name == "UNet2DModel" else {"encoder_hidden_states": torch.zeros(2, 77, 16)}
    close(model(x, LINEAR.at(t)).eps, theirs(x, t, class_labels=label, **words_told).sample)


def test_pixart_learned_its_variance(tmp_path):
    theirs = random("PixArtTransformer2DModel", **PIXART)
    model = dr.load(
        saved(theirs, tmp_path, diffusers().DPMSolverMultistepScheduler()),
        architecture={"encoder_hidden_states": words(2, 12)},
    )
    x, t = inputs(4)
    answer = model(x, model.schedule.at(t))
    added = {"resolution": None, "aspect_ratio": None}
    expected = theirs(x, encoder_hidden_states=words(2, 12), timestep=t, added_cond_kwargs=added).sample
    close(torch.cat([answer.eps, answer.log_variance], dim=1), expected)


def test_pixart_under_its_name_on_the_hub(tmp_path):
    theirs = random("PixArtTransformer2DModel", **PIXART)
    folder = saved(theirs, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "Transformer2DModel"}))
    x, t = inputs(4)
    added = {"resolution": None, "aspect_ratio": None}
    expected = theirs(x, encoder_hidden_states=torch.zeros(2, 77, 12), timestep=t, added_cond_kwargs=added).sample
    close(dr.load(folder, schedule=LINEAR)(x, LINEAR.at(t)).eps, expected[:, :4])


def test_pixart_with_sizes(tmp_path):
    theirs = random(
        "PixArtTransformer2DModel",
        **{**PIXART, "use_additional_conditions": True, "attention_head_dim": 12, "cross_attention_dim": 24},
    )
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    x, t = inputs(4)
    added = {"resolution": torch.full((2, 2), 64.0), "aspect_ratio": torch.ones(2, 1)}
    expected = theirs(x, encoder_hidden_states=torch.zeros(2, 77, 12), timestep=t, added_cond_kwargs=added).sample
    close(model(x, LINEAR.at(t)).eps, expected[:, :4])


def test_sd3_is_a_flow_of_1000_times_s(tmp_path):
    theirs = random("SD3Transformer2DModel", **SD3)
    prompt, pooled = words(2, 12), words(2, 20)[:, 0]
    model = dr.load(
        saved(theirs, tmp_path), architecture={"encoder_hidden_states": prompt, "pooled_projections": pooled}
    )
    x, _ = inputs(4)
    s = torch.tensor([0.25, 0.75])
    expected = theirs(x, encoder_hidden_states=prompt, pooled_projections=pooled, timestep=1000 * s).sample
    close(model(x, model.schedule.at(s)).flow, expected)
    noise, image = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    model.network.forward = lambda x, time, y=None: noise - image
    for s in (0.1, 0.5, 0.9):
        assert torch.allclose(model((1 - s) * image + s * noise, model.schedule.at(s)).x0, image, atol=1e-5)


@pytest.mark.parametrize("guided", [False, True])
def test_flux_packs_pixels_into_tokens(guided, tmp_path):
    theirs = random("FluxTransformer2DModel", **FLUX, guidance_embeds=guided)
    prompt, pooled = words(2, 12), words(2, 20)[:, 0]
    told = {"encoder_hidden_states": prompt, "pooled_projections": pooled, "size": 8}
    model = dr.load(saved(theirs, tmp_path), architecture=told)
    x, _ = inputs(4)
    s = torch.tensor([0.25, 0.75])
    pipeline = diffusers().FluxPipeline
    out = theirs(
        pipeline._pack_latents(x, 2, 4, 8, 8),
        encoder_hidden_states=prompt,
        pooled_projections=pooled,
        timestep=s,
        img_ids=pipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32),
        txt_ids=torch.zeros(5, 3),
        guidance=torch.full((2,), 3.5) if guided else None,
    ).sample
    close(model(x, model.schedule.at(s)).flow, pipeline._unpack_latents(out, 64, 64, 8))
    assert [t.name for t in model.taps] == ["block.1", "block.2", "block.3"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_flux_walks_the_times_of_its_pipeline(dynamic, tmp_path):
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=dynamic)
    folder = saved(random("FluxTransformer2DModel", **FLUX), tmp_path, scheduler)
    model = dr.load(folder, architecture={"size": 32})
    mu = 0.5 + (1.15 - 0.5) * (16 * 16 - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 5, 5).tolist(), mu=mu if dynamic else None)
    path = model.schedule.path(5, rule=model.sampling.rule)
    assert torch.allclose(path.sigma, scheduler.sigmas.double(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("UNet2DConditionModel", CONDITION, {}),
        ("UNet2DConditionModel", XL, {}),
        ("PixArtTransformer2DModel", PIXART, {}),
        ("SD3Transformer2DModel", SD3, {}),
        ("FluxTransformer2DModel", FLUX, {"size": 8}),
    ],
)
def test_every_row_of_the_table_of_taps_is_true_under_all_its_names(name, config, told, tmp_path):
    model = dr.load(saved(random(name, **config), tmp_path), architecture=told)
    level = dr.NoiseLevel(0.8, 0.6) if model.schedule.convention == "unknown" else model.schedule.at(0.5)
    model = model if model.schedule.convention == "flow" else model.with_schedule(LINEAR)
    x, _ = inputs(4)
    names = [n for tap in model.taps for n in (tap.name, *tap.aliases)]
    assert len(names) == len(set(names))
    maps = dr.read(model, x, level, [*names, "time"])
    for tap in model.taps:
        assert maps[tap.name].shape == (2, tap.channels, tap.resolution, tap.resolution), tap.name
        assert all(torch.equal(maps[alias], maps[tap.name]) for alias in tap.aliases)
    assert maps["time"].shape == (2, model.network.time_width)
    if "UNet" in name:
        assert {"up_blocks.1.attentions.0", "up_blocks.1", "mid_block", "down_blocks.0", "conv_in"} <= set(names)


def test_taps_have_the_values_of_the_submodules(tmp_path):
    theirs = random("UNet2DConditionModel", **CONDITION)
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    seen, paths = {}, ["down_blocks.0.resnets.0", "up_blocks.1.attentions.0", "up_blocks.0", "mid_block"]
    for path in paths:
        theirs.get_submodule(path).register_forward_hook(lambda m, i, out, path=path: seen.update({path: out}))
    x, t = inputs(4)
    theirs(x, t, encoder_hidden_states=torch.zeros(2, 77, 16))
    for path, value in dr.read(model, x, LINEAR.at(t), paths).items():
        close(value, seen[path][0] if isinstance(seen[path], tuple) else seen[path])


def test_it_is_saved_with_its_prompt_and_loaded_again(tmp_path):
    model = dr.load(
        saved(random("UNet2DConditionModel", **CONDITION), tmp_path / "theirs"),
        schedule=LINEAR,
        architecture={"encoder_hidden_states": words(1, 16)},
    )
    again = dr.load(dr.save(model, tmp_path / "ours"))
    x, t = inputs(4)
    assert torch.equal(again(x, LINEAR.at(t)).eps, model(x, LINEAR.at(t)).eps)
    assert again.identity == model.identity


def test_another_prompt_for_the_same_weights(tmp_path):
    model = dr.load(saved(random("UNet2DConditionModel", **CONDITION), tmp_path), schedule=LINEAR)
    other = prompted(model, encoder_hidden_states=words(2, 16))
    x, t = inputs(4)
    level = LINEAR.at(t)
    assert not torch.equal(other(x, level).eps, model(x, level).eps)
    assert torch.equal(prompted(other, encoder_hidden_states=torch.zeros(77, 16))(x, level).eps, model(x, level).eps)
    assert next(other.parameters()).data_ptr() == next(model.parameters()).data_ptr()
    assert other.identity != model.identity
    with pytest.raises(ValueError, match="2 rows for 1 images"):
        other(x[:1], level[:1])
    with pytest.raises(UsageError, match="text_embeds"):
        prompted(model, text_embeds=words(1, 16)[0])


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"encoder_hidden_states": torch.zeros(5, 17)}, "D = 16"),
        ({"encoder_hidden_states": torch.zeros(16)}, r"\(B, N, D\)"),
        ({"pooled_projections": torch.zeros(3)}, "does not take pooled_projections"),
        ({"prompt": "a cat"}, "encoder_hidden_states"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(told, named, tmp_path):
    folder = saved(random("UNet2DConditionModel", **CONDITION), tmp_path)
    with pytest.raises(FormatError, match=named):
        dr.load(folder, schedule=LINEAR, architecture=told)


def test_an_inpainting_network_is_refused(tmp_path):
    folder = saved(random("UNet2DConditionModel", **{**CONDITION, "in_channels": 9}), tmp_path)
    with pytest.raises(FormatError, match="takes 9 channels and gives 4"):
        dr.load(folder)


def test_without_the_extra_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    folder = saved(random("UNet2DConditionModel", **CONDITION), tmp_path / "theirs")
    ours = dr.save(dr.load(folder, schedule=LINEAR), tmp_path / "ours")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "diffusers":
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for path in (folder, ours):
        with pytest.raises(UsageError) as raised:
            dr.load(path)
        assert str(raised.value) == 'this needs the diffusers extra: pip install "diffrep[diffusers]"'
