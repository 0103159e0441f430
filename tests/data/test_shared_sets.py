"""Real image sets, where the folder `shared` with them lies beside the repository."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffrep import data

SETS = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SETS.is_dir(), reason="no folder shared/data beside the repository")


def export(name: str, out: Path, limit: int) -> Path:
    command = [sys.executable, str(SETS / "load_data.py"), "--export", name, str(out), "--limit", str(limit)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_fashion_mnist_as_npz() -> None:
    splits = data.load(f"npz:{SETS / 'fashion_mnist.npz'}")
    assert {name: len(part) for name, part in splits.items()} == {"train": 10800, "val": 1200, "test": 3000}
    assert np.bincount(splits["val"].labels).tolist() == [120] * 10
    assert splits["train"].images.shape[1:] == (28, 28, 1)


def test_usps_as_npz() -> None:
    splits = data.load(f"npz:{SETS / 'usps.npz'}", image_size=8)
    assert splits["test"].images.shape == (1200, 8, 8, 1)


def test_an_exported_folder(tmp_path: Path, cache: Path) -> None:
    splits = data.load(export("cifar10", tmp_path / "cifar10", 300), cache=cache)
    assert {name: len(part) for name, part in splits.items()} == {"train": 270, "val": 30, "test": 300}
    assert splits.class_names[:3] == ("airplane", "automobile", "bird")
    assert splits["train"].images.shape[1:] == (32, 32, 3)
    assert splits.bad_records == []


def test_an_exported_folder_with_other_files(tmp_path: Path, cache: Path) -> None:
    splits = data.load(export("coil100", tmp_path / "coil100", 40), cache=cache)
    assert "2 other files (.csv 2) ignored" in splits.notes
    assert len(splits["test"]) == 40
