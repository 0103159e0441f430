"""Decoded once; what is damaged is built again; a full disk leaves nothing behind."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffrep import data
from diffrep.data import cache as caching
from diffrep.data import folder as folders
from diffrep.data.decode import Unreadable
from diffrep.errors import DiffrepError


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were decoded so far."""
    seen: list[str] = []
    real = folders.read_image

    def watched(path: str, image_size: int | None, channels: int) -> np.ndarray:
        seen.append(path)
        return real(path, image_size, channels)

    monkeypatch.setattr(folders, "read_image", watched)
    return seen


def entry_of(cache: Path) -> Path:
    (entry,) = (cache / "images").iterdir()
    return entry


def test_the_second_time_nothing_is_decoded(classes: Path, cache: Path, decoded: list[str]) -> None:
    first = data.load(classes, cache=cache)
    assert len(decoded) == 40
    second = data.load(classes, cache=cache)
    assert len(decoded) == 40
    assert second.revision == first.revision
    assert isinstance(second["train"].images, np.memmap)
    assert not second["train"].images.flags.writeable
    assert second["val"].revision == second["val"].subset(range(len(second["val"]))).revision


def test_another_transform_or_another_file_is_another_entry(classes: Path, cache: Path, decoded: list[str]) -> None:
    data.load(classes, cache=cache)
    data.load(classes, cache=cache, image_size=4)
    data.load(classes, cache=cache, channels=1)
    assert len(decoded) == 120
    before = data.load(classes, cache=cache).revision
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(classes / "cat" / "00.png")
    after = data.load(classes, cache=cache)
    assert len(decoded) == 160
    assert after.revision != before
    os.utime(classes / "cat" / "01.png", ns=(1, 1))
    assert data.load(classes, cache=cache).revision == after.revision
    assert len(decoded) == 200


def cut_images(entry: Path) -> None:
    os.truncate(entry / "images.npy", (entry / "images.npy").stat().st_size - 10)


def flip_a_byte(entry: Path) -> None:
    content = bytearray((entry / "images.npy").read_bytes())
    content[1000] ^= 1
    (entry / "images.npy").write_bytes(content)


def another_key(entry: Path) -> None:
    described = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").write_text(json.dumps(described | {"key": "0" * 64}))


DAMAGES: list[Callable[[Path], object]] = [
    cut_images,
    flip_a_byte,
    another_key,
    lambda entry: (entry / "images.npy").unlink(),
    lambda entry: (entry / "images.npy").write_bytes(b""),
    lambda entry: (entry / "entry.json").unlink(),
    lambda entry: (entry / "entry.json").write_text('{"key": '),
    lambda entry: (entry / "entry.json").write_text("[]"),
    lambda entry: (entry / "entry.json").write_text('{"extra": 1}'),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_again(
    classes: Path, cache: Path, decoded: list[str], damage: Callable[[Path], object]
) -> None:
    first = data.load(classes, cache=cache).revision
    damage(entry_of(cache))
    assert data.load(classes, cache=cache).revision == first
    assert len(decoded) == 80
    assert data.load(classes, cache=cache).revision == first
    assert len(decoded) == 80
    assert sorted(path.name for path in entry_of(cache).iterdir()) == ["entry.json", "images.npy"]


def test_numpy_reads_the_file(classes: Path, cache: Path) -> None:
    splits = data.load(classes, cache=cache)
    whole = np.load(entry_of(cache) / "images.npy")
    assert (whole == np.concatenate([part.images for part in splits.values()])).all()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up(classes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(path: str, image_size: int | None, channels: int) -> np.ndarray:
        if path.endswith("dog/05.png"):
            raise OSError(code, os.strerror(code))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(folders, "read_image", full)
    with pytest.raises(DiffrepError, match="full") as error:
        data.load(classes, cache=cache)
    assert error.value.exit_code == 1
    assert list((cache / "images").iterdir()) == []


def test_too_little_space_is_said_before_work_begins(
    classes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiffrepError, match=r"the disk is full: .* MB are free .*DIFFREP_CACHE"):
        data.load(classes, cache=cache)
    assert decoded == []


def test_a_cache_that_cannot_be_written(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiffrepError, match="set DIFFREP_CACHE"):
        data.load(classes, cache=tmp_path / "file")


def test_an_interrupt_leaves_nothing_behind(classes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str, image_size: int | None, channels: int) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load(classes, cache=cache)
    assert list((cache / "images").iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(classes: Path, cache: Path) -> None:
    for name in (".tmp-00000000-old", ".tmp-11111111-new"):
        (cache / "images" / name).mkdir(parents=True)
        (cache / "images" / name / "images.npy").write_bytes(b"x")
    old = cache / "images" / ".tmp-00000000-old"
    for path in (old / "images.npy", old):
        os.utime(path, (1, 1))
    data.load(classes, cache=cache)
    assert [path.name for path in (cache / "images").glob(".tmp-*")] == [".tmp-11111111-new"]


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFREP_CACHE", str(tmp_path / "own"))
    assert caching.cache_folder(tmp_path) == tmp_path / "images"
    assert caching.cache_folder(None) == tmp_path / "own" / "images"
    monkeypatch.delenv("DIFFREP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caching.cache_folder(None) == tmp_path / "xdg" / "diffrep" / "images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caching.cache_folder(None) == tmp_path / ".cache" / "diffrep" / "images"


def test_a_file_that_can_be_read_again_is_not_lost(classes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = folders.read_image

    def locked(path: str, image_size: int | None, channels: int) -> np.ndarray:
        if path.endswith("cat/00.png"):
            raise Unreadable("Permission denied", transient=True)
        return real(path, image_size, channels)

    monkeypatch.setattr(folders, "read_image", locked)
    assert len(data.load(classes, cache=cache, max_bad_fraction=0.1).bad_records) == 1
    monkeypatch.setattr(folders, "read_image", real)
    assert data.load(classes, cache=cache).bad_records == []


def test_a_large_file_is_checked_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "BLOCK", 16)
    monkeypatch.setattr(caching, "BLOCKS", 4)
    monkeypatch.setattr(caching, "WHOLE_BELOW", 100)
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    before = caching._fingerprint(path)
    for place, noticed in ((0, True), (999, True), (400, False)):
        content = bytearray(1000)
        content[place] = 1
        path.write_bytes(content)
        assert (caching._fingerprint(path) != before) == noticed
    path.write_bytes(bytes(1001))
    assert caching._fingerprint(path) != before
