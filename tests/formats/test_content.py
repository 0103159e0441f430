"""Which checkpoint a path means, and what is known about it."""

import json
import os
from pathlib import Path

import pytest
import torch

import diffrep as dr
from diffrep.errors import FormatError, InputError, UsageError
from diffrep.formats.content import Content, read, require
from diffrep.formats.facts import read_config
from diffrep.formats.finding import find
from tests.formats.parity import PARITY

EXPECTED = {
    "ddae-ddpm": "output_DDPM_ddpm/ckpts/model_1999.pth",
    "ddae-ddpmpp": "output_DDPM_ddpmpp/ckpts/model_1999.pth",
    "ddae-edm": "output_EDM_ddpm/ckpts/model_1999.pth",
    "ddae-edm-aug": "output_EDM_ddpmpp_aug/ckpts/model_1999.pth",
    "diffusers-ddpm": "pipeline",
    "diffusers-dit": "transformer",
    "diffusers-unet-condition": "unet",
    "dit": "DiT-tiny.pt",
    "edm-adm": "network-snapshot-200000.pkl",
    "edm-ddpmpp": "network-snapshot-200000.pkl",
    "guided-diffusion-adm": "ema_0.9999_500000.pt",
    "guided-diffusion-plain": "ema_0.9999_500000.pt",
    "pdae-celeba64-tiny": "trained-models/autoencoder/celeba64/checkpoint.pt",
    "pdae-celeba64-tiny/pre-trained-dpms": "celeba64/checkpoint.pt",
    "pytorch-diffusion": "ema_diffusion_cifar10_model/model-790000.ckpt",
    "diff-ae/checkpoints/celeba64d2c_autoenc": "last.ckpt",
}


def checkpoint(path: Path, data: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(data or {"w": torch.zeros(1)}, path)
    return path


@pytest.mark.parametrize("case", EXPECTED)
def test_the_checkpoint_that_is_meant(case: str) -> None:
    if not (PARITY / case).is_dir():
        pytest.skip(f"no {PARITY / case}")
    assert find(PARITY / case) == PARITY / case / EXPECTED[case]


def test_three_models_are_listed() -> None:
    if not PARITY.is_dir():
        pytest.skip(f"no {PARITY}")
    with pytest.raises(InputError, match=r"autoenc/last.ckpt.*autoenc_latent/last.ckpt.*ddpm/last.ckpt"):
        dr.load(PARITY / "diff-ae")


@pytest.mark.parametrize(
    ("files", "meant"),
    [
        (["model500000.pt", "ema_0.9999_500000.pt"], "ema_0.9999_500000.pt"),
        (["nnet.pth", "nnet_ema.pth"], "nnet_ema.pth"),
        (["ema_net/model-1.ckpt", "net/model-1.ckpt"], "ema_net/model-1.ckpt"),
        (["model.pt", "ema.pt"], "ema.pt"),
        (["model.pt", "model_EMA.pt"], "model_EMA.pt"),
        (["ema/x.pt", "raw/x.pt"], "ema/x.pt"),
        (["emamodel100.pt", "model100.pt"], "emamodel100.pt"),
        (["last.pt", "old/last.pt"], "last.pt"),
        (["model500000.pt", "ema_0.9999_400000.pt"], None),
        (["ema_0.999_500000.pt", "ema_0.9999_500000.pt"], None),
        (["a/x.pt", "b/x.pt"], None),
        (["weights.safetensors", "x.pt"], "x.pt"),
    ],
)
def test_twins_and_candidates(files: list[str], meant: str | None, tmp_path: Path) -> None:
    for name in files:
        checkpoint(tmp_path / name)
    if meant:
        assert find(tmp_path) == tmp_path / meant
    else:
        with pytest.raises(InputError, match="name the one") as caught:
            find(tmp_path)
        assert all(name in str(caught.value) for name in files)


def test_optimizers_and_latents_are_no_models(tmp_path: Path) -> None:
    checkpoint(tmp_path / "opt500000.pt", {"state": {}, "param_groups": []})
    model = checkpoint(tmp_path / "model500000.pt")
    assert find(tmp_path) == model


def test_nothing_there_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FormatError, match="expected a folder"):
        dr.load(tmp_path)
    with pytest.raises(InputError, match="neither a file nor a packaged model"):
        dr.load(tmp_path / "nothing.pt")


def test_pipes_and_dangling_links_are_no_files(tmp_path: Path) -> None:
    """Reading a pipe would wait for ever."""
    os.mkfifo(tmp_path / "x.pt")
    os.mkfifo(tmp_path / "config.yaml")
    (tmp_path / "y.pt").symlink_to("nowhere")
    with pytest.raises(InputError, match="no file that can be read"):
        dr.load(tmp_path / "x.pt")
    with pytest.raises(FormatError, match="holds nothing"):
        dr.load(tmp_path)
    meant = checkpoint(tmp_path / "z.pt")
    assert find(tmp_path) == meant
    assert read(meant).facts == {}


def test_an_unknown_file_lists_formats_and_first_keys(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "x.pt", {f"layer{i}.weight": torch.zeros(1) for i in range(9)})
    with pytest.raises(FormatError) as caught:
        dr.load(path)
    text = str(caught.value)
    assert "9 entries: layer0.weight, layer1.weight" in text
    assert "DDAE" in text
    assert "EDM2" in text


@pytest.mark.parametrize("name", ["model.bin", "model.dat", "model", "model.safetensors.old"])
def test_the_name_does_not_matter(name: str, tmp_path: Path) -> None:
    if not PARITY.is_dir():
        pytest.skip(f"no {PARITY}")
    (tmp_path / name).write_bytes((PARITY / "dit" / "DiT-tiny.pt").read_bytes())
    facts = json.loads((PARITY / "dit" / "args.json").read_text())
    assert dr.load(tmp_path / name, architecture=facts).parameterization == "eps"


def test_facts_come_from_the_caller_then_from_the_nearest_config(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "run" / "ckpts" / "x.pt")
    (tmp_path / "args.json").write_text(json.dumps({"model": {"heads": 1, "depth": 3}}))
    assert read(path).fact("heads") == 1
    (tmp_path / "run" / "config.yml").write_text("heads: 2\n")
    found = read(path)
    assert found.fact("heads") == 2
    assert not found.has("depth")
    assert read(path, {"heads": 4}).fact("heads") == 4
    assert "architecture=" in read(path, {"heads": 4}).origin


def test_of_several_configs_the_one_of_this_run(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "output_b" / "ckpts" / "x.pth")
    (tmp_path / "config").mkdir()
    for name in "ab":
        (tmp_path / "config" / f"{name}.yaml").write_text(f"save_dir: ./output_{name}\nname: {name}\n")
    assert read(path).fact("name") == "b"
    path = checkpoint(tmp_path / "elsewhere" / "x.pth")
    assert read(path).facts == {}


def test_a_config_of_several_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps({"one": {"width": 1}, "two": {"width": 2}}))
    assert read(checkpoint(tmp_path / "checkpoints" / "two" / "last.ckpt")).facts == {"width": 2}


def test_facts_in_sections(tmp_path: Path) -> None:
    content = Content(tmp_path, {}, {"network": {"width": 8, "depth": 2}, "depth": 1, "inner": {"deep": {"x": None}}})
    assert (content.fact("width"), content.fact("depth"), content.fact("network.depth")) == (8, 1, 2)
    assert content.fact("x", 3) is None
    assert content.fact("nothing", 3) == 3
    assert content.has("x")
    assert not content.has("network.nothing")


def test_a_config_nested_without_end_is_refused(tmp_path: Path) -> None:
    for suffix in ("yaml", "json"):
        config = tmp_path / f"config.{suffix}"
        config.write_text("[" * 50_000)
        with pytest.raises(FormatError, match="broken"):
            read_config(config)


def test_facts_are_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a mapping"):
        dr.load(checkpoint(tmp_path / "model.pt"), architecture="args.json")


def test_all_missing_facts_are_named_with_the_fix(tmp_path: Path) -> None:
    content = Content(tmp_path / "x.pt", {}, {"a": 1}, name="x.pt")
    require(content, "a DDAE checkpoint", ["a"])
    with pytest.raises(FormatError) as caught:
        require(content, "a DDAE checkpoint", ["a", "n_blocks", "network.attn_channels_per_head"])
    assert "n_blocks, attn_channels_per_head" in caught.value.message
    assert 'architecture={"n_blocks": ..., "attn_channels_per_head": ...}' in caught.value.hint
    with pytest.raises(FormatError, match="b"):
        content.fact("b")
