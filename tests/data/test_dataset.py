"""Data sets: parts that fit, subsets, revisions; bad records as a file."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffrep import data
from diffrep.errors import InputError, UsageError


def make(n: int = 5, labels: bool = True) -> data.Dataset:
    images = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2, 1)
    return data.Dataset(images, [f"i{k}" for k in range(n)], np.arange(n) % 2 if labels else None, ("a", "b"))


def test_records() -> None:
    image, label, name = make()[3]
    assert (image.shape, label, name) == ((2, 2, 1), 1, "i3")
    assert make(labels=False)[0].label is None
    assert [record.id for record in make()] == ["i0", "i1", "i2", "i3", "i4"]


def test_subset_and_take() -> None:
    part = make().subset([4, 0])
    assert part.ids == ["i4", "i0"]
    assert part.labels.tolist() == [0, 0]
    assert (part.images[0] == make().images[4]).all()
    assert make().take(2).ids == ["i0", "i1"]
    whole = make()
    assert whole.take(9) is whole
    with pytest.raises(UsageError, match="index 5"):
        whole.subset([5])


def test_the_revision_is_the_content() -> None:
    assert make().revision == make().revision
    assert make().subset(range(5)).revision == make().revision
    changed = make()
    changed.images[0, 0, 0, 0] += 1
    others = [changed, make(labels=False), make().take(4), make().subset([1, 0, 2, 3, 4])]
    assert len({part.revision for part in [make(), *others]}) == 5
    assert len(make().revision) == 64


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)]
)
def test_images_of_the_wrong_kind(images: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        data.Dataset(images, ["a", "b"])


def test_parts_of_unequal_length() -> None:
    with pytest.raises(InputError, match="3 ids for 2 images"):
        data.Dataset(np.zeros((2, 4, 4, 1), np.uint8), ["a", "b", "c"])


def test_bad_records_as_lines(tmp_path: Path) -> None:
    records = [data.BadRecord(id="bär.png", path="/x/bär.png", reason="empty file (0 bytes)")]
    data.write_bad_records(tmp_path / "run" / "bad_records.jsonl", records)
    lines = (tmp_path / "run" / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["bad_records.jsonl"]
