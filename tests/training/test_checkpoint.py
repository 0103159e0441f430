"""Checkpoints are whole or absent, proven when read, and survive a full disk."""

import errno
import json
import os

import pytest
import torch
from training_toy import record_of, run_toy, toy_config, toy_loader, toy_objective

from diffrep.errors import DiffrepError, FormatError, UsageError
from diffrep.files import sha256_of
from diffrep.training import Checkpoints, Stored, load_checkpoint, train

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")


def stored(step=5, best=None):
    tensors = {part: {"w": torch.full((3,), float(step))} for part in ("model", "ema", "optimizer")}
    return Stored(step, tensors, {"step": step, "best": best})


def names(store):
    return sorted(p.name for p in store.path.iterdir())


def test_what_is_written_is_read(tmp_path):
    store = Checkpoints(tmp_path)
    folder = store.save(stored(), best=5, best_value=0.5)
    assert {p.name for p in folder.iterdir()} == {*FILES, "manifest.json"}
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {name: entry["sha256"] for name, entry in files.items()} == {n: sha256_of(folder / n) for n in FILES}
    read = store.newest()
    assert read.step == 5
    assert read.state == {"step": 5, "best": None}
    assert torch.equal(read.tensors["model"]["w"], torch.full((3,), 5.0))
    index = json.loads((tmp_path / "checkpoints" / "index.json").read_text())
    assert index == {"last": "step-000005", "best": "step-000005", "best_value": 0.5}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_a_flipped_bit_is_found_and_both_hashes_are_named(tmp_path, name, where):
    folder = Checkpoints(tmp_path).save(stored())
    path = folder / name
    data, right = bytearray(path.read_bytes()), sha256_of(path)
    data[int(where * len(data)) if where >= 0 else where] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError) as caught:
        load_checkpoint(tmp_path, "last")
    for part in (name, right, sha256_of(path)):
        assert part in str(caught.value)
    with pytest.raises(FormatError), pytest.warns(UserWarning, match="passed over"):
        Checkpoints(tmp_path).newest()


def test_every_flipped_byte_of_the_manifest_is_harmless_or_found(tmp_path):
    store = Checkpoints(tmp_path)
    path = store.save(stored()) / "manifest.json"
    data = path.read_bytes()
    for k in range(len(data)):
        path.write_bytes(data[:k] + bytes([data[k] ^ 1]) + data[k + 1 :])
        try:
            tensors = store.read(5).tensors
        except FormatError:
            continue
        assert all(torch.equal(part["w"], torch.full((3,), 5.0)) for part in tensors.values())


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = Checkpoints(tmp_path).save(stored())
    (folder / name).unlink()
    with pytest.raises(FormatError, match=name.replace(".", r"\.")):
        Checkpoints(tmp_path).read(5)


def test_the_last_k_and_the_best_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep_last=2)
    for step in (1, 2, 3, 4, 5, 6):
        store.save(stored(step), best=min(step, 2))
    assert names(store) == ["index.json", "step-000002", "step-000005", "step-000006"]
    assert torch.equal(load_checkpoint(tmp_path, "best")["w"], torch.full((3,), 2.0))
    assert torch.equal(load_checkpoint(tmp_path, "last", "raw")["w"], torch.full((3,), 6.0))
    assert torch.equal(load_checkpoint(tmp_path, 5)["w"], torch.full((3,), 5.0))


def test_a_resumed_run_keeps_its_checkpoints_although_damaged_later_ones_lie_there(tmp_path):
    store = Checkpoints(tmp_path, keep_last=1)
    for step in (8, 9):
        (store.save(stored(step)) / "state.json").write_text("{}")
    store.save(stored(3))
    assert store.read(3).step == 3
    store.save(stored(8))
    assert store.read(8).step == 8


def test_the_best_is_found_without_the_index(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(stored(1), best=1)
    store.save(stored(2, best={"step": 1, "value": 0.1}), best=1)
    (store.path / "index.json").write_text("{")
    assert store.best() == 1


def test_what_is_not_there_is_named_with_what_is(tmp_path):
    with pytest.raises(UsageError, match="no checkpoints"):
        load_checkpoint(tmp_path, "last")
    run_toy(tmp_path, steps=5, ema=None, validate_every=100)
    with pytest.raises(UsageError, match='weights="raw"'):
        load_checkpoint(tmp_path, "last")
    with pytest.raises(UsageError, match=r"no checkpoint for step 7.*known: 5"):
        load_checkpoint(tmp_path, 7)
    with pytest.raises(UsageError, match="best"):
        load_checkpoint(tmp_path, "bset")
    with pytest.raises(UsageError, match='did you mean "ema"'):
        load_checkpoint(tmp_path, "last", "eam")


def test_a_best_that_nobody_chose_is_said(tmp_path):
    list(train(toy_objective(), toy_loader, toy_config(steps=2), run_dir=tmp_path))
    with pytest.raises(UsageError, match='use "last"'):
        load_checkpoint(tmp_path, "best")


def test_another_model_is_refused(tmp_path):
    run_toy(tmp_path, steps=5)
    objective = toy_objective()
    objective.denoiser.network.first.bias.requires_grad_(False)
    with pytest.raises(FormatError, match=r"first\.bias"):
        run_toy(tmp_path, steps=5, objective=objective)


class FullDisk:
    """Lets `count` things be forced to the disk and then says that it is full."""

    def __init__(self, count, code=errno.ENOSPC):
        self.left, self.code, self.fsync = count, code, os.fsync

    def __call__(self, handle):
        self.left -= 1
        if self.left < 0:
            raise OSError(self.code, os.strerror(self.code))
        self.fsync(handle)


@pytest.mark.parametrize("count", range(9))
def test_a_full_disk_leaves_the_earlier_checkpoints_intact(tmp_path, monkeypatch, count):
    store = Checkpoints(tmp_path)
    store.save(stored(1), best=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(count))
        with pytest.raises(DiffrepError, match="disk is full") as caught:
            store.save(stored(2), best=1)
    assert caught.value.exit_code == 1
    assert not list(store.path.glob(".tmp-*"))
    assert store.newest().step in (1, 2)
    assert store.read(1).state["step"] == 1
    assert store.best() == 1


@pytest.mark.parametrize("count", [7, 13])
def test_a_run_stopped_by_a_full_disk_is_resumed_to_the_same_end(tmp_path, monkeypatch, count):
    run_toy(tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(count, errno.EDQUOT))
        with pytest.raises(DiffrepError, match="disk is full"):
            run_toy(tmp_path / "full")
    run_toy(tmp_path / "full")
    assert record_of(tmp_path / "full") == record_of(tmp_path / "unbroken")


def test_other_errors_of_the_disk_are_not_disguised(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", FullDisk(0, errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        Checkpoints(tmp_path).save(stored())


def test_what_a_killed_run_left_is_removed(tmp_path):
    run_toy(tmp_path, steps=5)
    left = tmp_path / "checkpoints" / ".tmp-0123abcd-step-000010"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    run_toy(tmp_path, steps=6)
    assert not left.exists()


def test_tied_and_strided_weights_can_be_saved(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"model": {"a": shared, "b": shared, "c": shared.t()}, "optimizer": {}}
    Checkpoints(tmp_path).save(Stored(0, tensors, {}))
    read = Checkpoints(tmp_path).read(0).tensors
    assert torch.equal(read["model"]["c"], shared.t())
    assert read["optimizer"] == {}
