"""The source `npz:PATH`: one NumPy file with the images and labels of all splits.

Keys: train_images, uint8 (N, H, W) grey or (N, H, W, C) with C = 1 or 3; train_labels, integers (N,); the same for
test and val; class_names, strings. In place of images there may be latents, as a VAE and a model's scaling make them:
train_latents, float32 or float16 (N, C, H, W). Only train_images or train_latents is required; labels go with images,
and a split that is missing is cut from train. Ids are "train/00000", ... by place in the file. Pickled objects are
never read.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrep.data.conforming import transformed
from diffrep.data.dataset import Dataset, Images, Labels, Latents, Splits
from diffrep.data.options import Options
from diffrep.data.splitting import SPLITS, cut, note_of
from diffrep.errors import FormatError, InputError

KEYS = (*(f"{split}_{what}" for split in SPLITS for what in ("images", "latents", "labels")), "class_names")
Array = NDArray[Any]


def load_npz(location: str, options: Options) -> Splits:
    """Open an .npz file.

    Errors:
        InputError: no such file; a key that is missing; an array of the wrong type or shape.
        FormatError: a file that is damaged, no .npz file, or holds pickled objects.
    """
    arrays = _read(Path(location).expanduser(), location)
    kind = "images" if "train_images" in arrays else "latents"
    names = _class_names(arrays)
    whole = {split: _part(arrays, split, kind, names, options) for split in SPLITS if f"{split}_{kind}" in arrays}
    _check_sizes(whole, location, options)
    missing = [split for split in ("val", "test") if split not in whole]
    parts = whole | _cut_train(whole["train"], missing, options.seed)
    if kind == "images":
        channels = options.channels or max(part.images.shape[3] for part in whole.values())
        parts = {split: transformed(parts[split], options.image_size, channels) for split in SPLITS}
    return Splits({split: parts[split] for split in SPLITS}, options.source, notes=note_of(missing, options.seed))


def holds_latents(location: str) -> bool:
    """Whether an .npz file has latents in the place of images; False where there is no such file."""
    try:
        with zipfile.ZipFile(Path(location).expanduser()) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return "train_latents.npy" in names and "train_images.npy" not in names


def _read(path: Path, shown: str) -> dict[str, Array]:
    """The arrays of the file that have a meaning here; train_images or train_latents is among them."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"npz:{shown}: {path.absolute()} {what}", "give the path of an .npz file")
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise FormatError(f"{shown} holds a single array", "write it with np.savez(path, train_images=...)")
        with loaded as file:
            if "train_images" not in file and "train_latents" not in file:
                found = ", ".join(file) or "nothing"
                raise InputError(f"{shown} has no train_images, but {found}", f"expected {', '.join(KEYS)}")
            return {key: file[key] for key in KEYS if key in file}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        pickled = "pickle" in str(error).lower()
        why = "holds pickled objects, or is no .npz file" if pickled else f"cannot be read: {error}"
        hint = "store plain arrays, and strings as np.array(names, dtype=str)" if pickled else "copy or write it again"
        raise FormatError(f"{shown} {why}", hint) from error


def _part(arrays: Mapping[str, Array], split: str, kind: str, names: tuple[str, ...], options: Options) -> Dataset:
    key = f"{split}_{kind}"
    images = _images(arrays[key], key) if kind == "images" else _latents(arrays[key], key)
    labels = arrays.get(f"{split}_labels")
    checked = None if labels is None else _labels(labels, f"{split}_labels", len(images), len(names))
    ids = [f"{split}/{i:05d}" for i in range(len(images))]
    return Dataset(images, ids, checked, names, split=split, source=options.source)


def _images(array: Array, key: str) -> Images:
    if array.dtype != np.uint8:
        scale = "(x * 255).round()" if array.dtype.kind == "f" else "x"
        raise InputError(f"{key} is {array.dtype}, expected uint8 from 0 to 255", f'store {scale}.astype("uint8")')
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        raise InputError(f"{key} has shape {array.shape}", "move the channels last: x.transpose(0, 2, 3, 1)")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)) or 0 in array.shape:
        raise InputError(f"{key} has shape {array.shape}", "expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    return array if array.ndim == 4 else array[..., None]


def _latents(array: Array, key: str) -> Latents:
    if array.ndim != 4 or array.dtype.kind != "f" or 0 in array.shape:
        raise InputError(f"{key} is {array.dtype} {array.shape}", "expected float32 (N, C, H, W)")
    if not np.isfinite(array).all():
        raise InputError(f"{key} holds NaN or infinity", "encode the images again")
    return array.astype(np.float32).transpose(0, 2, 3, 1)


def _labels(array: Array, key: str, count: int, classes: int) -> Labels:
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise InputError(f"{key} is {array.dtype} {array.shape}", f"expected integers ({count},), one class per image")
    if len(flat) != count:
        raise InputError(f"{key} holds {len(flat)} labels for {count} images", "give one label per image")
    if flat.min() < 0 or flat.max() >= classes:
        raise InputError(f"{key} has values from {flat.min()} to {flat.max()}", f"expected 0 to {classes - 1}")
    return flat.astype(np.int64)


def _class_names(arrays: Mapping[str, Array]) -> tuple[str, ...]:
    """The names in the file, or the numbers of the classes, or none without labels."""
    labels = [arrays[f"{split}_labels"] for split in SPLITS if f"{split}_labels" in arrays]
    if not labels:
        return ()
    if "class_names" in arrays:
        return tuple(str(name) for name in arrays["class_names"].reshape(-1))
    whole = [int(array.max()) for array in labels if array.size and array.dtype.kind in "iu"]
    return tuple(str(k) for k in range(max(whole, default=-1) + 1))


def _check_sizes(parts: Mapping[str, Dataset], location: str, options: Options) -> None:
    sizes = {part.images.shape[1:3]: split for split, part in parts.items()}
    if len(sizes) > 1 and options.image_size is None:
        shown = ", ".join(f"{split} {w}x{h}" for (h, w), split in sizes.items())
        smallest = min(min(size) for size in sizes)
        raise InputError(f"{location} has images of several sizes: {shown}", f"give --image-size, such as {smallest}")


def _cut_train(train: Dataset, missing: list[str], seed: int) -> dict[str, Dataset]:
    if not missing:
        return {}
    labels = None if train.labels is None else train.labels.tolist()
    split = cut(train.ids, labels, seed, missing)
    return {
        name: train.subset([i for i, own in enumerate(split) if own == name]).renamed(name)
        for name in ("train", *missing)
    }
