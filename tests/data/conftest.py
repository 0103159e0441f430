"""Folders of small images, made here, and a cache of its own for every test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache folder."""
    return tmp_path / "cache"


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Make pixels uint8 (size, size, 3), or (size, size) when grey, that belong to a number."""

    def make(number: int, size: int = 8, grey: bool = False) -> np.ndarray:
        shape = (size, size) if grey else (size, size, 3)
        return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def classes(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Path:
    """A folder of two classes, cat and dog, with 20 PNG files of 8x8 RGB each."""
    root = tmp_path / "animals"
    for k, name in enumerate(["cat", "dog"]):
        (root / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(picture(100 * k + i)).save(root / name / f"{i:02d}.png")
    return root
