"""UNet2DModel folders: every setting of the config, old names, round trips, refusals."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffrep as dr
from diffrep.errors import FormatError, UsageError
from diffrep.formats.diffusers_unet import modern, official_name, translation
from tests.formats.diffusers_models import UNET, close, diffusers, inputs, random, saved

LINEAR = dr.DiscreteSchedule.linear()
VARIANTS = {
    "plain": {},
    "ddpm-cifar10": {
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "layers_per_block": 2,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "attention-on-one-side": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "attention_head_dim": 16,
        "block_out_channels": (16, 48),
    },
    "no-attention": {
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "add_attention": False,
    },
    "scale-shift": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "scale-shift-no-norm": {"resnet_time_scale_shift": "scale_shift"},
    "residual-resampling": {
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "down_block_types": ("AttnDownBlock2D",) * 2,
    },
    "resnet-blocks": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "centered": {"center_input_sample": True, "time_embedding_dim": 40, "dropout": 0.3},
    "learned-variance": {"out_channels": 6, "norm_num_groups": 4},
}


def eps_and_variance(answer):
    return answer.eps if answer.log_variance is None else torch.cat([answer.eps, answer.log_variance], dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_random_network_computes_what_diffusers_computes(variant, tmp_path):
    theirs = random("UNet2DModel", **{**UNET, **VARIANTS[variant]})
    model = dr.load(saved(theirs, tmp_path / "unet"), schedule=LINEAR)
    x, t = inputs(3)
    close(eps_and_variance(model(x, LINEAR.at(t))), theirs(x, t, return_dict=False)[0])
    assert model.network.config["layout"] == "diffusers_unet"


@pytest.mark.parametrize("variant", ["plain", "ddpm-cifar10", "resnet-blocks", "residual-resampling"])
def test_every_official_name_is_the_official_value(variant, tmp_path):
    theirs = random("UNet2DModel", **{**UNET, **VARIANTS[variant]})
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    seen, names = {}, [alias for tap in model.taps for alias in tap.aliases]
    for name in names:
        theirs.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    x, t = inputs(3)
    theirs(x, t)
    maps = dr.read(model, x, LINEAR.at(t), names)
    assert {"conv_in", "mid_block", "up_blocks.0", "down_blocks.1"} <= maps.keys()
    for name, value in maps.items():
        close(value, seen[name][0] if isinstance(seen[name], tuple) else seen[name])


def test_classes_are_read_and_needed(tmp_path):
    theirs = random("UNet2DModel", **UNET, num_class_embeds=5)
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    x, t = inputs(3)
    y = torch.tensor([1, 4])
    close(model(x, LINEAR.at(t), y=y).eps, theirs(x, t, class_labels=y).sample)
    with pytest.raises(UsageError, match='y="none"'):
        model(x, LINEAR.at(t))


def test_old_files_call_the_layers_of_attention_otherwise(tmp_path):
    theirs = random("UNet2DModel", **UNET)
    new, old = saved(theirs, tmp_path / "new"), tmp_path / "old"
    shutil.copytree(new, old)
    file = old / "diffusion_pytorch_model.safetensors"
    changed = {}
    for name, tensor in load_file(file).items():
        for ours, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".attentions.0.{ours}." in name:
                name = name.replace(ours, before)
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        changed[name] = tensor.contiguous()
    file.unlink()
    torch.save(changed, old / "diffusion_pytorch_model.bin")
    assert any("proj_attn" in name for name in changed)
    assert dr.load(old, schedule=LINEAR).identity == dr.load(new, schedule=LINEAR).identity


def test_a_converted_network_is_saved_and_loaded_without_diffusers(tmp_path):
    theirs = random("UNet2DModel", **UNET)
    model = dr.load(saved(theirs, tmp_path / "unet", diffusers().DDPMScheduler()))
    again = dr.load(dr.save(model, tmp_path / "ours"))
    x, t = inputs(3)
    assert torch.equal(again(x, again.schedule.at(t)).eps, model(x, model.schedule.at(t)).eps)
    assert (again.identity, again.sampling, again.taps) == (model.identity, model.sampling, model.taps)


@pytest.mark.parametrize("setting", [{"time_embedding_type": "fourier"}, {"mid_block_scale_factor": 1.4}])
def test_what_our_layout_has_not_is_run_by_diffusers(setting, tmp_path):
    theirs = random("UNet2DModel", **{**UNET, **setting})
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    x, t = inputs(3)
    assert model.network.config["layout"] == "diffusers_hosted"
    close(model(x, LINEAR.at(t)).eps, theirs(x, t.float()).sample)
    assert {"enc.1", "mid", "dec.4", "up_blocks.1.resnets.0"} <= {
        n for tap in model.taps for n in (tap.name, *tap.aliases)
    }


NCSNPP = {
    **UNET,
    "time_embedding_type": "fourier",
    "mid_block_scale_factor": 2**0.5,
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
}


def test_a_score_network_of_sigma(tmp_path):
    theirs = random("UNet2DModel", **NCSNPP)
    scheduler = diffusers().ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=378.0)
    model = dr.load(saved(theirs, tmp_path, scheduler))
    assert (model.parameterization, model.schedule) == ("score", dr.VESchedule(0.01, 378.0))
    sigma, (x, _) = torch.tensor([0.5, 20.0]), inputs(3)
    x = x * sigma.reshape(2, 1, 1, 1)
    answer, score = model(x, dr.NoiseLevel.from_sigma(sigma)), theirs(x, sigma).sample
    close(answer.score, score)
    close(answer.x0, x + sigma.reshape(2, 1, 1, 1) ** 2 * score)
    scheduler.set_sigmas(10)
    path = model.schedule.path(9, rule=model.sampling.rule)
    assert torch.allclose(path.sigma.flip(0).float(), scheduler.discrete_sigmas, rtol=1e-5)
    seen, names = {}, [alias for tap in model.taps for alias in tap.aliases]
    for name in names:
        theirs.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    theirs(x, sigma)
    assert {"down_blocks.0", "down_blocks.1", "up_blocks.0", "mid_block"} <= set(names)
    for name, value in dr.read(model, x, dr.NoiseLevel.from_sigma(sigma), names).items():
        close(value, seen[name][0] if isinstance(seen[name], tuple) else seen[name])
    loss = dr.ShiftObjective(dr.ShiftAutoencoder.fresh(model, 8, training_scale="score")).loss_at(
        x.clamp(-1, 1), dr.NoiseLevel.from_sigma(sigma), torch.ones_like(x)
    )
    loss.sum().backward()
    assert loss.isfinite().all()


@pytest.mark.parametrize(
    "setting",
    [
        {"time_embedding_type": "learned", "num_train_timesteps": 1000},
        {"block_out_channels": (16, 24), "attention_head_dim": 16},
    ],
    ids=["learned-time", "heads-that-do-not-divide"],
)
def test_what_needs_diffusers_computes_what_diffusers_computes(setting, tmp_path):
    theirs = random("UNet2DModel", **{**UNET, **setting})
    model = dr.load(saved(theirs, tmp_path), schedule=LINEAR)
    x, t = inputs(3)
    close(model(x, LINEAR.at(t)).eps, theirs(x, t).sample)


def test_maps_in_channels_last_are_trained_on(tmp_path):
    model = dr.load(saved(random("UNet2DModel", **UNET, act_fn="gelu"), tmp_path), schedule=LINEAR)
    assert model.network.config["layout"] == "diffusers_hosted"
    objective = dr.ShiftObjective(dr.ShiftAutoencoder.fresh(model, 8))
    x, t = inputs(3)
    objective.loss_at(x, LINEAR.at(t), torch.ones_like(x)).sum().backward()
    assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize(("kind", "ours"), [("epsilon", "eps"), ("sample", "x0"), ("v_prediction", "v")])
def test_every_kind_of_prediction_returns_a_known_image(kind, ours, tmp_path):
    scheduler = diffusers().DDIMScheduler(prediction_type=kind, beta_schedule="squaredcos_cap_v2")
    model = dr.load(saved(random("UNet2DModel", **UNET), tmp_path, scheduler))
    assert model.parameterization == ours
    x0, eps = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    for t in range(0, 1000, 10):
        level = model.schedule.at(t)
        assert int(model.conditioning(model.schedule, level)) == t
        answer = {"eps": eps, "x0": x0, "v": scheduler.get_velocity(x0, eps, torch.tensor([t]))}[ours]
        model.network.forward = lambda x, time, y=None, answer=answer: answer
        alpha, sigma = level.like(x0)
        noisy = alpha * x0 + sigma * eps
        assert torch.allclose(noisy, scheduler.add_noise(x0, eps, torch.tensor([t])), atol=1e-5)
        assert float((model(noisy, level).x0 - x0).abs().max()) < 2e-6 / float(alpha) + 2e-5


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"flip_sin_to_cos": None, "norm_eps": None}, "norm_eps, flip_sin_to_cos"),
        ({"sample_size": None}, "sample_size"),
        ({"in_channels": 6}, "takes 6 channels"),
        ({"block_out_channels": [16, 64]}, "another shape"),
        ({"layers_per_block": 2}, "missing"),
        ({"layers_per_block": 1.5}, "layers_per_block is 1.5"),
        ({"norm_num_groups": 7}, "norm_num_groups 7"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"sample_size": 10**9}, "sample_size"),
    ],
)
def test_a_config_that_does_not_tell_or_fit_is_refused(edit, named, tmp_path):
    folder = saved(random("UNet2DModel", **UNET), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config = {k: edit.get(k, v) for k, v in config.items() if not (k in edit and edit[k] is None)}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=named):
        dr.load(folder)


def test_missing_and_left_over_tensors_are_named(tmp_path):
    folder = saved(random("UNet2DModel", **UNET), tmp_path)
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["mystery.weight"] = tensors.pop("mid_block.attentions.0.to_k.weight")
    save_file(tensors, file)
    what = (
        r"UNet2DModel: .*1 missing: mid_block\.attentions\.0\.to_q, to_k or to_v\.weight; 1 left over: mystery\.weight"
    )
    with pytest.raises(FormatError, match=what):
        dr.load(folder)


def test_every_tensor_of_ours_has_a_name_of_theirs(tmp_path):
    network = dr.load(saved(random("UNet2DModel", **UNET, num_class_embeds=3), tmp_path)).network
    theirs = {modern(name) for name in load_file(tmp_path / "diffusion_pytorch_model.safetensors")}
    names = translation(network)
    ours = [official_name(names, name).replace("to_q, to_k or to_v", "to_k") for name in network.state_dict()]
    assert set(ours) == {name for name in theirs if ".to_q." not in name and ".to_v." not in name}


def test_python_files_in_a_folder_are_never_run(tmp_path):
    folder = saved(random("UNet2DModel", **UNET), tmp_path / "pipe", diffusers().DDPMScheduler())
    sentinel = tmp_path / "ran"
    for place in (folder, folder / "unet"):
        (place / "pipeline.py").write_text(f"open({str(sentinel)!r}, 'w')")
    assert dr.load(folder).input.size == 8
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "pipeline.Evil"}}))
    with pytest.raises(FormatError, match="code"):
        dr.load(folder)
    assert not sentinel.exists()
