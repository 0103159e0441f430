"""Run folders and files: whole or absent, replayable, and never at the cost of a file of somebody else."""

import errno
import json
import os
import platform
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from diffrep.errors import DiffrepError, FormatError, UsageError
from diffrep.files import atomic_folder, remove_temporaries, sha256_of, write_atomic, write_synced
from diffrep.runs import Metrics, RunFolder, environment, flat, plain

CONFIG = {"seed": 0, "train": {"steps": 10, "learning_rate": 1e-5}, "taps": ("mid", "dec.1")}


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_written_and_read(tmp_path):
    run = RunFolder(tmp_path / "runs" / "a").start(CONFIG, ["diffrep", "train"])
    run.finish({"loss": float("nan"), "table": np.arange(2), "path": Path("x")})
    assert {p.name for p in run.path.iterdir()} == {
        ".diffrep-run.json", "config.yaml", "environment.json", "metrics.jsonl", "report.json",
    }  # fmt: skip
    assert run.config == {**CONFIG, "taps": ["mid", "dec.1"]}
    assert yaml.safe_load((run.path / "config.yaml").read_text())["train"]["learning_rate"] == 1e-5
    assert json.loads((run.path / "report.json").read_text()) == {"loss": None, "table": [0, 1], "path": "x"}
    assert run.metrics.read() == []


def test_the_environment_names_versions_but_no_person_or_host(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    values = environment(["diffrep", "train", "--data", "folder:/home/somebody/photos"])
    assert values["command"][-1] == "folder:~/photos"
    assert values["python"] == platform.python_version()
    assert set(values["versions"]) >= {"diffrep", "torch", "numpy"}
    assert values["processor"]
    assert values["threads"] >= 1
    text = json.dumps(values)
    assert "/home/" not in text
    assert socket.gethostname() not in text


def test_the_report_shows_home_folders_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    report = {"data": "folder:/home/somebody/photos", "rows": [["/home/somebody"], {"a": "/home/somebodyelse", "b": 1}]}
    written = RunFolder(tmp_path / "run").start(CONFIG).finish(report)
    assert json.loads(written.read_text()) == {
        "data": "folder:~/photos",
        "rows": [["~"], {"a": "/home/somebodyelse", "b": 1}],
    }


def test_a_folder_that_holds_something_is_refused(tmp_path):
    RunFolder(tmp_path).start(CONFIG)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=r"--overwrite.*--resume auto") as caught:
        RunFolder(tmp_path).start(CONFIG)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="one of the two"):
        RunFolder(tmp_path).start(CONFIG, overwrite=True, resume=True)
    assert content(tmp_path) == before
    file = tmp_path / "config.yaml"
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(file).start(CONFIG)


@pytest.mark.parametrize("settings", [{"overwrite": True}, {"resume": True}])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, settings):
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    for name in ("config.yaml", "report.json", "checkpoints/step-000001/model.safetensors", ".tmp-a"):
        (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(UsageError, match="not a run of diffrep"):
        RunFolder(tmp_path).start(CONFIG, **settings)
    assert content(tmp_path) == before


def test_overwriting_clears_what_diffrep_wrote_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path / "run").start(CONFIG)
    run.metrics.append({"step": 1})
    run.finish({})
    ours = ["checkpoints/step-000005/model.safetensors", "checkpoints/step-000005/manifest.json", "model/a/w.bin",
            "checkpoints/index.json", "samples.png", "checkpoints/.tmp-01234567-step-000006/state.json"]  # fmt: skip
    theirs = ["notes.txt", "checkpoints/step-000005/notes.txt", "checkpoints/mine/model.safetensors", "model/mine.txt",
              ".tmp-mine", "empty/../other.txt"]  # fmt: skip
    for name in [*ours, "model/mine.txt"]:
        write_atomic(run.path / name, "ours")
    (run.path / "model" / "mine.txt").unlink()
    run.record("samples.png", "model")
    (run.path / "empty").mkdir()
    for name in theirs:
        write_atomic(run.path / name, "theirs")
    again = RunFolder(tmp_path / "run").start({"seed": 1}, overwrite=True)
    left = {p.relative_to(again.path).as_posix() for p in again.path.rglob("*") if p.is_file()}
    new = {".diffrep-run.json", "config.yaml", "environment.json", "metrics.jsonl"}
    assert left == {os.path.normpath(name) for name in theirs} | new
    assert (run.path / "empty").is_dir()
    assert again.config == {"seed": 1}
    assert again.metrics.read() == []


def test_overwriting_follows_no_link_and_leaves_the_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.safetensors").write_text("theirs")
    (outside / "report.json").write_text("theirs")
    run = RunFolder(tmp_path / "run").start(CONFIG)
    (run.path / "report.json").symlink_to(outside / "report.json")
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "step-000001").symlink_to(outside, target_is_directory=True)
    (run.path / ".diffrep-run.json").write_text(json.dumps({"files": ["../outside/report.json"]}))
    RunFolder(tmp_path / "run").start(CONFIG, overwrite=True)
    assert content(outside) == {"model.safetensors": b"theirs", "report.json": b"theirs"}


def test_resuming_keeps_the_metrics_and_refuses_another_configuration(tmp_path):
    RunFolder(tmp_path).start(CONFIG).metrics.append({"step": 1, "loss": 0.5})
    longer = {**CONFIG, "train": {"steps": 20, "learning_rate": 1e-5}}
    again = RunFolder(tmp_path).start(longer, resume=True)
    assert again.metrics.read() == [{"step": 1, "loss": 0.5}]
    assert again.config["train"]["steps"] == 20
    other = {**CONFIG, "train": {"steps": 20, "learning_rate": 1e-3}}
    with pytest.raises(UsageError, match=r"train\.learning_rate = 1e-05, now it is 0\.001"):
        RunFolder(tmp_path).start(other, resume=True)
    assert again.config == {**longer, "taps": ["mid", "dec.1"]}
    assert RunFolder(tmp_path / "new").start(CONFIG, resume=True).config["seed"] == 0
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(FormatError, match="not YAML"):
        RunFolder(tmp_path).start(CONFIG, resume=True)


def test_metrics_are_cut_after_a_step_and_torn_lines_are_dropped(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in range(5):
        metrics.append({"step": step, "loss": 0.1 + step / 3, "bad": float("inf")})
    whole = metrics.path.read_text().splitlines(keepends=True)
    metrics.path.write_text("".join(whole) + '{"step": 5, "lo')
    assert [line["step"] for line in metrics.read()] == [0, 1, 2, 3, 4]
    metrics.cut_after(2)
    assert metrics.path.read_text() == "".join(whole[:3])
    assert metrics.read()[0]["bad"] is None


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, monkeypatch):
    class Torn:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[:5])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.append({"step": 1})
    before = metrics.path.read_bytes()
    monkeypatch.setattr("builtins.open", lambda *a, real=open: Torn(real(*a)))
    with pytest.raises(DiffrepError, match="disk is full"):
        metrics.append({"step": 2})
    monkeypatch.undo()
    assert metrics.path.read_bytes() == before


def full(handle):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "deep" / "a.txt", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiffrepError, match=r'disk is full: "a\.txt"') as caught:
            write_atomic(path, "new")
    assert caught.value.exit_code == 1
    assert content(tmp_path) == {"deep/a.txt": b"old"}
    write_atomic(path, b"new")
    assert content(tmp_path) == {"deep/a.txt": b"new"}
    assert sha256_of(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        write_synced(folder / "a", "1")
        assert not target.exists()
    with pytest.raises(FileExistsError), atomic_folder(target) as folder:
        [write_synced(folder / "a", "2") for _ in range(2)]
    assert content(tmp_path) == {"model/a": b"1"}
    with atomic_folder(target) as folder:
        write_synced(folder / "b", "2")
    assert content(tmp_path) == {"model/b": b"2"}


def test_only_our_temporaries_are_removed(tmp_path):
    for name in (".tmp-0123abcd-x", ".tmp-x", "x"):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path)
    assert sorted(content(tmp_path)) == [".tmp-x", "x"]


def test_plain_values():
    @dataclass
    class Point:
        x: float
        y: tuple[int, ...]

    assert plain({"p": Point(float("inf"), (1, 2)), 3: {Path("a")}}) == {"p": {"x": None, "y": [1, 2]}, "3": ["a"]}
    assert plain(np.float32(0.5)) == 0.5
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
