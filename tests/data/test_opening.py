"""What `load` accepts as a source, and what it says when it cannot."""

from pathlib import Path

import pytest

from diffrep import data
from diffrep.errors import InputError, UsageError


def test_every_source_is_described() -> None:
    assert set(data.sources()) == {"digits", "folder", "npz"}
    assert all(line and "\n" not in line for line in data.sources().values())


def test_an_unknown_source_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r'did you mean "folder"\? known: digits, folder, npz'):
        data.load("folders:photos")


def test_a_folder_may_be_given_bare_relative_or_from_home(
    classes: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(classes.parent)
    monkeypatch.setenv("HOME", str(classes.parent))
    whole = data.load(f"folder:{classes}", cache=cache).revision
    for source in ("folder:animals", "animals", "folder:~/animals", "folder:./animals/", classes, Path("animals")):
        assert data.load(source, cache=cache).revision == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"channels": 4}, "channels is 4"),
        ({"max_bad_fraction": 1.5}, "max_bad_fraction is 1.5"),
        ({"workers": 0}, "workers is 0"),
        ({"labels": "x.csv"}, "does not go with the source digits"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        data.load("digits", **arguments)


def test_a_missing_folder_names_the_nearest(classes: Path) -> None:
    with pytest.raises(InputError, match=r'does not exist \(did you mean "animals"'):
        data.load(f"folder:{classes.parent / 'animal'}")
    with pytest.raises(InputError, match="neither does"):
        data.load("folder:/nowhere/at/all")
    with pytest.raises(UsageError, match="needs a path"):
        data.load("folder:")


def test_a_file_where_a_folder_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="unpack it"):
        data.load(f"folder:{tmp_path / 'set.zip'}")


def test_asking_for_a_split(classes: Path, cache: Path) -> None:
    splits = data.load(classes, cache=cache)
    assert splits.split("val") is splits["val"]
    with pytest.raises(UsageError, match="known: train, val, test"):
        splits.split("holdout")
