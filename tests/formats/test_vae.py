"""VAEs: diffusers' own numbers, a model's own scaling, and all commands on a model of latents."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import diffrep as dr
from diffrep.denoiser import InputSpec
from diffrep.errors import FormatError, InputError, UsageError
from diffrep.formats.vae import inside
from diffrep.input_spec import LatentScaling
from tests.cli.conftest import call as call  # the command line in this process
from tests.formats.diffusers_models import DIT, diffusers, random, saved

VAE = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
KINDS = {
    "Stable Diffusion's": {"scaling_factor": 0.18215},
    "SD3's": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    "per channel": {"scaling_factor": 2.0, "latents_mean": [1.0, 2, 3, 4], "latents_std": [0.5, 1, 2, 4]},
}
SPEC = InputSpec(4, 8, latent=True)


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def pipeline(folder: Path) -> Path:
    made = saved(random("DiTTransformer2DModel", **DIT), folder, diffusers().DDIMScheduler())
    random("AutoencoderKL", **VAE).save_pretrained(made / "vae")
    return made


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_the_pipelines(kind: str, tmp_path: Path) -> None:
    theirs = random("AutoencoderKL", **VAE, **KINDS[kind])
    theirs.save_pretrained(tmp_path / "vae")
    vae, x = dr.load_vae(tmp_path / "vae"), pictures()
    raw, facts = theirs.encode(x).latent_dist.mean, KINDS[kind]
    if "latents_mean" in facts:
        mean, std = (torch.tensor(facts[f"latents_{n}"]).reshape(1, 4, 1, 1) for n in ("mean", "std"))
        expected = (raw - mean) * facts["scaling_factor"] / std
    else:
        expected = (raw - facts.get("shift_factor", 0)) * facts["scaling_factor"]
    made = vae.encode(x, SPEC)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(vae.decode(made, SPEC), theirs.decode(raw).sample.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert (vae.factor, vae.channels) == (2, 4)


@torch.no_grad()
def test_a_vqmodel_gives_what_it_quantizes_later(tmp_path: Path) -> None:
    config = {k: v for k, v in VAE.items() if k != "latent_channels"}
    theirs = random("VQModel", latent_channels=3, num_vq_embeddings=16, **config)
    theirs.save_pretrained(tmp_path / "vqvae")
    vae, spec = dr.load_vae(tmp_path), InputSpec(3, 8, latent=True)
    torch.testing.assert_close(vae.encode(pictures(), spec), theirs.encode(pictures()).latents * 0.18215)


@torch.no_grad()
def test_a_models_own_scaling_goes_before_the_vaes() -> None:
    """EDM2 shows its VAE pixels in [0, 1], and shifts and scales each channel."""
    theirs = random("AutoencoderKL", **VAE)
    scaling = LatentScaling((1.0, 2.0, 3.0, 4.0), (0.5, 0.5, 1.0, 2.0), (0.0, 1.0))
    vae, spec = dr.formats.vae.Vae(theirs), InputSpec(4, 8, latent=True, scaling=scaling)
    raw = theirs.encode(pictures() / 2 + 0.5).latent_dist.mean
    shift, scale = (torch.tensor(numbers).reshape(1, 4, 1, 1) for numbers in (scaling.shift, scaling.scale))
    made = vae.encode(pictures(), spec)
    torch.testing.assert_close(made, (raw - shift) * scale)
    expected = (theirs.decode(raw).sample * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(vae.decode(made, spec), expected, rtol=1e-4, atol=1e-5)
    assert InputSpec.from_config(json.loads(json.dumps(spec.config()))) == spec


def test_another_vae_is_refused(tmp_path: Path) -> None:
    vae = dr.formats.vae.Vae(random("AutoencoderKL", **VAE), "some")
    with pytest.raises(UsageError, match="latents of 4 channels, the model takes latents of 16"):
        vae.encode(pictures(), InputSpec(16, 8, latent=True))
    with pytest.raises(UsageError, match="the model takes pixels"):
        vae.decode(pictures(), InputSpec(3, 8))
    with pytest.raises(InputError):
        vae.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), SPEC)


def test_what_is_no_vae(tmp_path: Path) -> None:
    model = saved(random("DiTTransformer2DModel", **DIT), tmp_path / "model")
    with pytest.raises(FormatError, match="DiTTransformer2DModel"):
        dr.load_vae(model)
    with pytest.raises(InputError, match="no VAE"):
        dr.load_vae(tmp_path / "nowhere")
    random("AutoencoderKL", **VAE).save_pretrained(tmp_path / "vae")
    with pytest.raises(FormatError, match="is a VAE"):
        dr.load(tmp_path / "vae")
    assert inside(tmp_path) == tmp_path / "vae"
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "block_out_channels": [1 << 12, 1 << 12]}))
    with pytest.raises(FormatError, match="larger network"):
        dr.load_vae(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("scaling_factor", "x"), ("scaling_factor", float("nan")), ("norm_num_groups", 0)]
)
def test_settings_that_make_no_vae(name: str, value: object, tmp_path: Path) -> None:
    random("AutoencoderKL", **VAE).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), name: value}))
    with pytest.raises(FormatError, match="describes no VAE"):
        dr.load_vae(tmp_path)


def test_old_names_of_attention(tmp_path: Path) -> None:
    """As the published VAEs of Stable Diffusion have them."""
    theirs = random("AutoencoderKL", **VAE)
    theirs.save_pretrained(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = theirs.state_dict()
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): value for key, value in state.items()}
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    x = pictures()
    expected = theirs.encode(x).latent_dist.mean * 0.18215
    torch.testing.assert_close(dr.load_vae(tmp_path).encode(x, SPEC), expected)


def test_features_of_images_by_a_model_of_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFREP_CACHE", str(tmp_path / "cache"))
    folder = pipeline(tmp_path / "pipeline")
    denoiser, vae = dr.load(folder), dr.load_vae(folder)
    found = dr.features(denoiser, "digits", taps="block.1", split="val", vae=vae)
    images = dr.data.load("digits", image_size=16, channels=3)["val"]
    latents = vae.encode(dr.data.to_tensor(images.images), denoiser.input)
    features = dr.TapFeatures(denoiser, "block.1")(latents, ids=images.ids)
    for name, values in features.items():
        assert np.abs(found[name] - values.numpy()).max() <= 1e-4 * np.abs(found[name]).max()
    with pytest.raises(UsageError, match="--vae"):
        dr.features(denoiser, "digits", split="val")


@pytest.mark.slow
def test_every_command_on_images(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The VAE of the pipeline is found; codes become pictures again."""
    monkeypatch.setenv("DIFFREP_CACHE", str(tmp_path / "cache"))
    images = {}
    for split, part in dr.data.load("digits").items():
        few = part.take(40)
        images |= {f"{split}_images": few.images, f"{split}_labels": few.labels}
    np.savez(tmp_path / "some.npz", **images)
    source, folder, out = f"npz:{tmp_path / 'some.npz'}", pipeline(tmp_path / "pipeline"), tmp_path / "out"

    def done(*words: object) -> None:
        answer = call(*words)
        assert answer.code == 0, answer.err

    done("extract", folder, source, "--taps", "block.*", "--levels", "t=10,100", "-o", out / "f")
    done("probe", out / "f")
    few = ("--steps", "3", "--batch-size", "8", "--validate-every", "0", "--validation-images", "8", "--code-dim", "4")
    done("autoencode", folder, source, *few, "--preview-every", "2", "-o", out / "a")
    done("reconstruct", out / "a", source, "--num", "4", "--steps", "2", "--inversion-steps", "2", "-o", out / "r")
    done("interpolate", out / "a", source, "--num", "1", "--frames", "3", "--steps", "2", "-o", out / "i")
    done("encode", out / "a", source, "--split", "test", "--invert", "2", "-o", out / "z")
    done("decode", out / "a", out / "z", "--num", "3", "--steps", "2", "-o", out / "d")
    done("sample", folder, "--num", "2", "--steps", "2", "-o", out / "s")
    with np.load(out / "s" / "samples.npz") as drawn:
        assert (drawn["latents"].shape, drawn["images"].shape) == ((2, 4, 8, 8), (2, 16, 16, 3))
    assert len(list((out / "d" / "images").glob("*.png"))) == 3
    rows = np.load(out / "r" / "arrays.npz")["reconstruction"]
    assert rows.shape[1:] == (4, 16, 16, 3)
    report = json.loads((out / "r" / "report.json").read_text())
    assert "decoded by the VAE" in json.dumps(report)


def test_latents_of_a_file_need_no_vae_until_they_are_seen(call, tmp_path: Path) -> None:
    folder = saved(random("DiTTransformer2DModel", **DIT), tmp_path / "pipeline", diffusers().DDIMScheduler())
    rng, out = np.random.default_rng(0), tmp_path / "out"
    arrays = {"train_latents": rng.normal(size=(24, 4, 8, 8)).astype(np.float32), "train_labels": np.arange(24) % 2}
    np.savez(tmp_path / "set.npz", **arrays)
    source = f"npz:{tmp_path / 'set.npz'}"
    assert call("extract", folder, source, "--taps", "block.1", "--levels", "t=10", "-o", out / "f").code == 0
    few = ("--steps", "2", "--batch-size", "8", "--validate-every", "0", "--validation-images", "2", "--code-dim", "4")
    assert call("autoencode", folder, source, *few, "-o", out / "a").code == 0
    assert call("encode", out / "a", source, "-o", out / "z").code == 0
    for words in (("reconstruct", out / "a", source), ("decode", out / "a", out / "z")):
        answer = call(*words, "-o", out / "r")
        assert answer.code == 2
        assert "no pictures without its VAE" in answer.err
        assert not (out / "r").exists()
    answer = call("extract", folder, "digits", "-o", out / "g")
    assert answer.code == 2
    assert "--vae" in answer.err
    answer = call("extract", "ddpm-digits", source, "-o", out / "g")
    assert answer.code == 2
    assert "takes images, not latents" in answer.err
    assert (
        call("train", source, "--steps", "1", "--batch-size", "4", "--validate-every", "0", "-o", out / "t").code == 0
    )
    assert dr.load(out / "t").input == InputSpec(4, 8, latent=True)
