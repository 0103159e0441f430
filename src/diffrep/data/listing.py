"""Which files lie below a folder: images by their suffix, in the order of their names.

Hidden files and what operating systems leave behind are passed over. Links to folders are followed, but each folder
is entered once, so a loop ends, and no image occurs twice through a link.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from diffrep.data.decode import SUFFIXES
from diffrep.errors import InputError, nearest

LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})


class Found(NamedTuple):
    """An image file: id (its POSIX path below the folder), path, bytes and time of change in ns."""

    id: str
    path: str
    size: int
    mtime_ns: int

    @property
    def parts(self) -> tuple[str, ...]:
        """The id's folders and name."""
        return PurePosixPath(self.id).parts


@dataclass
class Listing:
    """The image files below a folder, sorted by id, and how many others there are of each suffix."""

    files: list[Found] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def describe_others(self) -> str:
        """For example "3 other files (.csv 1, .txt 2)"."""
        count = sum(self.others.values())
        suffixes = ", ".join(f"{suffix or 'no suffix'} {n}" for suffix, n in sorted(self.others.items())[:8])
        return f"{count} other file{'s' * (count != 1)}" + (f" ({suffixes})" if count else "")


def list_images(root: Path) -> Listing:
    """Find the image files below a folder.

    Errors:
        InputError: if the folder does not exist or cannot be read, or holds no image files.
    """
    _check_folder(root)
    listing = Listing()
    try:
        for entry, name in _walk(root):
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in SUFFIXES:
                listing.files.append(_found(entry, name))
            else:
                listing.others[suffix] += 1
    except OSError as error:
        raise InputError(f"cannot read {error.filename or root}: {error.strerror}", "check the permissions") from error
    if not listing.files:
        found = f"but {listing.describe_others()}" if listing.others else "and no other files"
        known = ".jpg, .png, .webp, .gif, .bmp, .tif and others"
        raise InputError(f"no image files below {root}, {found}", f"expected {known}")
    listing.files.sort()
    return listing


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        hint = {".npz": f"give npz:{root}", ".zip": "unpack it, and give the folder"}.get(root.suffix.lower())
        raise InputError(f"{root} is a file, not a folder", hint or f"give its folder: folder:{root.parent}")
    parent = root.absolute().parent
    if not parent.is_dir():
        raise InputError(f"the folder {root} does not exist", f"neither does {parent}; check the path")
    siblings = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir() and not entry.name.startswith("."))
    raise InputError(f"the folder {root} does not exist", nearest(root.name, siblings))


def _walk(root: Path) -> list[tuple[os.DirEntry[str], str]]:
    """Every file with its POSIX path below root. Links to folders come last, so real folders keep their names."""
    info = root.stat()
    seen = {(info.st_dev, info.st_ino)}
    real: deque[tuple[str, str]] = deque([(str(root), "")])
    linked: deque[tuple[str, str]] = deque()
    files = []
    while real or linked:
        folder, prefix = real.popleft() if real else linked.popleft()
        if prefix and not _enter(folder, seen):
            continue
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith(".") or entry.name in LITTER:
                    continue
                if entry.is_dir():
                    (linked if entry.is_symlink() else real).append((entry.path, f"{prefix}{entry.name}/"))
                else:
                    files.append((entry, prefix + entry.name))
    return files


def _enter(folder: str, seen: set[tuple[int, int]]) -> bool:
    info = os.stat(folder)
    key = (info.st_dev, info.st_ino)
    fresh = key not in seen
    seen.add(key)
    return fresh


def _found(entry: os.DirEntry[str], name: str) -> Found:
    # A name that is no UTF-8 cannot be hashed or written; its id shows the odd bytes, its path keeps them.
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    try:
        info = entry.stat()
    except OSError:  # a dangling link: listed, and a bad record when it is read
        return Found(shown, entry.path, 0, 0)
    return Found(shown, entry.path, info.st_size, info.st_mtime_ns)
