"""NumPy files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffrep import data
from diffrep.errors import FormatError, InputError


def arrays(channels: int | None = None, **changes: Any) -> dict[str, Any]:
    """Sixty train and ten test images of 6x5, three classes; a change to None leaves the array out."""
    rng = np.random.default_rng(0)
    tail = () if channels is None else (channels,)
    whole = {
        "train_images": rng.integers(0, 256, (60, 6, 5, *tail), dtype=np.uint8),
        "train_labels": np.arange(60) % 3,
        "test_images": rng.integers(0, 256, (10, 6, 5, *tail), dtype=np.uint8),
        "test_labels": np.arange(10) % 3,
    } | changes
    return {key: value for key, value in whole.items() if value is not None}


def write(tmp_path: Path, **kwargs: Any) -> Path:
    np.savez_compressed(tmp_path / "set.npz", **arrays(**kwargs))
    return tmp_path / "set.npz"


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_images_as_stored(tmp_path: Path, channels: int | None) -> None:
    path = write(tmp_path, channels=channels)
    splits = data.load(f"npz:{path}")
    stored = np.load(path)
    assert {name: len(part) for name, part in splits.items()} == {"train": 54, "val": 6, "test": 10}
    assert splits.class_names == ("0", "1", "2")
    assert np.bincount(splits["val"].labels).tolist() == [2, 2, 2]
    for part in splits.values():
        assert part.images.shape[1:] == (6, 5, channels or 1)
        for record in part:
            split, place = record.id.split("/")
            assert (record.image.ravel() == stored[f"{split}_images"][int(place)].ravel()).all()
            assert record.label == stored[f"{split}_labels"][int(place)]
    assert len({name for part in splits.values() for name in part.ids}) == 70


def test_bare_path_names_and_given_validation(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "été"])
    extra = arrays()["test_images"]
    path = write(tmp_path, class_names=names, val_images=extra + 1, val_labels=np.zeros((10, 1), np.uint8))
    splits = data.load(path)
    assert splits.class_names == ("cat", "dog", "été")
    assert splits["val"].labels.tolist() == [0] * 10
    assert splits.notes == []
    assert splits.source == f"npz:{path}"


def test_without_labels_and_without_test(tmp_path: Path) -> None:
    splits = data.load(write(tmp_path, train_labels=None, test_images=None, test_labels=None))
    assert {name: len(part) for name, part in splits.items()} == {"train": 48, "val": 6, "test": 6}
    assert splits["train"].labels is None
    assert splits.class_names == ()


def test_size_and_channels(tmp_path: Path) -> None:
    part = data.load(write(tmp_path), image_size=4, channels=3)["train"]
    assert part.images.shape == (54, 4, 4, 3)
    assert part.transform["image_size"] == 4


def test_the_revision_is_the_content(tmp_path: Path) -> None:
    first = data.load(write(tmp_path)).revision
    assert data.load(write(tmp_path)).revision == first
    changed = arrays()["test_images"].copy()
    changed[3, 2, 1] ^= 1
    assert data.load(write(tmp_path, test_images=changed)).revision != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": None, "images": np.zeros(3)},
            "has no train_images, but train_labels, test_images, test_labels",
        ),
        ({"train_images": np.zeros((60, 6, 5))}, r"train_images is float64, expected uint8.*\(x \* 255\).round"),
        ({"test_images": np.zeros((10, 6, 5), np.int64)}, "test_images is int64"),
        ({"train_images": np.zeros((60, 3, 6, 5), np.uint8)}, "move the channels last"),
        ({"train_images": np.zeros((60, 30), np.uint8)}, r"has shape \(60, 30\)"),
        ({"train_images": np.zeros((60, 6, 5, 4), np.uint8)}, r"has shape \(60, 6, 5, 4\)"),
        ({"train_images": np.zeros((0, 6, 5), np.uint8)}, r"has shape \(0, 6, 5\)"),
        ({"train_labels": np.zeros(59, int)}, "59 labels for 60 images"),
        ({"train_labels": np.zeros(60)}, "train_labels is float64"),
        ({"train_labels": np.zeros((60, 2), int)}, r"expected integers \(60,\)"),
        ({"train_labels": np.arange(60) - 1}, "values from -1 to 58"),
        ({"class_names": np.array(["a", "b"])}, "values from 0 to 2 .expected 0 to 1"),
        (
            {"test_images": np.zeros((10, 8, 8), np.uint8)},
            "several sizes: train 5x6, test 8x8 .give --image-size, such as 5",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load(write(tmp_path, **changes))


def test_pickles_are_never_read(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="pickled objects"):
        data.load(write(tmp_path, class_names=np.array(["a", None], dtype=object)))


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04garbage"])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(FormatError):
        data.load(f"npz:{tmp_path / 'set.npz'}")


def test_a_damaged_file(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path).read_bytes())
    content[400:420] = bytes(20)
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(FormatError, match="cannot be read"):
        data.load(tmp_path / "set.npz")


def test_a_single_array_and_missing_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(FormatError, match="single array"):
        data.load(tmp_path / "x.npz")
    with pytest.raises(InputError, match="does not exist"):
        data.load("npz:nowhere.npz")
    with pytest.raises(InputError, match="is a folder"):
        data.load(f"npz:{tmp_path}")
