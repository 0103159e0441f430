"""The demo from end to end with a handful of steps: its numbers, its run folder and its report."""

import builtins
import io
import json
import os
import re
from pathlib import Path

import pytest
import torch

import diffrep.formats
from diffrep.errors import UsageError
from diffrep.experiments import demo as module
from diffrep.experiments.demo import DemoSettings, demo
from diffrep.reports import write_report
from diffrep.training import fast_precision

pytestmark = pytest.mark.slow

KEYS = (
    *("z_only_mse", "z_only_ssim", "inverted_mse", "shuffled_z_mse", "mean_image_mse", "unconditional_mse", "pca_mse"),
    *("probe_trained", "probe_untrained", "probe_raw_pixels"),
    *("probe_trained_all", "probe_untrained_all", "probe_raw_pixels_all"),
    *("best_tap", "best_log_snr", "seconds", "steps", "z_only_steps"),
)
SECTIONS = (
    "Headline numbers",
    "Samples",
    "Accuracy by tap and noise level",
    "Probes and their controls",
    "Reconstruction",
    "Interpolation",
    "Edit",
    "Posterior-mean gap",
    "Loss curves",
    "All numbers",
    "How this was made",
)
HANDFUL = DemoSettings(
    steps=2,
    batch_size=8,
    code_dim=8,
    levels=(0, 40),
    per_class=3,
    draws=2,
    initializations=1,
    sampling_steps=(2,),
    headline_steps=2,
    inversion_steps=(2,),
    picture_steps=2,
    sample_steps=2,
    gap_points=3,
    shown=4,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, denoiser, digits):
    """One run; with it, every file that it opened."""
    folder, opened, stages = tmp_path_factory.mktemp("demo") / "run", [], []
    real_open, real_os_open, real_load = io.open, os.open, diffrep.formats.load
    with pytest.MonkeyPatch.context() as patch:

        def record(path, *rest, **named):
            opened.append(str(path))
            return real_open(path, *rest, **named)

        patch.setattr(builtins, "open", record)
        patch.setattr(io, "open", record)
        patch.setattr(os, "open", lambda path, *r, **n: (opened.append(str(path)), real_os_open(path, *r, **n))[1])
        patch.setattr(
            diffrep.formats, "load", lambda source, **n: (opened.append(str(source)), real_load(source, **n))[1]
        )
        outcome = demo(
            HANDFUL,
            output_dir=folder,
            command=["diffrep", "demo", "--seed", "0"],
            denoiser=denoiser,
            data=digits,
            progress=lambda *at: stages.append(at),
        )
        report = write_report(folder)
    return outcome, folder, report, opened, stages


def test_the_results_have_every_key(finished):
    results = finished[0].results
    assert set(KEYS) <= set(results)
    assert json.loads(json.dumps(results))["best_tap"] == results["best_tap"]
    assert results["z_only_steps"] == 2


def test_the_run_folder_is_complete(finished):
    _, folder, _, _, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "report.json",
        "report.html",
        "arrays.npz",
        "model",
    } <= names
    assert json.loads((folder / "report.json").read_text())["results"]["steps"] == 2
    assert not [name for name in names if "tmp" in name or "partial" in name]


def test_the_report_has_every_section_and_makes_no_request(finished):
    html = finished[2].read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles == list(SECTIONS)
    assert not re.findall(r"""(?:src|href|action|poster|data)\s*=\s*["']?\s*(?!data:|#)[^"'\s>]+""", html)
    assert not re.search(r"https?://|url\(|@import|<script", html)
    assert "diffrep demo --seed 0" in html


def test_the_packaged_autoencoder_is_never_opened(finished):
    opened = finished[3]
    assert opened, "the recorder saw nothing"
    assert not [path for path in opened if "pdae-digits" in path]


def test_progress_names_every_stage(finished):
    stages = finished[4]
    names = list(dict.fromkeys(stage for stage, _, _ in stages))
    assert set(names[:3]) == {"features", "probes", "autoencoder"}, "these run side by side"
    assert set(names[3:]) == {"reconstruction", "pictures", "gap"}, "and these"
    assert all(1 <= done <= total for _, done, total in stages)


def test_the_trained_autoencoder_can_be_loaded_from_the_run_folder(finished):
    outcome, folder, _, _, _ = finished
    loaded = diffrep.formats.load(folder)
    assert loaded.denoiser.identity == outcome.models["denoiser"].identity
    expected = outcome.models["autoencoder"].state_dict()
    assert all(tensor.equal(expected[name].cpu()) for name, tensor in loaded.state_dict().items())


def test_the_same_seed_gives_the_same_numbers(finished, denoiser, digits):
    again = demo(HANDFUL, denoiser=denoiser, data=digits).results
    first = finished[0].results
    assert again["probe_trained"] == first["probe_trained"]
    assert again["probe_untrained"] == first["probe_untrained"]
    assert again["z_only_mse"] == pytest.approx(first["z_only_mse"], rel=1e-5)


def test_the_number_of_threads_is_put_back(finished):
    before = torch.get_num_threads()
    with module.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_folder_that_is_not_empty_is_refused_before_any_work(tmp_path, digits):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        demo(HANDFUL, output_dir=tmp_path, data=digits)


def test_from_scratch_trains_its_own_denoiser(digits, monkeypatch):
    monkeypatch.setattr(module.formats, "load", lambda *a, **n: pytest.fail("a packaged model was opened"))
    settings = DemoSettings(**{**HANDFUL.__dict__, "from_scratch": True, "pretrain_steps": 2, "levels": (5,)})
    outcome = demo(settings, data=digits)
    assert outcome.models["denoiser"].source is None
    assert "pretraining" in outcome.about["seconds"]


def test_precision_is_one_that_training_knows():
    assert fast_precision() in ("bf16", "float32")


def test_importing_the_demo_draws_no_heavy_library():
    source = Path(module.__file__).read_text()
    assert not re.search(r"^(import|from) (sklearn|matplotlib|pyarrow)", source, re.M)


@pytest.mark.parametrize("name", ["draws", "initializations", "inversion_steps"])
def test_a_demo_without_its_controls_is_refused(name):
    empty = () if name.endswith("steps") else 0
    with pytest.raises(UsageError, match=name):
        DemoSettings(**{name: empty})
