"""Bad input: a clear error with its exit code, no traceback, and nothing lost."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffrep as dr
from diffrep.errors import StoppedResumable
from tests.cli.calls import Answer, Call


def fails(answer: Answer, code: int, *messages: str) -> None:
    assert answer.code == code, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    for message in messages:
        assert message in answer.err


def pictures(folder: Path, count: int, classes: int = 1) -> Path:
    for k in range(count):
        place = folder / f"class{k % classes}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 20 * k, np.uint8)).save(place / f"{k}.png")
    return folder


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--taps", "dec.44"], ['unknown tap "dec.44"', 'did you mean "dec.4"?']),
        (["--levels", "t=5000"], ["t = 5000", "0 <= t <= 999"]),
        (["--levels", "sigma=1e9"], ["outside the schedule"]),
        (["--device", "cuda:7"], ['device "cuda:7" is not there', "cpu"]),
        (["--device", "gpu"], ['unknown device "gpu"', "cpu"]),
        (["--pool", "huge"], ['unknown pool "huge"']),
        (["--device", "cpu:3"], ['device "cpu:3" is not there', "cpu"]),
        (["--taps", ""], ["no tap is named", "dec.4"]),
        (["--levels", "log_snr=nan"], ['"nan" in levels "log_snr=nan" is no finite number']),
        (["--batch-size", "0"], ["batch_size = '0': expected a number greater than or equal to 1"]),
    ],
)
def test_wrong_settings_of_extract(call: Call, tmp_path: Path, words: list[str], messages: list[str]) -> None:
    fails(call("extract", "ddpm-digits", "digits", "-o", tmp_path / "x", *words), 2, *messages)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("ddpm-digit", "digits", 'did you mean "ddpm-digits"?'),
        ("ddpm-digits", "digitz", 'did you mean "digits"?'),
        ("ddpm-digits", "folder:no/such/folder", "no/such/folder"),
        ("ddpm-digits", "npz:no/such.npz", "no/such.npz"),
    ],
)
def test_missing_sources(call: Call, tmp_path: Path, model: str, source: str, message: str) -> None:
    fails(call("extract", model, source, "-o", tmp_path / "x"), 2, message)


def test_an_empty_folder(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(call("extract", "ddpm-digits", f"folder:{tmp_path / 'empty'}", "-o", tmp_path / "x"), 2, "no image")


def test_too_many_broken_files(call: Call, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", 8)
    (folder / "class0" / "zero.png").touch()
    (folder / "class0" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    words = ["extract", "ddpm-digits", f"folder:{folder}", "--levels", "t=10", "--taps", "mid"]
    fails(call(*words, "-o", tmp_path / "x"), 3, "max")
    answer = call(*words, "-o", tmp_path / "y", "--max-bad-fraction", "0.5", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["bad_records"] == 2
    lines = (tmp_path / "y" / "bad_records.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"class0/zero.png", "class0/torn.jpg"}


def test_probing_one_class_or_none(call: Call, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "images", 12)
    words = ["extract", "ddpm-digits", f"folder:{folder}", "--levels", "t=10", "--taps", "mid"]
    assert call(*words, "-o", tmp_path / "x").code == 0
    fails(call("probe", tmp_path / "x"), 2, "class")


def test_a_folder_that_is_not_empty_is_left_alone(call: Call, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    fails(call("sample", "ddpm-digits", "-o", tmp_path), 2, "is not empty", "--overwrite")
    fails(call("sample", "ddpm-digits", "-o", tmp_path, "--overwrite"), 2, "it is left as it is")
    fails(call("sample", "ddpm-digits", "-o", mine), 2, "is a file")
    fails(
        call("sample", "ddpm-digits", "-o", tmp_path, "--overwrite", "--resume", "auto"),
        2,
        "exclude",
    )
    assert mine.read_text() == "precious"


def test_overwrite_clears_the_run_and_nothing_else(call: Call, tmp_path: Path) -> None:
    words = ["sample", "ddpm-digits", "--num", "1", "--steps", "1", "-o", tmp_path / "x"]
    assert call(*words).code == 0
    (tmp_path / "x" / "note.txt").write_text("mine")
    fails(call(*words), 2, "is not empty")
    assert call(*words, "--overwrite").code == 0
    assert (tmp_path / "x" / "note.txt").read_text() == "mine"


def test_a_label_for_a_model_without_classes_writes_nothing(call: Call, tmp_path: Path) -> None:
    fails(call("sample", "ddpm-digits", "--label", "3", "-o", tmp_path / "x"), 2, "no classes", "leave --label out")
    assert not (tmp_path / "x").exists()


def test_a_flipped_bit(call: Call, tmp_path: Path) -> None:
    folder = dr.save(dr.load("ddpm-digits"), tmp_path / "model")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    fails(call("sample", folder, "-o", tmp_path / "x"), 2, "model.safetensors has changed", "sha256")


@pytest.mark.slow
def test_a_run_with_damaged_checkpoints(call: Call, tmp_path: Path) -> None:
    words = ["train", "digits", "--batch-size", "4", "--warmup-steps", "1", "--validation-images", "8", "--width", "16"]
    words += ["--checkpoint-every", "2", "--validate-every", "0", "--keep-last", "9", "-o", str(tmp_path), "--steps"]
    assert call(*words, "4").code == 0
    for step, file in ((4, "ema"), (2, "model")):
        damaged = tmp_path / "checkpoints" / f"step-{step:06d}" / f"{file}.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        answer = call(*words, "5", "--resume", "auto")
        assert f"warning: checkpoint of step {step} is passed over" in answer.err
        assert "loop.py" not in answer.err
        if step == 4:
            assert answer.code == 0, answer.err
            for later in (tmp_path / "checkpoints").glob("step-*"):
                if later.name != "step-000002":
                    shutil.rmtree(later)
    fails(answer, 2, "no checkpoint is whole", "sha256", "--overwrite")


def test_a_denoiser_is_no_autoencoder_and_the_reverse(call: Call, tmp_path: Path, autoencoder_folder: Path) -> None:
    fails(call("encode", "ddpm-digits", "digits", "-o", tmp_path / "x"), 2, "without an encoder", "diffrep autoencode")
    fails(call("sample", autoencoder_folder, "-o", tmp_path / "x"), 2, "diffrep sample ddpm-digits")


def test_ids_that_are_not_there(call: Call, tmp_path: Path, autoencoder_folder: Path) -> None:
    words = ["interpolate", autoencoder_folder, "digits", "-o", tmp_path / "x", "--ids"]
    fails(call(*words, "no-such-id,neither"), 2, 'no image has the id "no-such-id"')
    fails(call(*words, "one"), 2, "two ids per way")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/file"), 1, 'the disk is full: cannot write "out/file"'),
        (PermissionError(errno.EACCES, "Permission denied", "out/file"), 1, 'Permission denied: "out/file"'),
        (RuntimeError("something odd\nin two lines"), 1, "unexpected RuntimeError: something odd"),
        (KeyboardInterrupt(), 75, "--resume auto"),
        (StoppedResumable("stopped by SIGTERM", "continue with --resume auto"), 75, "stopped by SIGTERM"),
    ],
)
def test_failures_while_working(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("diffrep.cli.pictures.write_sheet", broken)
    words = ["sample", "ddpm-digits", "--num", "1", "--steps", "1"]
    fails(call(*words, "-o", tmp_path / "x"), code, message)
    assert "Traceback" in call(*words, "-o", tmp_path / "y", "-v").err


def test_a_packaged_model_that_is_broken_is_seen_by_the_doctor(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffrep.cli.commands import doctor
    from diffrep.formats.packaged import folder_of

    whole = folder_of("ddpm-digits")
    assert whole is not None
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "config.json").write_text("{}")
    monkeypatch.setattr("diffrep.formats.packaged.folder_of", lambda name: copy)
    assert doctor.state_of("ddpm-digits").startswith("broken: ")
