"""convert: a foreign checkpoint as a model folder that computes the same without the original."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import diffrep as dr
from diffrep.cli import main
from diffrep.errors import UsageError
from diffrep.files import sha256_of
from diffrep.formats.converting import SCHEDULES, convert
from tests.formats.parity import PARITY

CASES = {
    "ddae-ddpm": "none stated",
    "ddae-edm": "none stated",
    "dit": "CC BY-NC 4.0",
    "edm-ddpmpp": "CC BY-NC-SA 4.0",
    "guided-diffusion-adm": "MIT",
    "pdae-celeba64-tiny": "none stated",
    "diff-ae/checkpoints/celeba64d2c_autoenc_latent": "MIT",
    "diff-ae/checkpoints/celeba64d2c_ddpm": "MIT",
    "pytorch-diffusion": "MIT",
    "diffusers-ddpm": "Apache-2.0",
}


def copied(case: str, folder: Path) -> Path:
    """A copy of a case with its configs, so that the original can be taken away."""
    if not (PARITY / case).is_dir():
        pytest.skip(f"no {PARITY / case}")
    top = case.split("/")[0]
    shutil.copytree(PARITY / top, folder / top)
    return folder / case


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_computes_the_same_without_the_original(case: str, tmp_path: Path) -> None:
    source = copied(case, tmp_path / "official")
    first = dr.load(source)
    out = convert(source, tmp_path / "ours")
    shutil.rmtree(tmp_path / "official")
    again = dr.load(out)
    assert type(again) is type(first)
    ours, theirs = again.state_dict(), first.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert again.schedule == first.schedule
    assert again.input == first.input
    card = (out / "README.md").read_text()
    assert f"license of the weights: {CASES[case]}" in card or case == "diffusers-ddpm"
    for word in ("source:", "sha256:", "parameterization:", "schedule:", "preprocessing:", "| tap |"):
        assert word in card


def test_the_card_has_the_hash_and_the_official_names(tmp_path: Path) -> None:
    source = copied("ddae-ddpm", tmp_path)
    card = (convert(source, tmp_path / "out") / "README.md").read_text()
    assert sha256_of(source / "output_DDPM_ddpm" / "ckpts" / "model_1999.pth") in card
    assert "out_2" in card


def test_the_card_says_what_a_model_has_beside_its_network(tmp_path: Path) -> None:
    words = {
        "pdae-celeba64-tiny": ("with: statistics of codes, prior, classifier", "pre-trained-dpms/celeba64/config.yml"),
        "diff-ae/checkpoints/celeba64d2c_autoenc": ("with: statistics of codes",),
        "edm-ddpmpp": ("sigma_data: 0.5",),
        "diffusers-unet-condition": ("told beside image and time: encoder_hidden_states (1, ",),
    }
    for case, wanted in words.items():
        source = copied(case, tmp_path / "official")
        bare = SCHEDULES["linear"]() if "unet" in case else None
        card = (convert(source, tmp_path / case, schedule=bare) / "README.md").read_text()
        assert all(word in card for word in wanted), card
        shutil.rmtree(tmp_path / "official")


def test_as_a_command_with_facts_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = copied("dit", tmp_path / "official")
    (source / "args.json").rename(tmp_path / "facts.json")
    out = tmp_path / "out"
    words = ["convert", str(source / "DiT-tiny.pt"), str(out), "--json"]
    assert main(words) == 2
    assert "num_heads" in capsys.readouterr().err
    assert main([*words, "--architecture", str(tmp_path / "facts.json")]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(out)
    assert dr.load(out).labels.null == 10
    assert main([*words, "--architecture", str(tmp_path / "facts.json")]) == 2
    assert main([*words, "--architecture", str(tmp_path / "facts.json"), "--overwrite"]) == 0


def test_a_bare_network_needs_its_schedule_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = copied("diffusers-dit", tmp_path / "official")
    words = ["convert", str(source), str(tmp_path / "out"), "--json"]
    assert main(words) == 2
    assert "--schedule linear" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--schedule", "linear"]) == 0
    again, first = dr.load(tmp_path / "out"), dr.load(source, schedule=dr.DiscreteSchedule.linear())
    assert again.identity == first.identity
    out = dr.convert(source, tmp_path / "latent", schedule=SCHEDULES["scaled-linear"]())
    level = dr.load(out).schedule.at(999)
    assert float(level.alpha) ** 2 == pytest.approx(0.0047, abs=1e-4)


def test_a_model_folder_needs_no_conversion(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already"):
        convert("ddpm-digits", tmp_path / "out")


def test_the_license_is_said_once_at_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the foreign file, and of what was converted from it."""
    if not PARITY.is_dir():
        pytest.skip(f"no {PARITY}")
    for source in (PARITY / "edm-ddpmpp", convert(PARITY / "edm-ddpmpp", tmp_path / "ours")):
        caplog.clear()
        dr.load(source)
        said = [record.getMessage() for record in caplog.records if record.name == "diffrep.formats"]
        assert len(said) == 1
        assert "CC BY-NC-SA" in said[0]
