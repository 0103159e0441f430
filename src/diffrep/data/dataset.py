"""What a data set is: images, labels, ids; and its three splits.

An image is uint8 (H, W, C) with C = 1 (grey) or 3 (RGB), or a latent, float32 (H, W, C) with any C, as a model takes
it; a label is an index into `class_names`. An id is stable: random draws, splits and features are addressed by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from diffrep.errors import InputError, UsageError, nearest
from diffrep.files import write_atomic

Images = NDArray[np.uint8]
Latents = NDArray[np.float32]
Labels = NDArray[np.int64]


class BadRecord(TypedDict):
    """A file that could not be used: its id, its path and the reason, in words."""

    id: str
    path: str
    reason: str


class Record(NamedTuple):
    """One image uint8 (H, W, C) or latent float32 (H, W, C), its label or None, and its id."""

    image: Images | Latents
    label: int | None
    id: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with ids, and labels where there are some.

    Args:
        images: uint8 (N, H, W, C), C = 1 or 3, or latents, float32 (N, H, W, C); an array, or a read-only memory map.
        ids: N stable names; no two are equal.
        labels: int64 (N,), indices into `class_names`, or None.
        class_names: one name per class; empty without labels.
        paths: N file names, None for an image that is no file; [] means none is.
        split: "train", "val" or "test".
        source: where the images come from, as it was given to `load`.
        transform: what was done to the images after decoding, JSON-able.
        images_digest: `digest_images(images)` where it is known already; computed on demand otherwise.

    Errors:
        InputError: if the parts do not fit each other.
    """

    images: Images | Latents
    ids: list[str]
    labels: Labels | None = None
    class_names: tuple[str, ...] = ()
    paths: list[str | None] = field(default_factory=list)
    split: str = "train"
    source: str = ""
    transform: dict[str, Any] = field(default_factory=dict)
    images_digest: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape = self.images.shape
        pixels = self.images.dtype == np.uint8 and shape[3:] in ((1,), (3,))
        if len(shape) != 4 or not (pixels or self.images.dtype == np.float32):
            raise InputError(
                f"images are {self.images.dtype} {shape}",
                "expected uint8 (N, H, W, C) with 1 or 3 channels, or latents, float32 (N, H, W, C)",
            )
        if not self.paths:
            object.__setattr__(self, "paths", [None] * len(self.ids))
        counts = {"ids": len(self.ids), "paths": len(self.paths)}
        if self.labels is not None:
            counts["labels"] = len(self.labels)
        for name, count in counts.items():
            if count != shape[0]:
                raise InputError(f"{count} {name} for {shape[0]} images", "give one per image")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        label = None if self.labels is None else int(self.labels[index])
        return Record(self.images[index], label, self.ids[index])

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        n, h, w, c = self.images.shape
        classes = f", {len(self.class_names)} classes" if self.labels is not None else ", no labels"
        return f"Dataset({self.source!r}, {self.split}, {n} images of {h}x{w}x{c}{classes})"

    @property
    def latent(self) -> bool:
        """Whether these are latents, not pixels."""
        return self.images.dtype != np.uint8

    @cached_property
    def revision(self) -> str:
        """The sha256, in hex, of ids, labels and image bytes: equal content has an equal revision."""
        digest = self.images_digest or digest_images(self.images)
        labels = None if self.labels is None else self.labels.tolist()
        return sha256(json.dumps([self.ids, labels, digest]).encode()).hexdigest()

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Dataset:
        """The images at these indices, in this order; they are copied into memory.

        Errors:
            UsageError: if an index lies outside.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size and (chosen.min() < -len(self) or chosen.max() >= len(self)):
            raise UsageError(f"index {int(chosen[np.abs(chosen).argmax()])} in a data set of {len(self)} images")
        return self._part(self.images[chosen], chosen.tolist())

    def take(self, n: int) -> Dataset:
        """The first n images (all, if there are fewer), without copying."""
        if n < 0:
            raise UsageError(f"cannot take {n} images", "give a number >= 0")
        return self if n >= len(self) else self._part(self.images[:n], list(range(n)))

    def renamed(self, split: str) -> Dataset:
        """The same images as another split."""
        return replace(self, split=split)

    def _part(self, images: Images | Latents, rows: list[int]) -> Dataset:
        return replace(
            self,
            images=images,
            ids=[self.ids[i] for i in rows],
            labels=None if self.labels is None else self.labels[rows],
            paths=[self.paths[i] for i in rows],
            images_digest=None,
        )


@dataclass(frozen=True, eq=False)
class Splits(Mapping[str, Dataset]):
    """The splits "train", "val" and "test" of one source, and what happened while it was read.

    Args:
        datasets: split name -> data set; a split of a very small source may hold no image.
        source: as it was given to `load`.
        bad_records: the files that could not be used, in order of their ids.
        notes: facts a user should be told, one sentence each: a split that was made, files that were ignored.
    """

    datasets: dict[str, Dataset]
    source: str = ""
    bad_records: list[BadRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, split: str) -> Dataset:
        return self.datasets[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.datasets)

    def __len__(self) -> int:
        return len(self.datasets)

    def split(self, name: str) -> Dataset:
        """The split of this name, which must exist and hold images.

        Errors:
            UsageError: if there is no split of this name.
            InputError: if it holds no image.
        """
        if name not in self.datasets:
            raise UsageError(f"{self.source} has no split {name!r}", nearest(name, self.datasets))
        if not len(self.datasets[name]):
            sizes = ", ".join(f"{key} {len(part)}" for key, part in self.datasets.items())
            raise InputError(f"the split {name!r} of {self.source} is empty ({sizes})", "give more images")
        return self.datasets[name]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; empty without labels."""
        return next(iter(self.datasets.values())).class_names

    @property
    def revision(self) -> str:
        """The sha256, in hex, of the revisions of all splits."""
        return sha256(json.dumps([(name, part.revision) for name, part in self.items()]).encode()).hexdigest()


def digest_images(images: Images | Latents) -> str:
    """The sha256, in hex, of the shape and the bytes of images (N, H, W, C), read in blocks."""
    digest = sha256()
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return finish_digest(digest.digest(), images.shape)


def finish_digest(content: bytes, shape: Sequence[int]) -> str:
    """Join the digest of image bytes with their shape; what `digest_images` ends with."""
    return sha256(json.dumps(list(shape)).encode() + content).hexdigest()


def write_bad_records(path: str | Path, records: Iterable[BadRecord]) -> None:
    """Write one JSON object a line (id, path, reason), atomically: the whole file, or none of it.

    Errors:
        DiffrepError: if the disk is full.
    """
    write_atomic(path, "".join(json.dumps(record) + "\n" for record in records))
