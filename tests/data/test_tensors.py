"""Between bytes and floats."""

import warnings

import numpy as np
import pytest
import torch

from diffrep import data
from diffrep.errors import InputError


def test_every_value_comes_back() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = data.to_tensor(images)
    assert x.shape == (1, 1, 16, 16)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert (data.to_uint8(x) == images).all()
    assert torch.equal(data.to_tensor(torch.from_numpy(images)), x)


def test_channels_move_and_the_range_is_the_models() -> None:
    images = np.zeros((2, 3, 4, 3), np.uint8)
    images[:, :, :, 1] = 255
    x = data.to_tensor(images, (0.0, 1.0))
    assert x.shape == (2, 3, 3, 4)
    assert x[:, 1].eq(1).all()
    assert x[:, ::2].eq(0).all()
    assert data.to_uint8(data.to_tensor(images)).tobytes() == images.tobytes()


def test_the_official_rounding() -> None:
    x = torch.tensor([-2.0, -1.0, -0.999, 0.0, 1.0, 3.0, float("nan")]).reshape(1, 1, 1, 7)
    assert data.to_uint8(x).ravel().tolist() == [0, 0, 0, 128, 255, 255, 0]


def test_read_only_and_mirrored_arrays_without_a_warning() -> None:
    images = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    mirrored = images[:, :, ::-1]
    images.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.to_tensor(images).shape == (1, 3, 4, 4)
        assert (data.to_uint8(data.to_tensor(mirrored)) == mirrored).all()


@pytest.mark.parametrize("images", [np.zeros((1, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), torch.zeros(1, 4, 4, 3)])
def test_what_is_no_image_is_refused(images: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        data.to_tensor(images)


def test_to_uint8_wants_a_batch() -> None:
    with pytest.raises(InputError, match="expected"):
        data.to_uint8(torch.zeros(3, 4, 4))
