"""Each command end to end on the digits, with a handful of steps."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffrep.feature_set import read_parquet
from diffrep.training import fast_precision
from tests.cli.calls import Call

FILES = {"config.yaml", "environment.json", "metrics.jsonl", "report.json"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_sample_replays_from_its_config(call: Call, tmp_path: Path) -> None:
    first = call("sample", "ddpm-digits", "--num", "5", "--seed", "3", "--steps", "4", "-o", tmp_path / "a", "--json")
    assert first.code == 0, first.err
    assert first.json["images"] == 5
    assert names(tmp_path / "a") >= FILES | {"samples.png", "samples.npz"}
    again = call("sample", "--config", tmp_path / "a" / "config.yaml", "--batch-size", "2", "-o", tmp_path / "b")
    assert again.code == 0, again.err
    pictures = [np.load(tmp_path / k / "samples.npz")["images"] for k in "ab"]
    assert pictures[0].shape == (5, 8, 8, 1)
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


@pytest.mark.slow
def test_extract_then_probe(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["extract", "ddpm-digits", "digits", "--taps", "mid,dec.4", "--levels", "t=10,30", "--output-dir", out]
    extracted = call(*words, "--json")
    assert extracted.code == 0, extracted.err
    assert "8x8 pixels" in extracted.err
    assert extracted.json["images"] == {"train": 1197, "val": 200, "test": 400}
    sets = read_parquet(out / "features.parquet")
    assert sorted(sets["test"].names) == sorted(extracted.json["features"])
    assert (out / "bad_records.jsonl").read_text() == ""
    assert call(*words).code == 2
    assert call(*words, "--resume", "auto", "--seed", "1").code == 2
    probed = call("probe", out, "--json", "--per-class", "10", "--draws", "2")
    assert probed.code == 0, probed.err
    assert probed.json["accuracy"] > 0.9 > probed.json["few_labels_accuracy"] - 0.1
    assert probed.json["commonest_class"] < 0.15
    assert names(out / "probe") >= FILES
    assert call("probe", out, "--only", "enc.*", "-o", tmp_path / "p").code == 2


@pytest.mark.slow
def test_encode_then_decode(call: Call, tmp_path: Path, autoencoder_folder: Path) -> None:
    encoded = call(
        "encode", autoencoder_folder, "digits", "--split", "val", "--invert", "3", "-o", tmp_path / "e", "--json"
    )
    assert encoded.code == 0, encoded.err
    codes = read_parquet(tmp_path / "e" / "codes.parquet")["val"]
    assert codes["z"].shape == (200, 8)
    assert codes["x_T"].shape == (200, 64)
    decoded = call(
        "decode", autoencoder_folder, tmp_path / "e", "--num", "3", "--steps", "3", "-o", tmp_path / "d", "--json"
    )
    assert decoded.code == 0, decoded.err
    assert decoded.json["with_x_T"] is True
    assert names(tmp_path / "d" / "images") == {"000000.png", "000001.png", "000002.png"}
    lines = (tmp_path / "d" / "images.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == codes.ids[:3]


def test_codes_of_another_autoencoder_are_refused(call: Call, tmp_path: Path, autoencoder_folder: Path) -> None:
    import diffrep as dr

    other = dr.save(dr.ShiftAutoencoder.fresh(dr.load("ddpm-digits"), code_dim=8, seed=1), tmp_path / "other")
    assert call("encode", autoencoder_folder, "digits", "--split", "val", "-o", tmp_path / "e").code == 0
    answer = call("decode", other, tmp_path / "e", "-o", tmp_path / "d")
    assert answer.code == 2
    assert "decode them with the model that encoded them" in answer.err


@pytest.mark.slow
def test_reconstruct_and_interpolate_draw_reports(call: Call, tmp_path: Path, autoencoder_folder: Path) -> None:
    few = ["--steps", "2", "--json"]
    rebuilt = call(
        "reconstruct", autoencoder_folder, "digits", "--num", "6", "--inversion-steps", "2", "-o", tmp_path / "r", *few
    )
    assert rebuilt.code == 0, rebuilt.err
    assert {"z_only_mse", "shuffled_z_mse", "mean_image_mse", "pca_mse", "unconditional_mse"} <= set(rebuilt.json)
    assert names(tmp_path / "r") >= FILES | {"report.html", "arrays.npz"}
    ways = call("interpolate", autoencoder_folder, "digits", "--num", "2", "--frames", "3", "-o", tmp_path / "i", *few)
    assert ways.code == 0, ways.err
    assert names(tmp_path / "i") >= FILES | {"report.html", "interpolation.png"}
    (tmp_path / "r" / "report.html").unlink()
    assert call("report", tmp_path / "r").code == 0
    assert (tmp_path / "r" / "report.html").is_file()


@pytest.mark.slow
def test_train_then_autoencode_then_go_on(call: Call, tmp_path: Path) -> None:
    few = ["--steps", "3", "--batch-size", "8", "--validation-images", "8", "--checkpoint-every", "2", "--json"]
    trained = call("train", "digits", "--width", "16", "--preview-every", "3", "-o", tmp_path / "t", *few)
    assert trained.code == 0, trained.err
    assert names(tmp_path / "t") >= FILES | {"model", "checkpoints", "previews"}
    longer = call("train", "--config", tmp_path / "t" / "config.yaml", "--steps", "4", "--resume", "auto", "--json")
    assert longer.code == 0, longer.err
    assert longer.json["images_seen"] == 32
    made = call("autoencode", tmp_path / "t", "digits", "--code-dim", "4", "-o", tmp_path / "a", *few)
    assert made.code == 0, made.err
    refused = call("autoencode", tmp_path / "t", "digits", "--code-dim", "4", "-o", tmp_path / "a", *few)
    assert refused.code == 2
    assert "--overwrite or --resume auto" in refused.err
    assert call("encode", tmp_path / "a", "digits", "--split", "val", "-o", tmp_path / "e").code == 0


@pytest.mark.slow
def test_a_finished_run_reports_the_same_when_it_is_resumed(call: Call, tmp_path: Path) -> None:
    words = ["train", "digits", "--steps", "3", "--batch-size", "8", "--warmup-steps", "1", "--width", "16"]
    words += ["--dropout", "0.5", "--validation-images", "16", "--validate-every", "2", "-o", str(tmp_path), "--json"]
    first = call(*words).json
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert first["validation"] == pytest.approx(min(line["validation"] for line in lines if "validation" in line))
    assert first["precision"] == fast_precision()
    again = call(*words, "--resume", "auto").json
    assert {**again, "seconds": first["seconds"]} == first


@pytest.mark.slow
def test_demo_with_a_handful_of_steps(call: Call, tmp_path: Path) -> None:
    few = {"steps": 3, "draws": 2, "initializations": 1, "levels": 10, "sampling-steps": 2, "headline-steps": 2}
    few |= {"inversion-steps": 2, "picture-steps": 2, "sample-steps": 2, "gap-points": 2}
    words = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    answer = call("demo", "--output-dir", tmp_path / "demo", *words, "--json")
    assert answer.code == 0, answer.err
    wanted = {
        *(
            "z_only_mse",
            "z_only_ssim",
            "inverted_mse",
            "shuffled_z_mse",
            "mean_image_mse",
            "unconditional_mse",
            "pca_mse",
        ),
        *("probe_trained", "probe_untrained", "probe_raw_pixels", "best_tap", "best_log_snr", "seconds"),
        *("probe_trained_all", "probe_untrained_all", "probe_raw_pixels_all"),
    }
    assert wanted <= set(answer.json)
    assert names(tmp_path / "demo") >= FILES | {"report.html", "model"}
    again = call("demo", "--config", tmp_path / "demo" / "config.yaml", "-o", tmp_path / "again", "--print-config")
    assert "steps: 3" in again.out


def test_dry_runs_touch_nothing(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words in (
        ["demo"],
        ["train", "digits"],
        ["autoencode", "ddpm-digits", "digits"],
        ["extract", "ddpm-digits", "digits"],
        ["encode", "m", "digits"],
        ["decode", "m", "codes"],
        ["reconstruct", "m", "digits"],
        ["interpolate", "m", "digits"],
        ["sample", "ddpm-digits"],
        ["probe", "features"],
    ):
        answer = call(*words, "-o", out, "--dry-run")
        assert answer.code == 0, answer.err
        assert str(out) in answer.out
    assert not out.exists()
    assert call("demo", "-o", tmp_path, "--dry-run", "--json").json["dry_run"]


def test_lists(call: Call) -> None:
    import diffrep as dr

    assert set(call("models", "list", "--json").json) == set(dr.models(public=True))
    assert set(call("datasets", "--json").json) == {"digits", "folder", "npz"}
    assert call("models", "show", "ddpm-digits").out.startswith("#")
    health = call("doctor", "--json").json
    assert health["weights ddpm-digits"] == "whole"
    assert {"python", "torch", "devices", "threads", "bf16 on the processor", "cache_free_gigabytes"} <= set(health)
