from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from diffrep.errors import InputError
from diffrep.reports.images import png, strip_rows, tile


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_enlarged_by_whole_pixels(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels), dtype=np.uint8)
    sheet = tile(images, columns=3)
    assert sheet.shape == (2 * 48 + 3, 3 * 48 + 2 * 3, 4)
    assert np.array_equal(sheet[:48:6, :48:6, :3], np.broadcast_to(images[0], (8, 8, 3)))
    assert sheet[60, 148, 3] == 0, "the place of the sixth image is empty"


def test_large_images_stay_as_they_are():
    assert tile(np.zeros((2, 128, 128, 3), np.uint8)).shape == (128, 257, 4)


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1)), np.zeros((8, 8, 1), np.uint8)]
)
def test_other_arrays_are_refused(bad):
    with pytest.raises(InputError, match="uint8"):
        tile(bad)


def test_a_strip_is_png_by_row_with_a_description():
    array = np.full((2, 3, 8, 8, 1), 7, np.uint8)
    rows = strip_rows(array, ["input", "z only"], ["a", "b", "c"])
    assert [row["alt"] for row in rows] == ["input, 3 images: a, b, c", "z only, 3 images: a, b, c"]
    head, _, body = rows[0]["source"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(BytesIO(b64decode(body))) as image:
        assert image.size == (rows[0]["width"], rows[0]["height"])


def test_png_keeps_grey_images():
    with Image.open(BytesIO(png(np.full((4, 4, 1), 9, np.uint8)))) as image:
        assert image.getpixel((0, 0)) == 9
