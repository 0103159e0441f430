"""Forms in which networks of diffusers lie on disks and on the hub: which file is read, and what is said otherwise."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import diffrep as dr
from diffrep.errors import FormatError, InputError
from diffrep.formats import hub
from tests.formats.diffusers_models import UNET, close, diffusers, inputs, random, saved

LINEAR = dr.DiscreteSchedule.linear()
WEIGHTS = "diffusion_pytorch_model"


def agrees(source, theirs, **told) -> None:
    model = dr.load(source, **told)
    x, t = inputs(3)
    close(model(x, model.schedule.at(t)).eps, theirs(x, t).sample)


@pytest.mark.parametrize(
    "form",
    [
        {"safe_serialization": False},
        {"max_shard_size": "40KB"},
        {"max_shard_size": "40KB", "safe_serialization": False},
        {"variant": "fp16"},
        {"variant": "fp16", "safe_serialization": False},
        {"variant": "fp16", "max_shard_size": "40KB"},
    ],
    ids=lambda form: "-".join(map(str, form.values())),
)
def test_every_form_of_weights_is_found_and_named(form, tmp_path):
    theirs = random("UNet2DModel", **UNET)
    theirs.save_pretrained(tmp_path, **form)
    agrees(tmp_path, theirs, schedule=LINEAR)
    for file in sorted(tmp_path.iterdir()):
        agrees(file, theirs, schedule=LINEAR)  # a shard, an index and the config mean the whole


def test_the_file_that_is_named_is_the_one_that_is_read(tmp_path):
    plain, raw, old = (random("UNet2DModel", seed, **UNET) for seed in range(3))
    plain.save_pretrained(tmp_path)
    raw.save_pretrained(tmp_path, variant="non_ema")
    old.save_pretrained(tmp_path, safe_serialization=False)
    agrees(tmp_path, plain, schedule=LINEAR)
    agrees(tmp_path / f"{WEIGHTS}.safetensors", plain, schedule=LINEAR)
    agrees(tmp_path / f"{WEIGHTS}.non_ema.safetensors", raw, schedule=LINEAR)
    agrees(tmp_path / f"{WEIGHTS}.bin", old, schedule=LINEAR)
    averaged = random("UNet2DModel", **UNET, seed=3)
    averaged.save_pretrained(tmp_path, variant="ema")
    agrees(tmp_path, averaged, schedule=LINEAR)


def test_of_several_variants_one_must_be_named(tmp_path):
    theirs = random("UNet2DModel", **UNET)
    for variant in ("fp16", "non_ema"):
        theirs.save_pretrained(tmp_path, variant=variant)
    with pytest.raises(InputError, match="holds fp16, non_ema"):
        dr.load(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_a_pipeline_in_one_folder(safe, tmp_path):
    theirs = random("UNet2DModel", **UNET)
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    diffusers().DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    agrees(tmp_path, theirs)
    agrees(tmp_path / f"{WEIGHTS}.{'safetensors' if safe else 'bin'}", theirs)


def test_a_folder_of_a_training_run_has_ema_first_and_no_optimizer(tmp_path):
    raw, ema = random("UNet2DModel", 1, **UNET), random("UNet2DModel", 2, **UNET)
    for name, model in (("unet", raw), ("unet_ema", ema)):
        model.save_pretrained(tmp_path / name)
    torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}, tmp_path / "optimizer.bin")
    torch.save({"last_epoch": 3, "base_lrs": [0.1]}, tmp_path / "scheduler.bin")
    torch.save({"step": 0, "torch_manual_seed": torch.get_rng_state()}, tmp_path / "random_states_0.pkl")
    agrees(tmp_path, ema, schedule=LINEAR)
    agrees(tmp_path / "unet", raw, schedule=LINEAR)


def test_a_bare_state_dict_asks_for_its_class_and_takes_its_config(tmp_path):
    theirs = random("UNet2DModel", **UNET)
    file = tmp_path / "model.pt"
    torch.save({f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}, file)
    with pytest.raises(FormatError, match=r"a network of diffusers.*_class_name"):
        dr.load(file)
    config = {"_class_name": "UNet2DModel", **theirs.config}
    agrees(file, theirs, schedule=LINEAR, architecture=config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    agrees(file, theirs, schedule=LINEAR)


def test_a_missing_shard_and_one_outside_are_refused(tmp_path):
    theirs = random("UNet2DModel", **UNET)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    index = tmp_path / f"{WEIGHTS}.safetensors.index.json"
    shards = json.loads(index.read_text())
    first = sorted(tmp_path.glob("*-of-*"))[0]
    first.rename(tmp_path / "away")
    with pytest.raises(FormatError, match=f"lacks {first.name}"):
        dr.load(tmp_path)
    name = next(iter(shards["weight_map"]))
    index.write_text(json.dumps({**shards, "weight_map": {**shards["weight_map"], name: "../evil.safetensors"}}))
    with pytest.raises(FormatError, match="outside"):
        dr.load(tmp_path)


@pytest.mark.parametrize("name", ["vae", "vqvae"])
def test_a_network_beside_a_vae_takes_latents(name, tmp_path):
    folder = saved(random("UNet2DModel", **UNET), tmp_path, diffusers().DDIMScheduler())
    assert not dr.load(folder).input.latent
    (folder / name).mkdir()
    for place in (folder, folder / "unet", folder / "unet" / f"{WEIGHTS}.safetensors"):
        assert dr.load(place).input.latent


def test_what_a_repository_holds_is_fetched_in_one_form(tmp_path):
    forms = [f"unet/{WEIGHTS}.{form}" for form in ("safetensors", "bin", "fp16.safetensors")]
    assert hub.wanted_files(["unet/config.json", *forms, "x.py"]) == ["unet/config.json", forms[0]]
    half = [f"unet/{WEIGHTS}.fp16.safetensors", f"unet/{WEIGHTS}.non_ema.safetensors", "v1-5.safetensors"]
    assert hub.wanted_files(half) == [half[0]]
    shards = [f"transformer/{WEIGHTS}-0000{k}-of-00002.safetensors" for k in (1, 2)]
    assert hub.wanted_files([*shards, f"transformer/{WEIGHTS}.fp16-00001-of-00001.safetensors"]) == shards
    encoders = {"text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_3": ["transformers", "T5EncoderModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(encoders))
    assert hub.unread_encoders(tmp_path) == {"text_encoder_3"}


def test_a_repository_in_the_cache_is_read_offline(tmp_path, monkeypatch, caplog):
    theirs = random("UNet2DModel", **UNET)
    repository = tmp_path / "models--someone--tiny"
    first = repository / "snapshots" / ("a" * 40)
    saved(theirs, first, diffusers().DDPMScheduler())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    agrees("someone/tiny", theirs)  # no branch points to it
    assert "revision main is not in the cache" in caplog.text
    shutil.copytree(first, repository / "snapshots" / ("b" * 40))
    with pytest.raises(InputError, match="other revisions"):
        dr.load("someone/tiny")


def test_a_model_in_half_precision_is_computed_in_float32_unless_told(tmp_path):
    theirs = random("UNet2DModel", **UNET).half()
    theirs.save_pretrained(tmp_path)
    assert next(dr.load(tmp_path).parameters()).dtype == torch.float32
    assert next(dr.load(tmp_path, dtype=torch.float16).parameters()).dtype == torch.float16


def test_a_prefix_of_a_wrapper_is_taken_off(tmp_path):
    theirs = random("UNet2DModel", **UNET)
    theirs.save_pretrained(tmp_path)
    file = tmp_path / f"{WEIGHTS}.safetensors"
    save_file({f"_orig_mod.{name}": tensor for name, tensor in load_file(file).items()}, file)
    agrees(tmp_path, theirs, schedule=LINEAR)
