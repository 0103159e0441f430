"""Writing files so that a crash or a full disk never leaves half of one.

Everything is written under a temporary name, forced to the disk (fsync) and renamed: a reader sees the old
file or the new one, nothing between. A full disk is an error that says so, not a traceback.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from diffrep.errors import DiffrepError

TEMPORARY = ".tmp-"
"""What every temporary name begins with, before 8 random digits; rubbish when no process is writing it."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """Write a file completely or not at all: temporary name, fsync, rename.

    Args:
        path: the file; missing folders above it are made.
        data: bytes, or text written as UTF-8.

    Errors:
        DiffrepError: if the disk is full; what stood there before is intact.

    Example:
        >>> write_atomic("run/report.json", "{}")  # doctest: +SKIP
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY}{uuid4().hex[:8]}-{target.name}")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, data)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
    return target


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary name to a writer that wants a path, and rename what it wrote when the block ends well.

    Errors:
        DiffrepError: if the disk is full; what stood there before is intact.
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY}{uuid4().hex[:8]}-{target.name}")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Fill a folder under a temporary name and rename it when the block ends without an error.

    A folder that stood at `path` is replaced. Files written in the block should use `write_synced`.

    Errors:
        DiffrepError: if the disk is full; what stood there before is intact.
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY}{uuid4().hex[:8]}-{target.name}")
    with disk_errors(target):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            sync_folder(temporary)
            remove_folder(target)
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that nobody sees it half removed: renamed first, then emptied."""
    if not path.exists():
        return
    rubbish = path.with_name(f"{TEMPORARY}{uuid4().hex[:8]}-old-{path.name}")
    os.rename(path, rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left unfinished in a folder that nobody else is writing to."""
    for left in folder.glob(f"{TEMPORARY}????????-*"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes | str) -> None:
    """Write a new file and force it to the disk."""
    with open(path, "xb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Force a folder's list of names to the disk, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path | str) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" inside the block into a DiffrepError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiffrepError(
            f'the disk is full: "{path.name}" could not be written to "{path.parent}"',
            "free some space; what was written before is intact and a run can be resumed",
        ) from error
