"""Pictures on disk: PNG sheets and single PNGs, each written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_sheet(path: Path, images: Tensor, columns: int | None = None) -> Path:
    """Write images (N, C, H, W) in [-1, 1] side by side as one PNG, small ones enlarged by whole pixels."""
    from diffrep.data import to_uint8
    from diffrep.files import write_atomic
    from diffrep.reports.images import png, tile

    across = columns or max(1, round(len(images) ** 0.5))
    return write_atomic(path, png(tile(to_uint8(images), across)))


def write_single(folder: Path, images: Tensor, first: int) -> list[Path]:
    """Write images (N, C, H, W) in [-1, 1] as folder/000000.png, ..., numbered from `first`, at their own size."""
    from diffrep.data import to_uint8
    from diffrep.files import write_atomic
    from diffrep.reports.images import png

    return [
        write_atomic(folder / f"{number:06d}.png", png(image))
        for number, image in enumerate(to_uint8(images), start=first)
    ]
