"""Images for a report: rows of small pictures as one PNG, enlarged by whole pixels, as a data: address."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrep.errors import InputError

TILE_PIXELS = 48
"""Small images are enlarged by a whole factor until their side is about this long."""


def tile(images: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """Lay images out as one picture, with a transparent line between them.

    Args:
        images: uint8 (N, H, W, C), C in 1, 3.
        columns: images per row; None puts all in one row.

    Returns:
        uint8 (height, width, 4), RGBA.

    Errors:
        InputError: if the array has another shape or type.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8 or not len(images):
        raise InputError(f"images of shape {images.shape} and type {images.dtype}", "expected uint8 (N, H, W, 1 or 3)")
    count, height, width, _ = images.shape
    across = min(columns or count, count)
    down = -(-count // across)
    scale = max(1, round(TILE_PIXELS / max(height, width)))
    gap = max(1, scale // 2)
    tall, wide = height * scale, width * scale
    sheet = np.zeros((down * (tall + gap) - gap, across * (wide + gap) - gap, 4), np.uint8)
    for k, image in enumerate(images):
        top, left = (k // across) * (tall + gap), (k % across) * (wide + gap)
        large = image.repeat(scale, axis=0).repeat(scale, axis=1)
        sheet[top : top + tall, left : left + wide, :3] = large
        sheet[top : top + tall, left : left + wide, 3] = 255
    return sheet


def png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture, uint8 (H, W, 1, 3 or 4), as PNG."""
    from PIL import Image

    squeezed = picture[..., 0] if picture.shape[-1] == 1 else picture
    buffer = BytesIO()
    Image.fromarray(squeezed).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_address(content: bytes, kind: str = "image/png") -> str:
    """A data: address that an HTML file can carry instead of a link."""
    return f"data:{kind};base64,{b64encode(content).decode('ascii')}"


def strip_rows(array: NDArray[Any], labels: list[str], columns: list[str]) -> list[dict[str, Any]]:
    """Draw a strip, uint8 (rows, columns, H, W, C): one picture per row, with its label and description."""
    drawn = []
    for line, label in zip(array, labels, strict=True):
        picture = tile(np.ascontiguousarray(line))
        across = f"{len(line)} images" + (f": {', '.join(columns)}" if columns else "")
        alt = f"{label or 'Row of images'}, {across}"
        size = {"width": picture.shape[1], "height": picture.shape[0]}
        drawn.append({"label": label, "source": data_address(png(picture)), "alt": alt, **size})
    return drawn
