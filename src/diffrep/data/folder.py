"""The source `folder:PATH`: image files; subfolders or a label file give the classes.

Splits: subfolders train, val (or valid, validation) and test (or testing) are the splits when train is one of them;
a label file with a column `split` says it otherwise. What is missing is cut from train, 10 % of every class each.
Labels: the first folder below the split is the class; `labels=`, or a labels.csv in the folder, goes before.
Files are decoded once, into the cache; an id is the file's POSIX path below the folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL

from diffrep.data.cache import Entry, build_entry, cache_folder, open_entry
from diffrep.data.conforming import transform_of
from diffrep.data.dataset import BadRecord, Dataset, Images, Splits
from diffrep.data.decode import Unreadable, read_header, read_image
from diffrep.data.label_file import read_label_file
from diffrep.data.listing import Found, Listing, list_images
from diffrep.data.options import Options
from diffrep.data.splitting import SPLIT_NAMES, SPLITS, cut, note_of
from diffrep.data.survey import check_bad, survey
from diffrep.data.workers import read_all
from diffrep.errors import InputError, UsageError


@dataclass(frozen=True)
class Item:
    """An image file with the name of its class (None: no label) and its split."""

    file: Found
    label: str | None
    split: str


def load_folder(location: str, options: Options) -> Splits:
    """Open a folder of images.

    Errors:
        UsageError: no path.
        InputError: no such folder, no images, images of several sizes, labels that do not fit.
        TooManyBadRecords: more unreadable files than allowed.
        DiffrepError: the cache cannot be written.
    """
    if not location:
        raise UsageError("the source folder needs a path", "give folder:PATH")
    root = Path(location).expanduser()
    listing = list_images(root)
    label_path = options.labels or (root / "labels.csv" if (root / "labels.csv").is_file() else None)
    if label_path is not None:
        items, notes, lost = _by_label_file(listing.files, label_path, root)
    else:
        items, notes = _by_folders(listing.files, root)
        lost = []
    items, made = _complete(items, options.seed)
    images, entry = _decoded(root, items, options)
    bad = lost + [_bad(items[place].file, reason) for place, reason, _ in entry.bad]
    check_bad({record["id"]: record["reason"] for record in bad}, len(items) + len(lost), options.max_bad_fraction)
    datasets = _datasets(images, items, entry, options)
    return Splits(datasets, options.source, sorted(bad, key=lambda r: r["id"]), [*notes, *made, *_ignored(listing)])


def _by_folders(files: Sequence[Found], root: Path) -> tuple[list[Item], list[str]]:
    """Classes and splits from the folders' names."""
    splits = _splits_by_folders(files, root)
    if splits is None:
        return _classes([Item(file, None, "train") for file in files], 0), []
    inside = [file for file in files if file.id in splits]
    items = _classes([Item(file, None, splits[file.id]) for file in inside], 1)
    return items, _left_out(files, inside, "lie outside the folders of the splits")


def _splits_by_folders(files: Sequence[Found], root: Path) -> dict[str, str] | None:
    """Image id -> split where the folder's subfolders are splits (images outside of them left out), else None."""
    tops = dict.fromkeys(file.parts[0] for file in files if len(file.parts) > 1)
    meanings = {SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
    others = [top for top in tops if top.lower() not in SPLIT_NAMES]
    if meanings and "train" not in meanings and not others:
        hint = f"add one, or give folder:{root / next(iter(tops))}"
        raise InputError(f"{root} has {', '.join(tops)}, but no train folder", hint)
    # A class may be called "train" too: alone among other classes it is one.
    if "train" not in meanings or (len(meanings) == 1 and others):
        return None
    inside = [file for file in files if len(file.parts) > 1 and file.parts[0].lower() in SPLIT_NAMES]
    return {file.id: SPLIT_NAMES[file.parts[0].lower()] for file in inside}


def _classes(items: Sequence[Item], depth: int) -> list[Item]:
    """The same items with the folder at this depth as the class; within a split all have one, or none has."""
    labelled = [replace(item, label=_class_of(item.file, depth)) for item in items]
    for split in SPLITS:
        part = [item for item in labelled if item.split == split]
        loose = [item.file.id for item in part if item.label is None]
        if loose and len(loose) < len(part):
            raise InputError(
                f"{loose[0]} lies beside class folders (as do {len(loose) - 1} more)",
                "move such images into a folder, or give the labels with labels=, a CSV file",
            )
    return labelled


def _class_of(file: Found, depth: int) -> str | None:
    return file.parts[depth] if len(file.parts) > depth + 1 else None


def _by_label_file(files: Sequence[Found], path: Path, root: Path) -> tuple[list[Item], list[str], list[BadRecord]]:
    """Labels from a CSV file; splits from its column `split`, or from folders. Rows without a file are bad."""
    table = read_label_file(path)
    match = table.match([file.id for file in files])
    if not match:
        example = f"it has {next(iter(table.rows))!r}, the folder {files[0].id!r}"
        raise InputError(f"no image below {root} is named in {path}: {example}", "write paths below the folder")
    by_folder = _splits_by_folders(files, root) or {}
    chosen = [file for file in files if file.id in match]
    rows = [table.rows[match[file.id]] for file in chosen]
    splits = [row.split or by_folder.get(file.id, "train") for file, row in zip(chosen, rows, strict=True)]
    items = [Item(file, row.label, split) for file, row, split in zip(chosen, rows, splits, strict=True)]
    lost = [
        BadRecord(id=name, path=str(root / name), reason=f"named in {path.name}, but there is no such file")
        for name in table.rows.keys() - set(match.values())
    ]
    return items, _left_out(files, chosen, f"are not named in {path.name}"), sorted(lost, key=lambda r: r["id"])


def _left_out(files: Sequence[Found], kept: Sequence[Found], why: str) -> list[str]:
    ids = {file.id for file in kept}
    lost = [file.id for file in files if file.id not in ids]
    return [f"{len(lost)} images {why} and were left out, the first {lost[0]}"] if lost else []


def _ignored(listing: Listing) -> list[str]:
    return [f"{listing.describe_others()} ignored"] if listing.others else []


def _complete(items: Sequence[Item], seed: int) -> tuple[list[Item], list[str]]:
    """Cut the splits that are missing from train, and put the items in the order of splits and ids."""
    found = {item.split for item in items}
    missing = [name for name in ("val", "test") if name not in found]
    train = [item for item in items if item.split == "train"]
    if not train:
        raise InputError("no image is in the train split", "name some of the splits train")
    split = cut([item.file.id for item in train], [item.label for item in train], seed, missing)
    whole = [replace(item, split=own) for item, own in zip(train, split, strict=True)]
    whole += [item for item in items if item.split != "train"]
    return sorted(whole, key=lambda item: (SPLITS.index(item.split), item.file.id)), note_of(missing, seed)


def _decoded(root: Path, items: Sequence[Item], options: Options) -> tuple[Images, Entry]:
    """The images of all items that have one, from the cache, or into it."""
    key = _key(root, items, options)
    folder = cache_folder(options.cache) / key[:32]
    paths = [item.file.path for item in items]
    opened = open_entry(folder, key)
    if opened is not None and not _any_mended(opened[1], paths):
        return opened
    shape, bad = survey(paths, [item.file.id for item in items], options)
    good = [path for i, path in enumerate(paths) if i not in bad]
    work = partial(read_image, image_size=options.image_size, channels=shape[2])
    decoded = read_all(work, good, options.workers)
    answers = (bad[i] if i in bad else _of_shape(next(decoded), shape) for i in range(len(paths)))
    return build_entry(folder, key, shape, answers, [item.split for item in items])


def _key(root: Path, items: Sequence[Item], options: Options) -> str:
    """Names the source by its path and its files' sizes and times of change, and the transform."""
    files = [(item.file.id, item.file.size, item.file.mtime_ns, item.split) for item in items]
    described = [str(root.resolve()), files, options.image_size, options.channels, PIL.__version__]
    return sha256(json.dumps(described).encode()).hexdigest()


def _any_mended(entry: Entry, paths: Sequence[str]) -> bool:
    """Whether a file that could not be read for a reason outside of it (permissions) can be read now."""
    again = [paths[place] for place, _, transient in entry.bad if transient]
    return any(not isinstance(answer, Unreadable) for answer in read_all(read_header, again, 1))


def _of_shape(answer: Images | Unreadable, shape: tuple[int, int, int]) -> Images | Unreadable:
    """A file whose pixels have another size than its header said is a bad one."""
    if isinstance(answer, Unreadable) or answer.shape == shape:
        return answer
    return Unreadable(f"decodes to {answer.shape[1]}x{answer.shape[0]}, unlike its header")


def _bad(file: Found, reason: str) -> BadRecord:
    return BadRecord(id=file.id, path=file.path, reason=reason)


def _datasets(images: Images, items: Sequence[Item], entry: Entry, options: Options) -> dict[str, Dataset]:
    bad = {place for place, _, _ in entry.bad}
    good = [item for i, item in enumerate(items) if i not in bad]
    names = class_order({item.label for item in items if item.label is not None})
    index = {name: k for k, name in enumerate(names)}
    datasets, start = {}, 0
    for split in SPLITS:
        part = [item for item in good if item.split == split]
        labels = [index[item.label] for item in part if item.label is not None]
        datasets[split] = Dataset(
            images=images[start : start + len(part)],
            ids=[item.file.id for item in part],
            labels=np.array(labels, np.int64) if names and len(labels) == len(part) else None,
            class_names=names,
            paths=[item.file.path for item in part],
            split=split,
            source=options.source,
            transform=transform_of(options.image_size, images.shape[3]),
            images_digest=entry.digests.get(split),
        )
        start += len(part)
    return datasets


def class_order(names: set[str]) -> tuple[str, ...]:
    """Classes in the order of their names; whole numbers in the order of their values.

    Example:
        >>> class_order({"10", "9"})
        ('9', '10')
    """
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if numbers else None))
