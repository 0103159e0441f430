"""Batches by step: step s of a seed is always the same batch, however the run got there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffrep.data.dataset import Dataset
from diffrep.data.tensors import to_input
from diffrep.errors import InputError, UsageError
from diffrep.randomness import generator, seed_of


@dataclass(frozen=True, eq=False)
class Batch:
    """Images float32 (B, C, H, W) in [-1, 1], or latents, labels int64 (B,) or None, and B ids."""

    images: Tensor
    labels: Tensor | None
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def loader(
    dataset: Dataset, batch_size: int, seed: int, *, flip: bool = False, device: torch.device | str | None = None
) -> Callable[[int], Batch]:
    """Make the function step -> Batch that training reads from.

    Epoch e is a permutation drawn by (seed, "order", e). The epochs are laid end to end and cut into batches, so
    every batch is full, and a batch may hold the end of one epoch and the start of the next.

    Args:
        dataset: the images; any number >= 1, also fewer than `batch_size`.
        batch_size: images per batch.
        seed: of the order and of the mirroring.
        flip: mirror half of the images left to right, drawn by (seed, step, id).
        device: where the batches lie.

    Errors:
        InputError: if the data set is empty.
        UsageError: if `batch_size` is below 1, if latents are to be mirrored, or, in the returned function, if a step
            is negative.
    """
    n = len(dataset)
    if not n:
        raise InputError(f"the split {dataset.split!r} of {dataset.source} is empty", "give more images")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}", "give a number >= 1")
    if flip and dataset.latent:
        raise UsageError(
            "latents cannot be mirrored", "a mirrored latent is not that of the mirrored image: do not flip"
        )

    @lru_cache(maxsize=2)
    def order(epoch: int) -> NDArray[np.int64]:
        return np.asarray(torch.randperm(n, generator=generator(seed, "order", epoch)).numpy(), dtype=np.int64)

    def batch(step: int) -> Batch:
        if step < 0:
            raise UsageError(f"step is {step}", "steps are counted from 0")
        places = range(step * batch_size, (step + 1) * batch_size)
        rows = np.array([order(place // n)[place % n] for place in places])
        ids = [dataset.ids[i] for i in rows]
        images = np.asarray(dataset.images[rows])
        if flip:
            mirrored = np.array([seed_of(seed, "flip", step, name) & 1 for name in ids], dtype=bool)
            images[mirrored] = images[mirrored, :, ::-1]
        labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows]).to(device)
        return Batch(to_input(images, device=device), labels, ids)

    return batch
