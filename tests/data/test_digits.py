"""The digits: a fixed, balanced split."""

import subprocess
import sys

import numpy as np
import pytest

from diffrep import data
from diffrep.errors import UsageError


@pytest.fixture(scope="module")
def digits() -> data.Splits:
    return data.load("digits")


def test_sizes_and_balance(digits: data.Splits) -> None:
    assert {name: len(part) for name, part in digits.items()} == {"train": 1197, "val": 200, "test": 400}
    assert np.bincount(digits["val"].labels).tolist() == [20] * 10
    assert np.bincount(digits["test"].labels).tolist() == [40] * 10
    assert np.bincount(digits["train"].labels).tolist() == [118, 122, 117, 123, 121, 122, 121, 119, 114, 120]
    assert digits.class_names == tuple("0123456789")


def test_splits_are_disjoint_and_whole(digits: data.Splits) -> None:
    ids = [name for part in digits.values() for name in part.ids]
    assert sorted(ids) == [f"digits/{i:04d}" for i in range(1797)]


def test_pixels_are_the_sixteen_levels_stretched(digits: data.Splits) -> None:
    from sklearn.datasets import load_digits

    record = digits["test"][0]
    raw = load_digits().images[int(record.id.split("/")[1])]
    assert record.image.shape == (8, 8, 1)
    assert record.image.dtype == np.uint8
    assert np.abs(record.image[:, :, 0] - raw * 255 / 16).max() <= 0.5


def test_the_split_is_the_same_everywhere_and_for_every_seed(digits: data.Splits) -> None:
    assert data.load("digits", seed=5).revision == digits.revision
    assert digits["val"].ids[:3] == ["digits/0021", "digits/0047", "digits/0058"]
    assert digits["test"].ids[:3] == ["digits/0000", "digits/0015", "digits/0016"]


def test_size_and_channels_as_asked() -> None:
    part = data.load("digits", image_size=28, channels=3)["val"]
    assert part.images.shape == (200, 28, 28, 3)
    assert part.transform == {"channels": 3, "image_size": 28, "resample": "bicubic", "crop": "center"}


def test_a_path_after_digits_is_refused() -> None:
    with pytest.raises(UsageError, match="takes no path"):
        data.load("digits:here")


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, diffrep.data; print([m for m in ('sklearn', 'torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
