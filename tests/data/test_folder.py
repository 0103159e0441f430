"""Folders as users have them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffrep import data
from diffrep.errors import InputError, TooManyBadRecords

Picture = Callable[..., np.ndarray]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def flat(root: Path, picture: Picture, count: int = 10) -> Path:
    for i in range(count):
        save(root / f"{i:02d}.png", picture(i))
    return root


def sizes(splits: data.Splits) -> dict[str, int]:
    return {name: len(part) for name, part in splits.items()}


def test_subfolders_are_classes_and_the_splits_are_cut_by_class(classes: Path, cache: Path) -> None:
    splits = data.load(f"folder:{classes}", cache=cache)
    assert sizes(splits) == {"train": 32, "val": 4, "test": 4}
    assert splits.class_names == ("cat", "dog")
    for part in splits.values():
        assert np.bincount(part.labels).tolist() == [len(part) // 2] * 2
        assert part.ids == sorted(part.ids)
        for record, path in zip(part, part.paths, strict=True):
            assert record.id.split("/")[0] == part.class_names[record.label]
            assert path == str(classes / record.id)
            assert (record.image == np.asarray(Image.open(path))).all()
    ids = [name for part in splits.values() for name in part.ids]
    assert len(set(ids)) == 40
    assert any("val and test cut from train" in note for note in splits.notes)


def test_a_split_depends_on_seed_and_ids_alone(classes: Path, cache: Path, tmp_path: Path) -> None:
    first = data.load(classes, cache=cache)
    other = data.load(classes, cache=cache, seed=1)
    copy = shutil.copytree(classes, tmp_path / "elsewhere")
    assert data.load(copy, cache=cache).revision == first.revision
    assert other["val"].ids != first["val"].ids
    save(classes / "cat" / "new.png", np.zeros((8, 8, 3), np.uint8))
    grown = data.load(classes, cache=cache)
    moved = [name for part in first for name in first[part].ids if name not in grown[part].ids]
    assert len(moved) <= 2


def test_without_subfolders_there_are_no_labels(tmp_path: Path, picture: Picture, cache: Path) -> None:
    splits = data.load(flat(tmp_path / "flat", picture), cache=cache)
    assert sizes(splits) == {"train": 8, "val": 1, "test": 1}
    assert splits.class_names == ()
    assert splits["train"].labels is None
    assert splits["train"][0].label is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_images(tmp_path: Path, picture: Picture, cache: Path, count: int) -> None:
    splits = data.load(flat(tmp_path / "few", picture, count), cache=cache)
    assert len(splits["train"]) >= 1
    assert sum(sizes(splits).values()) == count
    assert sizes(splits) == ({"train": 1, "val": 1, "test": 1} if count == 3 else {"train": count, "val": 0, "test": 0})


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "validation", "TESTING"), ("train", "valid", "test")]
)
def test_split_folders(tmp_path: Path, picture: Picture, cache: Path, names: tuple[str, str, str]) -> None:
    for k, name in enumerate(names):
        for i in range(3):
            save(tmp_path / "set" / name / "ab"[i % 2] / f"{i}.png", picture(10 * k + i))
    splits = data.load(tmp_path / "set", cache=cache)
    assert sizes(splits) == {"train": 3, "val": 3, "test": 3}
    assert splits["test"].ids == [f"{names[2]}/a/0.png", f"{names[2]}/a/2.png", f"{names[2]}/b/1.png"]
    assert splits["test"].labels.tolist() == [0, 0, 1]
    assert splits.notes == []


def test_a_missing_validation_split_is_cut_from_train_only(tmp_path: Path, picture: Picture, cache: Path) -> None:
    for i in range(30):
        save(tmp_path / "set" / ("train" if i < 20 else "test") / "ab"[i % 2] / f"{i:02d}.png", picture(i))
    splits = data.load(tmp_path / "set", cache=cache)
    assert sizes(splits) == {"train": 18, "val": 2, "test": 10}
    assert all(name.startswith("train/") for name in splits["val"].ids)
    assert splits["val"].labels.tolist() == [0, 1]
    assert splits.notes == ["there was no val split: val cut from train, 10% of every class each, seed 0"]


def test_an_unlabelled_test_folder(tmp_path: Path, picture: Picture, cache: Path) -> None:
    for i in range(8):
        save(tmp_path / "set" / "train" / "ab"[i % 2] / f"{i}.png", picture(i))
        save(tmp_path / "set" / "test" / f"{i}.png", picture(50 + i))
    splits = data.load(tmp_path / "set", cache=cache)
    assert splits["test"].labels is None
    assert splits["train"].labels is not None


def test_a_test_folder_without_train(tmp_path: Path, picture: Picture) -> None:
    flat(tmp_path / "set" / "test", picture)
    with pytest.raises(InputError, match=r"no train folder.*give folder:.*test"):
        data.load(tmp_path / "set")


def test_a_class_may_be_called_train(tmp_path: Path, picture: Picture, cache: Path) -> None:
    for k, name in enumerate(["bus", "car", "train"]):
        flat(tmp_path / "set" / name, lambda i, k=k: picture(100 * k + i))
    assert data.load(tmp_path / "set", cache=cache).class_names == ("bus", "car", "train")


def test_images_outside_of_the_splits_are_left_out_and_told(tmp_path: Path, picture: Picture, cache: Path) -> None:
    flat(tmp_path / "set" / "train", picture)
    flat(tmp_path / "set" / "test", lambda i: picture(100 + i))
    save(tmp_path / "set" / "overview.png", picture(77))
    splits = data.load(tmp_path / "set", cache=cache)
    assert sum(sizes(splits).values()) == 20
    assert any("overview.png" in note and "left out" in note for note in splits.notes)


def test_an_image_beside_class_folders(classes: Path, picture: Picture) -> None:
    save(classes / "stray.png", picture(5))
    with pytest.raises(InputError, match=r"stray.png lies beside class folders"):
        data.load(classes)


def test_numbered_classes_come_in_the_order_of_numbers(tmp_path: Path, picture: Picture, cache: Path) -> None:
    for k in range(11):
        flat(tmp_path / "set" / str(k), lambda i, k=k: picture(100 * k + i), count=3)
    assert data.load(tmp_path / "set", cache=cache).class_names == tuple(str(k) for k in range(11))


def test_odd_names_and_what_is_passed_over(tmp_path: Path, picture: Picture, cache: Path) -> None:
    root = tmp_path / "my photos ü"
    names = ["Größe 1.PNG", "日本/été #2.Png", "日本/a b.JPEG", "deep/er/x.png", "deep/y.png", "z/%41.png"]
    for i, name in enumerate(n if "/" in n else f"z/{n}" for n in names):
        save(root / name, picture(i))
    for name in [".hidden.png", "z/._x.png", "__MACOSX/z/a.png", "Thumbs.db", ".git/a.png"]:
        save(root / name, picture(1)) if name.endswith("png") else (root / name).write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    (root / "z" / "side.json").write_text("{}")
    splits = data.load(f"folder:{root}", cache=cache)
    ids = {name for part in splits.values() for name in part.ids}
    assert ids == {n if "/" in n else f"z/{n}" for n in names}
    assert splits.class_names == ("deep", "z", "日本")
    assert "2 other files (.json 1, .txt 1) ignored" in splits.notes


def test_names_that_are_no_utf8(tmp_path: Path, picture: Picture, cache: Path) -> None:
    root = flat(tmp_path / "set", picture)
    try:
        os.rename(root / "00.png", os.fsencode(root) + b"/bl\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    splits = data.load(root, cache=cache)
    assert "bl\\xe9.png" in [name for part in splits.values() for name in part.ids]
    assert splits.revision == data.load(root, cache=cache).revision


def test_links(classes: Path, tmp_path: Path, cache: Path) -> None:
    whole = sizes(data.load(classes, cache=cache))
    (classes / "cat" / "loop").symlink_to(classes)
    (classes / "a-cat").symlink_to(classes / "cat")
    assert sizes(data.load(classes, cache=cache)) == whole
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("cat", "dog"):
        (linked / name).symlink_to(classes / name)
    assert data.load(linked, cache=cache).class_names == ("cat", "dog")


def test_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no image files below .*, and no other files"):
        data.load(tmp_path / "set")
    (tmp_path / "set" / "cat.tgz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"1 other file \(.tgz 1\).*expected .jpg"):
        data.load(tmp_path / "set")


def test_mixed_sizes_need_a_size(classes: Path, picture: Picture, cache: Path) -> None:
    save(classes / "dog" / "large.png", picture(1, size=20))
    with pytest.raises(InputError, match=r"cat/.*8x8\) and dog/large.png \(20x20\) \(give --image-size, such as 8"):
        data.load(classes, cache=cache)
    splits = data.load(classes, cache=cache, image_size=12)
    assert splits["train"].images.shape[1:] == (12, 12, 3)
    assert splits["train"].transform["image_size"] == 12


def test_channels_follow_the_images_or_the_wish(tmp_path: Path, picture: Picture, cache: Path) -> None:
    root = flat(tmp_path / "set", lambda i: picture(i, grey=True))
    assert data.load(root, cache=cache)["train"].images.shape == (8, 8, 8, 1)
    assert data.load(root, cache=cache, channels=3)["train"].images.shape == (8, 8, 8, 3)
    save(root / "10.png", picture(10))
    mixed = data.load(root, cache=cache)["train"]
    assert mixed.images.shape[3] == 3
    assert data.load(root, cache=cache, channels=1)["train"].images.shape[3] == 1


def test_bad_files_are_told_and_passed_over(classes: Path, cache: Path) -> None:
    (classes / "cat" / "03.png").write_bytes(b"")
    (classes / "dog" / "05.png").write_bytes((classes / "dog" / "05.png").read_bytes()[:100])
    (classes / "dog" / "text.jpg").write_text("no image")
    (classes / "dog" / "gone.jpg").symlink_to(classes / "nowhere.jpg")
    with pytest.raises(TooManyBadRecords) as error:
        data.load(classes, cache=cache)
    assert error.value.exit_code == 3
    assert "3 of 42 image files" in str(error.value)
    assert "empty file (0 bytes)" in str(error.value)
    assert "--max-bad-fraction 0.1" in str(error.value)
    for _ in ("decoded", "from the cache"):
        splits = data.load(classes, cache=cache, max_bad_fraction=0.1)
        assert sum(sizes(splits).values()) == 38
        reasons = {record["id"]: record["reason"] for record in splits.bad_records}
        assert list(reasons) == ["cat/03.png", "dog/05.png", "dog/gone.jpg", "dog/text.jpg"]
        assert reasons["dog/gone.jpg"] == "No such file or directory"
        assert splits.bad_records[0]["path"] == str(classes / "cat" / "03.png")
        for part in splits.values():
            for record in part:
                assert (record.image == np.asarray(Image.open(classes / record.id))).all()
    with pytest.raises(TooManyBadRecords, match="4 of 42"):
        data.load(classes, cache=cache, max_bad_fraction=0.08)


def test_when_no_file_can_be_used(tmp_path: Path, picture: Picture, cache: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "a.png").write_text("x")
    with pytest.raises(TooManyBadRecords, match=r"1 of 1 image files cannot be used; the first is a.png"):
        data.load(root, cache=cache, max_bad_fraction=1)
    save(root / "a.png", picture(1))
    (root / "a.png").write_bytes((root / "a.png").read_bytes()[:80])
    with pytest.raises(TooManyBadRecords, match="1 of 1"):
        data.load(root, cache=cache, max_bad_fraction=1)


def test_the_number_of_workers_changes_no_bit(classes: Path, tmp_path: Path) -> None:
    (classes / "dog" / "text.jpg").write_text("no image")
    loaded = [
        data.load(classes, cache=tmp_path / f"cache{n}", workers=n, max_bad_fraction=0.1, image_size=6) for n in (1, 2)
    ]
    assert loaded[0].revision == loaded[1].revision
    assert loaded[0].bad_records == loaded[1].bad_records
    for name in loaded[0]:
        assert (loaded[0][name].images == loaded[1][name].images).all()
