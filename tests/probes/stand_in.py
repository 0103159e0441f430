"""Data of the probes' tests: random problems and a stand-in for a set of features."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class FeatureSet:
    """The attributes that probes use; `forbidden` names raise when they are read."""

    arrays: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64] | None
    split: str = "train"
    protocol: dict[str, Any] = field(default_factory=lambda: {"model": "abc", "pool": "mean"})
    forbidden: set[str] = field(default_factory=set)
    read: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return list(self.arrays)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        assert name not in self.forbidden, f"{self.split}[{name}] was read"
        self.read.append(name)
        return self.arrays[name]


Splits = tuple[FeatureSet, FeatureSet, FeatureSet]


def make_splits(cells: int, sizes: tuple[int, int, int], width: int = 16, classes: int = 5, seed: int = 0) -> Splits:
    """Random class means in noise that falls from cell to cell, so that the last cell is the best."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(cells, classes, width))
    out = []
    for size, split in zip(sizes, ("train", "val", "test"), strict=True):
        y = rng.integers(0, classes, size)
        noise = [(4 - 3 * i / cells) * rng.normal(size=(size, width)) for i in range(cells)]
        arrays = {f"cell.{i:03d}": (means[i][y] + noise[i]).astype(np.float32) for i in range(cells)}
        out.append(FeatureSet(arrays, y, split))
    return out[0], out[1], out[2]


@dataclass(frozen=True)
class Digits:
    """Digits as raw pixels, in float32."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]
