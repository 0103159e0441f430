"""safetensors files, with a limit on the header before anything is parsed."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffrep.errors import FormatError

MAX_HEADER = 16 << 20
"""Bytes; the largest known models have headers of a few hundred thousand."""


def is_one(path: Path) -> bool:
    """Whether a file begins as safetensors do: eight bytes of length, then JSON."""
    with open(path, "rb") as file:
        head = file.read(10)
    return len(head) == 10 and head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def check_header(path: Path) -> None:
    """Refuse a header larger than any model needs, before it is parsed.

    Errors:
        FormatError: naming its size.
    """
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER:
        raise FormatError(f"{path} announces a header of {header} bytes", f"expected at most {MAX_HEADER}")


def read(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, mapped from the file where that is possible.

    Errors:
        FormatError: truncated, broken, or a header larger than any model needs.
    """
    check_header(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read: {error}", "copy the file again") from error
