"""Images brought to what a model takes."""

import numpy as np
import pytest

from diffrep import data
from diffrep.denoiser import InputSpec
from diffrep.errors import UsageError


def make(height: int, width: int, channels: int) -> data.Dataset:
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, channels), dtype=np.uint8)
    return data.Dataset(images, ["a", "b", "c"], np.array([0, 1, 0]), ("x", "y"), transform={"channels": channels})


def test_the_same_object_when_nothing_changes() -> None:
    dataset = make(8, 8, 3)
    assert data.conform(dataset, InputSpec(3, 8)) is dataset


def test_the_centre_is_kept() -> None:
    dataset = make(8, 12, 3)
    square = data.conform(dataset, InputSpec(3, 8))
    assert (square.images == dataset.images[:, :, 2:10]).all()
    assert square.revision != dataset.revision
    assert square.transform["image_size"] == 8
    assert (square.ids, square.labels.tolist()) == (dataset.ids, [0, 1, 0])


@pytest.mark.parametrize(("height", "width", "size"), [(16, 16, 8), (7, 9, 16), (100, 30, 5), (1, 40, 8)])
def test_any_size_becomes_the_models(height: int, width: int, size: int) -> None:
    assert data.conform(make(height, width, 3), InputSpec(3, size)).images.shape == (3, size, size, 3)


def test_channels() -> None:
    grey = make(8, 8, 1)
    colour = data.conform(grey, InputSpec(3, 8))
    assert (colour.images == grey.images).all()
    back = data.conform(colour, InputSpec(1, 8))
    assert (back.images == grey.images).all()
    luma = data.conform(make(8, 8, 3), InputSpec(1, 8)).images[..., 0]
    assert np.abs(luma - make(8, 8, 3).images @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_reducing_averages_and_does_not_skip() -> None:
    stripes = np.zeros((1, 64, 64, 1), np.uint8)
    stripes[:, :, ::2] = 255
    small = data.conform(data.Dataset(stripes, ["a"]), InputSpec(1, 8)).images
    assert np.abs(small.astype(int) - 128).max() < 12


def test_a_latent_model_is_refused() -> None:
    with pytest.raises(UsageError, match="latents"):
        data.conform(make(8, 8, 3), InputSpec(4, 8, latent=True))
