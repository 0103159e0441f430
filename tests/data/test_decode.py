"""Single files as users have them: turned, 16-bit, transparent, animated, mislabelled, broken."""

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffrep.data.decode import MAX_PIXELS, Header, Unreadable, read_header, read_image

ORIENTATION = 0x0112


def corners(width: int = 16, height: int = 8) -> Image.Image:
    """Black but for the upper left quarter (red) and the upper right one (green)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2, 0] = 255
    pixels[: height // 2, width // 2 :, 1] = 255
    return Image.fromarray(pixels)


# What EXIF's orientation means: the stored row 0 and column 0 are these sides of the scene.
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda scene: scene.transpose(Image.Transpose.ROTATE_180),
    4: lambda scene: scene.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda scene: scene.transpose(Image.Transpose.TRANSPOSE),
    6: lambda scene: scene.transpose(Image.Transpose.ROTATE_90),
    7: lambda scene: scene.transpose(Image.Transpose.TRANSVERSE),
    8: lambda scene: scene.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = str(tmp_path / f"x.{suffix}")
    options = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    STORED[orientation](corners()).save(path, exif=exif, **options)
    assert read_header(path) == Header(16, 8, False)
    pixels = read_image(path, None, 3)
    assert pixels.shape == (8, 16, 3)
    assert np.abs(pixels.astype(int) - np.asarray(corners()).astype(int)).mean() < 4


def test_broken_exif_does_not_lose_the_image(tmp_path: Path) -> None:
    path = str(tmp_path / "x.jpg")
    corners().save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffgarbage")
    assert read_header(path) == Header(16, 8, False)
    assert read_image(path, None, 3).shape == (8, 16, 3)


def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65278, 65535, 25700]], np.uint16).repeat(8, 0)
    expected = [0, 0, 1, 1, 128, 254, 255, 100]
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    big = values.astype(">u2").tobytes()
    Image.frombytes("I;16B", (8, 8), big).save(tmp_path / "big.tif")
    for name in ("x.png", "x.tif", "x.pgm", "big.tif"):
        assert read_header(str(tmp_path / name)).grey, name
        assert read_image(str(tmp_path / name), None, 1)[0, :, 0].tolist() == expected, name
        assert read_image(str(tmp_path / name), None, 3)[0, :, 2].tolist() == expected, name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.4, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
    ],
)
def test_wide_grey_takes_the_smallest_range_that_holds_it(
    tmp_path: Path, values: np.ndarray, expected: list[int]
) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert read_image(str(tmp_path / "x.tif"), None, 1)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-1.0, 70000.0, float("nan")])
def test_wide_grey_of_no_known_range_is_bad(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(Unreadable) as error:
        read_image(str(tmp_path / "x.tif"), None, 1)
    assert "expected 0 to 65535" in error.value.reason


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = [200, 0, 0, 255]
    rgba[2:] = [200, 0, 0, 0]
    rgba[2:, 2:, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "x.png")
    Image.fromarray(rgba).save(tmp_path / "x.webp", lossless=True, exact=True)
    for name in ("x.png", "x.webp"):
        pixels = read_image(str(tmp_path / name), None, 3)
        assert pixels[0, 0].tolist() == [200, 0, 0]
        assert pixels[3, 0].tolist() == [255, 255, 255]
        assert np.abs(pixels[3, 3].astype(int) - [227, 127, 127]).max() <= 1


def test_transparent_grey_stays_grey(tmp_path: Path) -> None:
    la = np.zeros((4, 4, 2), np.uint8)
    la[:2] = [77, 255]
    Image.fromarray(la).save(tmp_path / "la.png")
    Image.fromarray(la[..., 0]).save(tmp_path / "key.png", transparency=0)
    for name in ("la.png", "key.png"):
        assert read_header(str(tmp_path / name)).grey
        assert read_image(str(tmp_path / name), None, 1)[..., 0].tolist() == [[77] * 4] * 2 + [[255] * 4] * 2


def test_palettes(tmp_path: Path) -> None:
    indices = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8))
    for name, palette in {"colour": [255, 0, 0, 0, 0, 255, 9, 9, 9], "grey": [10, 10, 10, 99, 99, 99, 9, 9, 9]}.items():
        image = indices.copy()
        image.putpalette(palette)
        image.save(tmp_path / f"{name}.png")
        image.save(tmp_path / f"{name}-hole.png", transparency=2)
        image.save(tmp_path / f"{name}.gif")
        for file in (f"{name}.png", f"{name}.gif"):
            assert read_header(str(tmp_path / file)).grey == (name == "grey"), file
            assert read_image(str(tmp_path / file), None, 3)[0, 1].tolist() == palette[3:6], file
        assert read_image(str(tmp_path / f"{name}-hole.png"), None, 3)[1, 1].tolist() == [255, 255, 255]


def test_bilevel(tmp_path: Path) -> None:
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "x.png")
    assert read_header(str(tmp_path / "x.png")).grey
    assert (read_image(str(tmp_path / "x.png"), None, 1)[..., 0] == np.eye(4) * 255).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert not read_header(str(tmp_path / "x.jpg")).grey
    pixel = read_image(str(tmp_path / "x.jpg"), None, 3)[8, 8].astype(int)
    assert np.abs(pixel - [255, 0, 0]).max() <= 3


def test_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for name in ("x.gif", "x.png", "x.webp"):
        options = {"lossless": True} if name == "x.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, **options)
        assert read_image(str(tmp_path / name), None, 3)[4, 4].tolist() == [255, 0, 0], name


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    corners().save(tmp_path / "x.png", "JPEG", quality=95)
    corners().save(tmp_path / "y.JPG", "PNG")
    assert read_image(str(tmp_path / "x.png"), None, 3).shape == (8, 16, 3)
    assert (read_image(str(tmp_path / "y.JPG"), None, 3) == np.asarray(corners())).all()


def test_size_and_channels(tmp_path: Path) -> None:
    corners(64, 32).save(tmp_path / "x.png")
    assert read_image(str(tmp_path / "x.png"), 8, 1).shape == (8, 8, 1)
    assert read_image(str(tmp_path / "x.png"), 100, 3).shape == (100, 100, 3)
    corners(3000, 1).save(tmp_path / "line.png")
    assert read_image(str(tmp_path / "line.png"), 64, 3).shape == (64, 64, 3)


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be of this size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8193, 12000, 60000])
def test_a_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    assert side * side > MAX_PIXELS
    (tmp_path / "x.png").write_bytes(png_header(side, side))
    for read in (read_header, lambda path: read_image(path, 8, 3)):
        with pytest.raises(Unreadable) as error:
            read(str(tmp_path / "x.png"))
        assert "refused before decoding" in error.value.reason


def jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).save(stream, **({"format": "JPEG"} | options))
    return stream.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file (0 bytes)"),
        (b"hello, I am a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (half(jpeg()), "truncated"),
        (half(jpeg(progressive=True)), "truncated"),
        (half(jpeg(format="PNG")), "cannot be decoded"),
        (half(jpeg(format="BMP")), "truncated"),
        (half(jpeg(format="WEBP")), "cannot be decoded"),
        (half(jpeg(format="TIFF")), "cannot be decoded"),
        (half(jpeg(format="GIF")), "cannot be decoded"),
        (jpeg()[:20], "cannot be decoded"),
        (jpeg(format="PNG")[:25], ""),
        (png_header(0, 5), ""),
    ],
)
def test_broken_files_say_why(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(Unreadable) as error:
        read_image(str(tmp_path / "x.png"), None, 3)
    assert error.value.reason
    assert reason in error.value.reason or (reason == "cannot be decoded" and "not an image" in error.value.reason)
    assert "/" not in error.value.reason.replace("/usr", "")
    assert not error.value.transient


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), os.mkfifo])
def test_what_is_no_regular_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.png")
    with pytest.raises(Unreadable, match="not a regular file"):
        read_header(str(tmp_path / "x.png"))


def test_a_missing_file_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(Unreadable) as error:
        read_image(str(tmp_path / "x.png"), None, 3)
    assert error.value.reason == "No such file or directory"
    assert error.value.transient
