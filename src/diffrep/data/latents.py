"""Latents of images: every image of a data set through an encoder, once, into the cache on disk.

Encoding is done in parts of a few hundred images, each written under its own name when it is complete, so that it goes
on where it was stopped. Complete, it is one memory-mapped float32 array, checked whenever it is opened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from diffrep.data.cache import LATENTS, build_entry, cache_folder, open_entry
from diffrep.data.dataset import Dataset, Images, Latents
from diffrep.errors import InputError
from diffrep.files import atomic_path

PART = 512
"""Images per part: the unit of resuming and of memory."""

Encode = Callable[[Images], Latents]
"""uint8 (B, H, W, C) -> float32 (B, h, w, c)."""
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def encoded(
    dataset: Dataset,
    encode: Encode,
    described: dict[str, Any],
    *,
    cache: Path | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Dataset:
    """The same images, ids and labels with latents in the place of pixels.

    Args:
        dataset: images.
        encode: what makes latents; called with batches.
        described: everything that the latents depend on beside the images, as JSON can hold it; part of the cache's
            key, and of the data set's `transform`.
        cache: where latents are kept; $DIFFREP_CACHE or the user's cache folder if None.
        batch_size: images per call of `encode`.
        progress: called after each batch.

    Errors:
        InputError: the encoder makes NaN or infinity of an image. DiffrepError: the cache cannot be written.
    """
    if not len(dataset):
        return dataset
    key = sha256(json.dumps([dataset.revision, described], sort_keys=True).encode()).hexdigest()
    folder = cache_folder(cache) / key[:32]
    opened = open_entry(folder, key)
    if opened is None:
        parts = folder.with_name(f"{folder.name}.parts")
        files = list(_parts(dataset, encode, parts, batch_size, progress))
        shape = np.load(files[0], mmap_mode="r").shape[1:]
        rows = (row for file in files for row in np.load(file))
        opened = build_entry(folder, key, shape, rows, [dataset.split] * len(dataset), LATENTS)
        shutil.rmtree(parts, ignore_errors=True)
    latents, entry = opened
    transform = {**dataset.transform, **described}
    return replace(dataset, images=latents, transform=transform, images_digest=entry.digests[dataset.split])


def _parts(
    dataset: Dataset, encode: Encode, folder: Path, batch_size: int, progress: Progress | None
) -> Iterator[Path]:
    """The files of all parts, in the order of the images; what is there already is not made again."""
    for start in range(0, len(dataset), PART):
        path, stop = folder / f"part-{start:09d}.npy", min(start + PART, len(dataset))
        if not path.exists():
            made = []
            for k in range(start, stop, batch_size):
                rows = slice(k, min(k + batch_size, stop))
                made.append(_finite(encode(np.asarray(dataset.images[rows], np.uint8)), dataset.ids[rows]))
                if progress:
                    progress(rows.stop, len(dataset))
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.concatenate(made))
        yield path


def _finite(latents: Latents, ids: list[str]) -> Latents:
    whole = np.isfinite(latents).all(axis=(1, 2, 3))
    if not whole.all():
        raise InputError(f"the latent of {ids[int(whole.argmin())]} is not finite", "is this the model's VAE?")
    return latents
