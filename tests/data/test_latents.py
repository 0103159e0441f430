"""Latents in the place of pixels: from .npz files, and made of images once, in parts that outlive a crash."""

from pathlib import Path

import numpy as np
import pytest

from diffrep import data
from diffrep.data import latents
from diffrep.data.dataset import Dataset
from diffrep.data.latents import encoded
from diffrep.data.opening import holds_latents
from diffrep.denoiser import InputSpec
from diffrep.errors import InputError, UsageError

SPEC = InputSpec(4, 3, latent=True)


def write(tmp_path: Path, **changes: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"train_latents": rng.normal(size=(20, 4, 3, 3)).astype(np.float32), "train_labels": np.arange(20) % 2}
    np.savez(tmp_path / "set.npz", **{**arrays, **changes})
    return tmp_path / "set.npz"


def halves(images: np.ndarray) -> np.ndarray:
    """An encoder: mean grey of each quarter, in four channels."""
    grey = images.astype(np.float32).mean(3).reshape(len(images), 2, images.shape[1] // 2, 2, -1).mean((2, 4)) / 255
    return np.repeat(grey[..., None], 4, 3)


@pytest.fixture
def digits() -> Dataset:
    return data.load("digits")["val"].take(50)


def test_latents_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    splits = data.load(f"npz:{path}")
    stored = np.load(path)["train_latents"]
    for part in splits.values():
        assert part.latent
        for record in part:
            row = stored[int(record.id.split("/")[1])]
            assert np.array_equal(record.image, row.transpose(1, 2, 0))
            assert np.array_equal(data.to_input(record.image[None])[0].numpy(), row)
    assert {name: len(part) for name, part in splits.items()} == {"train": 16, "val": 2, "test": 2}
    assert holds_latents(f"npz:{path}")
    assert holds_latents(path)


def test_latents_are_not_taken_for_images(tmp_path: Path) -> None:
    part = data.load(f"npz:{write(tmp_path)}")["train"]
    with pytest.raises(UsageError, match="takes images, not latents"):
        data.conform(part, InputSpec(3, 3))
    with pytest.raises(InputError, match="latents of 4 channels and 3x3 pixels"):
        data.conform(part, InputSpec(4, 8, latent=True))
    assert data.conform(part, SPEC) is part
    with pytest.raises(UsageError, match="takes latents, not images"):
        data.conform(data.load("digits")["val"], SPEC)
    with pytest.raises(InputError, match="float32"):
        data.to_tensor(part.images)
    with pytest.raises(UsageError, match="mirrored"):
        data.loader(part, 4, 0, flip=True)
    assert data.loader(part, 4, 0)(0).images.shape == (4, 4, 3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_latents": np.zeros((5, 4, 3, 3), np.int64)}, "expected float32"),
        ({"train_latents": np.zeros((5, 4, 9), np.float32)}, "expected float32"),
        ({"train_latents": np.full((5, 4, 3, 3), np.nan, np.float32)}, "NaN or infinity"),
        ({"train_labels": np.arange(3)}, "3 labels for 20 images"),
    ],
)
def test_latents_that_cannot_be(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load(write(tmp_path, **changes))


def test_a_file_of_images_holds_no_latents(tmp_path: Path) -> None:
    path = write(tmp_path, train_images=np.zeros((20, 3, 3), np.uint8))
    assert not holds_latents(path)
    assert not data.load(path)["train"].latent
    assert not holds_latents("npz:nowhere.npz")
    assert not holds_latents("digits")


def test_images_are_encoded_once(tmp_path: Path, digits: Dataset) -> None:
    calls: list[int] = []

    def counting(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return halves(images)

    seen: list[tuple[int, int]] = []
    settings = {"cache": tmp_path, "batch_size": 16}
    made = encoded(digits, counting, {"vae": "a"}, progress=lambda *n: seen.append(n), **settings)
    assert made.latent
    assert np.array_equal(made.images, halves(digits.images))
    assert (made.ids, made.transform["vae"], sum(calls)) == (digits.ids, "a", 50)
    assert seen[-1] == (50, 50)
    again = encoded(digits, counting, {"vae": "a"}, **settings)
    assert sum(calls) == 50
    assert again.revision == made.revision != digits.revision
    encoded(digits, counting, {"vae": "b"}, **settings)
    assert sum(calls) == 100


def test_encoding_goes_on_where_it_was_stopped(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "PART", 20)
    calls: list[int] = []

    def stopped(images: np.ndarray) -> np.ndarray:
        if sum(calls) == 40:
            raise KeyboardInterrupt
        calls.append(len(images))
        return halves(images)

    with pytest.raises(KeyboardInterrupt):
        encoded(digits, stopped, {}, cache=tmp_path, batch_size=10)
    calls.append(1)  # stop no more
    made = encoded(digits, stopped, {}, cache=tmp_path, batch_size=10)
    assert sum(calls) == 51
    assert np.array_equal(made.images, halves(digits.images))
    assert not list(tmp_path.rglob("*.parts"))


def test_a_damaged_entry_is_made_again(tmp_path: Path, digits: Dataset) -> None:
    encoded(digits, halves, {}, cache=tmp_path)
    (file,) = tmp_path.rglob("images.npy")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert np.array_equal(encoded(digits, halves, {}, cache=tmp_path).images, halves(digits.images))


def test_a_latent_that_is_not_finite_is_named(tmp_path: Path, digits: Dataset) -> None:
    def broken(images: np.ndarray) -> np.ndarray:
        return halves(images) + np.where(np.arange(len(images)) == 3, np.nan, 0)[:, None, None, None]

    with pytest.raises(InputError, match=digits.ids[3]):
        encoded(digits, broken, {}, cache=tmp_path)


def test_no_images_have_no_latents(tmp_path: Path, digits: Dataset) -> None:
    assert len(encoded(digits.take(0), halves, {}, cache=tmp_path)) == 0
