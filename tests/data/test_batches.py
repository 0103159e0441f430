"""Batches by step: always the same, always full, every image once an epoch."""

from collections import Counter

import numpy as np
import pytest
import torch

from diffrep import data
from diffrep.errors import InputError, UsageError


def make(n: int, labels: bool = True) -> data.Dataset:
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return data.Dataset(images, [f"i{k}" for k in range(n)], np.arange(n) if labels else None, ("x",) * n)


def test_a_step_is_the_same_batch_in_any_order() -> None:
    forward, backward = (data.loader(make(10), 4, seed=1, flip=True) for _ in range(2))
    there = [forward(step) for step in range(12)]
    back = [backward(step) for step in reversed(range(12))][::-1]
    for a, b in zip(there, back, strict=True):
        assert a.ids == b.ids
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 23])
def test_every_batch_is_full_and_every_image_comes_once_an_epoch(batch_size: int) -> None:
    read = data.loader(make(10), batch_size, seed=0)
    batches = [read(step) for step in range(10)]
    assert all(len(batch) == batch_size for batch in batches)
    ids = [name for batch in batches for name in batch.ids]
    for start in range(0, len(ids) - 9, 10):
        assert len(set(ids[start : start + 10])) == 10
    assert set(Counter(ids).values()) == {batch_size}


def test_the_epochs_and_seeds_differ() -> None:
    read, other = data.loader(make(50), 50, seed=0), data.loader(make(50), 50, seed=1)
    assert len({tuple(ids) for ids in (read(0).ids, read(1).ids, other(0).ids)}) == 3


def test_images_labels_and_ids_belong_together(device: str) -> None:
    dataset = make(9)
    batch = data.loader(dataset, 5, seed=3, device=device)(0)
    assert batch.images.device.type == batch.labels.device.type == device
    assert batch.labels.dtype == torch.int64
    for image, label, name in zip(data.to_uint8(batch.images), batch.labels.tolist(), batch.ids, strict=True):
        assert name == f"i{label}"
        assert (image == dataset.images[label]).all()
    assert data.loader(make(9, labels=False), 5, seed=3)(0).labels is None


def test_half_are_mirrored_left_to_right_and_the_data_stays() -> None:
    dataset = make(100)
    before = dataset.images.copy()
    batch = data.loader(dataset, 100, seed=0, flip=True)(0)
    again = data.loader(dataset, 100, seed=0, flip=True)(1)
    rows = [int(name[1:]) for name in batch.ids]
    images = data.to_uint8(batch.images)
    mirrored = [(image == dataset.images[row][:, ::-1]).all() for image, row in zip(images, rows, strict=True)]
    plain = [(image == dataset.images[row]).all() for image, row in zip(images, rows, strict=True)]
    assert 30 < sum(mirrored) < 70
    assert sum(mirrored) + sum(plain) == 100
    changed = dict(zip(batch.ids, mirrored, strict=True))
    now = {
        name: (image == dataset.images[int(name[1:])][:, ::-1]).all()
        for name, image in zip(again.ids, data.to_uint8(again.images), strict=True)
    }
    assert changed != now
    assert (dataset.images == before).all()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="is empty"):
        data.loader(make(3).take(0), 2, seed=0)
    with pytest.raises(UsageError, match="batch_size is 0"):
        data.loader(make(3), 0, seed=0)
    with pytest.raises(UsageError, match="step is -1"):
        data.loader(make(3), 2, seed=0)(-1)
