"""Labels from a CSV file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffrep import data
from diffrep.errors import InputError, TooManyBadRecords


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Path:
    """Ten images without class folders: 0.png to 9.png."""
    root = tmp_path / "set"
    root.mkdir()
    for i in range(10):
        Image.fromarray(picture(i)).save(root / f"{i}.png")
    return root


def labels_of(splits: data.Splits) -> dict[str, str]:
    return {r.id: part.class_names[r.label] for part in splits.values() for r in part if r.label is not None}


EXPECTED = {f"{i}.png": "odd" if i % 2 else "even" for i in range(10)}
ROWS = [(name, label) for name, label in EXPECTED.items()]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n" + "".join(f"{n},{c}\n" for n, c in ROWS),
        "\ufeffFile;Class\r\n" + "".join(f"./{n};{c}\r\n" for n, c in ROWS),
        "smile\tfilename\n" + "".join(f"{c}\t{n}\n" for n, c in ROWS),
        "angle,image,source,category\n" + "".join(f'3,{n},"a, b",{c}\n' for n, c in ROWS) + "\n",
    ],
)
def test_the_usual_ways_to_write_it(folder: Path, cache: Path, text: str) -> None:
    (folder / "labels.csv").write_text(text, encoding="utf-8", newline="")
    splits = data.load(folder, cache=cache)
    assert labels_of(splits) == EXPECTED
    assert splits.class_names == ("even", "odd")


def test_another_file_and_numbers_in_their_order(folder: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("path,label\n" + "".join(f"{i}.png,{i + 1}\n" for i in range(10)))
    splits = data.load(folder, cache=cache, labels=tmp_path / "mine.csv")
    assert splits.class_names == tuple(str(i) for i in range(1, 11))
    assert labels_of(splits)["9.png"] == "10"


def test_labels_may_change_without_decoding_again(folder: Path, cache: Path) -> None:
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{n},{c}\n" for n, c in ROWS))
    first = data.load(folder, cache=cache)
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{n},x{c}\n" for n, c in ROWS))
    second = data.load(folder, cache=cache)
    assert second.class_names == ("xeven", "xodd")
    assert len(list((cache / "images").iterdir())) == 1
    assert second.revision == first.revision


def test_a_column_of_splits(folder: Path, cache: Path) -> None:
    split = ["train"] * 5 + ["valid"] * 2 + ["TEST"] * 3
    lines = [f"{n},{c},{s}" for (n, c), s in zip(ROWS, split, strict=True)]
    (folder / "labels.csv").write_text("\n".join(["path,label,split", *lines]))
    splits = data.load(folder, cache=cache)
    assert [len(part) for part in splits.values()] == [5, 2, 3]
    assert splits["test"].ids == ["7.png", "8.png", "9.png"]


def test_paths_below_split_folders_and_bare_names(
    tmp_path: Path, cache: Path, picture: Callable[..., np.ndarray]
) -> None:
    for i in range(8):
        path = tmp_path / "set" / ("train" if i < 5 else "test") / "deep" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(path)
    rows = (
        [f"train/deep/{i}.png,a" for i in range(2)] + [f"deep/{i}.png,b" for i in range(2, 6)] + ["6.png,a", "7.png,b"]
    )
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    found = labels_of(data.load(tmp_path / "set", cache=cache))
    assert [found[key] for key in sorted(found, key=lambda k: k[-5])] == ["a", "a", "b", "b", "b", "b", "a", "b"]


def test_images_without_a_row_are_left_out_and_told(folder: Path, cache: Path) -> None:
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{n},{c}\n" for n, c in ROWS[:8]))
    splits = data.load(folder, cache=cache)
    assert len(labels_of(splits)) == 8
    assert any("2 images are not named in labels.csv" in note for note in splits.notes)


def test_a_row_without_a_file_is_a_bad_record(folder: Path, cache: Path) -> None:
    (folder / "labels.csv").write_text("path,label\n" + "".join(f"{n},{c}\n" for n, c in [*ROWS, ("lost.png", "odd")]))
    with pytest.raises(TooManyBadRecords, match=r"lost.png: named in labels.csv"):
        data.load(folder, cache=cache)
    splits = data.load(folder, cache=cache, max_bad_fraction=0.2)
    assert [record["id"] for record in splits.bad_records] == ["lost.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no labels"),
        ("path,label\n", "holds no labels"),
        ("where,what,why\n0.png,a,b\n", "has no path column; its first line is where,what,why"),
        ("path,what,why\n0.png,a,b\n", "has no label column"),
        ("path,label\n0.png\n", "line 2: 1 cells under 2 columns"),
        ("path,label\n0.png,\n", "no label for 0.png"),
        ("path,label\n0.png,a\n0.png,b\n", "0.png is b, and a above"),
        ("path,label,split\n0.png,a,holdout\n", "the split is 'holdout'"),
        ("path,label\nother/x.png,a\n", "no image below .* is named in"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, text: str, message: str) -> None:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(folder)


def test_a_missing_or_foreign_label_file(folder: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the labels in nowhere.csv"):
        data.load(folder, labels="nowhere.csv")
    (folder / "labels.csv").write_bytes(b"\xff\xfe\x00p")
    with pytest.raises(InputError, match="it is not UTF-8"):
        data.load(folder)


def test_a_bare_name_that_means_two_images(classes: Path) -> None:
    (classes / "labels.csv").write_text("path,label\n00.png,x\n")
    with pytest.raises(InputError, match=r"means both cat/00.png and dog/00.png"):
        data.load(classes)
