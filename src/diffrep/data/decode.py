"""One image file in, uint8 pixels out. Imports neither torch nor anything that needs it: worker processes run this.

The format is recognised from the content, never from the name, and only pixel formats are tried (EPS, which would
start another program, is not). What cannot be used raises `Unreadable` with a reason in words.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diffrep.data.conforming import fit
from diffrep.data.dataset import Images

MAX_PIXELS = 2**26
"""The largest image that is decoded, in pixels (67 million, such as 8192 x 8192); refused from the header above."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "QOI")
_JPEG, _TIFF = (".jpg", ".jpeg", ".jpe", ".jfif"), (".tif", ".tiff")
_PLAIN, _OTHER = (".ppm", ".pgm", ".pbm", ".pnm", ".bmp"), (".avif", ".jp2", ".j2k", ".qoi", ".heic", ".heif")
SUFFIXES = frozenset((*_JPEG, *_TIFF, *_PLAIN, *_OTHER, ".png", ".webp", ".gif"))
"""In lower case: files with another suffix are not taken for images. What Pillow cannot read is a bad record."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_GREY_MODES = frozenset({"1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_ALPHA_MODES = frozenset({"LA", "PA", "RGBA", "RGBa"})


class Unreadable(Exception):
    """A file that cannot be used, and why.

    Args:
        reason: in words, without the path.
        transient: the file itself may be fine (permission, input/output error): worth another try.
    """

    def __init__(self, reason: str, transient: bool = False) -> None:
        super().__init__(reason, transient)
        self.reason = reason
        self.transient = transient


class Header(NamedTuple):
    """What a file says before it is decoded: width and height as shown, in pixels, and whether it is grey."""

    width: int
    height: int
    grey: bool


def read_header(path: str) -> Header:
    """Read size and colour of an image file without decoding it (palettes apart).

    Returns:
        The size after EXIF orientation. Grey means stored as grey, or with a palette of greys that is used.

    Errors:
        Unreadable: with the reason.
    """
    with _opened(path) as image:
        sideways = _turn(image) in (5, 6, 7, 8)
        if sideways and image.format == "TIFF":
            image.load()  # Pillow turns TIFF files itself, and its versions differ in when the size shows it
            sideways = False
        width, height = image.size[::-1] if sideways else image.size
        grey = _is_grey_palette(image) if image.mode in ("P", "PA") else image.mode in _GREY_MODES
        return Header(width, height, grey)


def read_image(path: str, image_size: int | None, channels: int) -> Images:
    """Decode the first frame of an image file.

    EXIF orientation is applied; transparency is laid over white; 16-bit grey is scaled to 8 bits, rounded; CMYK
    and palettes become RGB; colour profiles are ignored. Then size and channels as in `conforming.fit`.

    Returns:
        uint8 (H, W, channels).

    Errors:
        Unreadable: with the reason; also when the file is truncated.
    """
    with _opened(path) as image:
        turn = _turn(image)
        image.load()
        plain = _plain(image)
        # Pillow turns TIFF files itself while loading.
        if turn in _TURNS and image.format != "TIFF":
            plain = plain.transpose(_TURNS[turn])
        return fit(plain, image_size, channels)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Open an image whose size is allowed; every failure inside becomes `Unreadable`."""
    try:
        _check_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF data and sizes, which are checked here
            with Image.open(path, formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Unreadable(_too_large(f"{image.width} x {image.height}"))
                yield image
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable(_too_large("the size in its header")) from error
    except UnidentifiedImageError as error:
        raise Unreadable("not an image in a format that can be read") from error
    except Exception as error:  # a decoder of foreign files may raise anything, and one file must not end the run
        raise _unreadable(error) from error


def _check_file(path: str) -> None:
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        raise Unreadable("not a regular file")
    if not info.st_size:
        raise Unreadable("empty file (0 bytes)")


def _too_large(what: str) -> str:
    return f"refused before decoding: {what} is more than {MAX_PIXELS} pixels"


def _unreadable(error: Exception) -> Unreadable:
    if isinstance(error, OSError) and error.errno is not None:
        return Unreadable(error.strerror or str(error), transient=True)
    text = " ".join(str(error).split())[:200]
    return Unreadable(f"cannot be decoded: {text or type(error).__name__}", isinstance(error, MemoryError))


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _turn(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, as the header states it; 1 when it states nothing that can be read."""
    try:
        # The base class's method: that of PNG files would decode the image to look for late chunks.
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:  # EXIF is written by anybody, and an image with a broken one is still an image
        return 1


def _is_grey_palette(image: Image.Image) -> bool:
    pixels = np.asarray(_plain(image).convert("RGB"))
    return bool((pixels == pixels[:, :, :1]).all())


def _plain(image: Image.Image) -> Image.Image:
    """Mode L or RGB, without transparency, from any mode."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image), image.format or ""))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        return flat.convert("L") if image.mode in _GREY_MODES else flat
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")


def _eight_bits(values: NDArray[np.generic], file_format: str) -> NDArray[np.uint8]:
    """Grey of more than 8 bits to 0..255, rounded.

    16-bit files are scaled by 1/257. 32-bit and float TIFF files do not state their range, so it is the smallest
    of 0..1 (float), 0..255 and 0..65535 that holds the values.
    """
    if values.dtype.itemsize == 2 or file_format in ("PNG", "PPM"):
        top = 65535.0
    else:
        ranges = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 65535):
            raise Unreadable(f"grey values from {low:g} to {high:g}, expected 0 to 65535")
        top = next(limit for limit in ranges if high <= limit)
    return (values.astype(np.float64) * (255 / top) + 0.5).clip(0, 255).astype(np.uint8)
