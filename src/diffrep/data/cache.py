"""Decoded images, or latents, on disk: one memory-mapped array per source and transform.

An entry is a folder with images.npy and entry.json, written under a temporary name and renamed when it is complete.
It is opened only if it is whole: its description fits, its size fits, and the sha256 of its bytes does (of 64 blocks
of 1 MiB when it is larger than 256 MiB). Everything else is built again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diffrep.data.dataset import Images, Latents, finish_digest
from diffrep.data.decode import Unreadable
from diffrep.errors import DiffrepError
from diffrep.files import TEMPORARY, atomic_folder, remove_folder, write_synced

VERSION = 1
HEADER_BYTES = 128
PIXELS, LATENTS = "|u1", "<f4"
BLOCK, BLOCKS = 2**20, 64
WHOLE_BELOW = 256 * BLOCK
ABANDONED_SECONDS = 24 * 3600


@dataclass
class Entry:
    """What entry.json says.

    Args:
        key: of the source and the transform.
        shape: (N, H, W, C) of images.npy.
        bad: (place in the list of files, reason, worth another try) of each file that has no image.
        digests: split -> sha256 of its images, as `digest_images` gives it.
        fingerprint: sha256 of images.npy, or of its blocks.
        dtype: NumPy's code of its numbers: "|u1" of pixels, "<f4" of latents.
    """

    key: str
    shape: list[int]
    bad: list[tuple[int, str, bool]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    dtype: str = PIXELS
    version: int = VERSION


def cache_folder(cache: Path | None) -> Path:
    """Where images are kept: `cache`, $DIFFREP_CACHE, or diffrep in the user's cache folder."""
    if cache is not None:
        return cache / "images"
    if own := os.environ.get("DIFFREP_CACHE"):
        return Path(own).expanduser() / "images"
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "diffrep" / "images"


def open_entry(folder: Path, key: str) -> tuple[Any, Entry] | None:
    """Open a cache entry, read-only; None if there is none, or if it is not whole."""
    try:
        described: dict[str, Any] = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        entry = Entry(**described)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        fits = entry.version == VERSION and entry.key == key and list(images.shape) == entry.shape
        whole = fits and images.dtype.str == entry.dtype and _fingerprint(folder / "images.npy") == entry.fingerprint
    except (OSError, ValueError, TypeError, EOFError, SyntaxError):
        return None
    return (images, entry) if whole else None


def build_entry(
    folder: Path,
    key: str,
    shape: tuple[int, int, int],
    answers: Iterable[Images | Latents | Unreadable],
    splits: Sequence[str],
    dtype: str = PIXELS,
) -> tuple[Any, Entry]:
    """Write a cache entry and open it.

    Args:
        folder: of the entry; one that is there is replaced.
        key: of the source and the transform.
        shape: (H, W, C) of every image.
        answers: the image of each file, or why it has none.
        splits: the split of each file; those of a split stand together.
        dtype: `PIXELS` or `LATENTS`.

    Returns:
        The memory map, and what entry.json says.

    Errors:
        DiffrepError: the disk is full, or the folder cannot be written; nothing is left behind.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        _check_space(folder.parent, len(splits) * int(np.prod(shape)) * np.dtype(dtype).itemsize)
        with atomic_folder(folder) as temporary:
            _write(temporary, Entry(key, [0, *shape], dtype=dtype), answers, splits)
    except OSError as error:
        if open_entry(folder, key) is None:  # else another process has just finished the same entry
            why = f"cannot write decoded images to {folder.parent}: {error.strerror or error}"
            raise DiffrepError(why, "set DIFFREP_CACHE to a folder that can be written") from error
    opened = open_entry(folder, key)
    if opened is None:
        remove_folder(folder)
        raise DiffrepError(f"what was written to {folder} cannot be read back", "check the disk, or set DIFFREP_CACHE")
    return opened


def _write(folder: Path, entry: Entry, answers: Iterable[Images | Latents | Unreadable], splits: Sequence[str]) -> None:
    content = {name: sha256() for name in dict.fromkeys(splits)}
    count = dict.fromkeys(content, 0)
    with open(folder / "images.npy", "xb") as file:
        file.write(bytes(HEADER_BYTES))
        for place, (answer, split) in enumerate(zip(answers, splits, strict=True)):
            if isinstance(answer, Unreadable):
                entry.bad.append((place, answer.reason, answer.transient))
                continue
            data = np.ascontiguousarray(answer, entry.dtype).data
            file.write(data)
            content[split].update(data)
            count[split] += 1
        entry.shape[0] = sum(count.values())
        _write_header(file, entry.shape, entry.dtype)
        file.flush()
        os.fsync(file.fileno())
    entry.digests = {n: finish_digest(d.digest(), [count[n], *entry.shape[1:]]) for n, d in content.items()}
    entry.fingerprint = _fingerprint(folder / "images.npy")
    write_synced(folder / "entry.json", json.dumps(asdict(entry)))


def _write_header(file: BinaryIO, shape: Sequence[int], dtype: str) -> None:
    """The header of an .npy file, of a fixed length, because the number of images is known at the end only."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    start = np.lib.format.magic(1, 0) + (HEADER_BYTES - 10).to_bytes(2, "little")
    file.seek(0)
    file.write(start + text.ljust(HEADER_BYTES - 11).encode() + b"\n")


def _fingerprint(path: Path) -> str:
    size = path.stat().st_size
    spread = (i * (size - BLOCK) // (BLOCKS - 1) for i in range(BLOCKS))
    starts = range(0, size, BLOCK) if size <= WHOLE_BELOW else spread
    digest = sha256(str(size).encode())
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _remove_abandoned(root: Path) -> None:
    """Remove what killed processes left unfinished: temporary folders that nobody has written to for a day."""
    for left in root.glob(f"{TEMPORARY}*"):
        with suppress(OSError):  # its owner may finish it meanwhile
            written = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            if time.time() - written > ABANDONED_SECONDS:
                shutil.rmtree(left)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiffrepError(
            f"the disk is full: decoded images need {needed / 1e6:.1f} MB in {folder}, "
            f"and {free / 1e6:.1f} MB are free",
            "free some space, set DIFFREP_CACHE to a larger disk, or give a smaller --image-size",
        )
