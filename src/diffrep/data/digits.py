"""The source `digits`: scikit-learn's 1797 handwritten digits, 8x8 grey, part of its installation.

UCI "Optical Recognition of Handwritten Digits", test part. The split is fixed: 1197 train, 200 val (20 a class),
400 test (40 a class). It does not depend on `seed`, because packaged weights were trained on the 1197.
"""

from __future__ import annotations

import numpy as np

from diffrep.data.conforming import transformed
from diffrep.data.dataset import Dataset, Splits
from diffrep.data.options import Options
from diffrep.data.splitting import SPLITS, hash_order
from diffrep.errors import UsageError

VAL_PER_CLASS, TEST_PER_CLASS = 20, 40
SPLIT_SEED = 0


def load_digits(location: str, options: Options) -> Splits:
    """Open the digits; ids are "digits/0000" to "digits/1796" in scikit-learn's order.

    Errors:
        UsageError: if something follows the name.
    """
    if location:
        raise UsageError(f"the source digits takes no path, not {location!r}", 'give "digits"')
    from sklearn.datasets import load_digits as sklearn_digits

    raw = sklearn_digits()
    images = ((raw.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[..., None]  # 0..16 -> 0..255, rounded
    labels = raw.target.astype(np.int64)
    ids = [f"digits/{i:04d}" for i in range(len(labels))]
    whole = Dataset(images, ids, labels, tuple(str(k) for k in range(10)), source=options.source)
    split = _split(ids, labels.tolist())
    parts = {}
    for name in SPLITS:
        part = whole.subset([i for i, own in enumerate(split) if own == name]).renamed(name)
        parts[name] = transformed(part, options.image_size, options.channels)
    return Splits(parts, options.source)


def _split(ids: list[str], labels: list[int]) -> list[str]:
    split = ["train"] * len(ids)
    for k in range(10):
        ordered = [i for i in hash_order(SPLIT_SEED, ids) if labels[i] == k]
        for i in ordered[:VAL_PER_CLASS]:
            split[i] = "val"
        for i in ordered[VAL_PER_CLASS : VAL_PER_CLASS + TEST_PER_CLASS]:
            split[i] = "test"
    return split
