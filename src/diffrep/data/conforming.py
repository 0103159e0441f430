"""Bring images to the size and the channels that a model takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffrep.data.dataset import Dataset, Images, Latents
from diffrep.errors import InputError, UsageError

if TYPE_CHECKING:
    from diffrep.denoiser import InputSpec

LARGEST_SIZE = 8192


def conform(dataset: Dataset, input: InputSpec) -> Dataset:
    """Bring a data set to a model's input: shorter side to its size, centre crop to a square, grey or RGB.

    The result lies in memory; `load(source, image_size=, channels=)` does the same into the cache on disk. Latents are
    never changed: they fit a model, or they do not.

    Args:
        dataset: images uint8 (N, H, W, C), or latents.
        input: what the model takes.

    Returns:
        The same object when nothing changes.

    Errors:
        UsageError: if the model takes latents and these are images, or the other way round, or neither 1 nor 3
            channels. InputError: latents of another shape.
    """
    if dataset.latent or input.latent:
        check_latents(dataset, input)
        return dataset
    return transformed(dataset, input.size, input.channels)


def check_latents(dataset: Dataset, input: InputSpec) -> None:
    """Refuse images where a model takes latents, latents where it takes images, and latents of another shape.

    Errors:
        UsageError: the wrong kind. InputError: the wrong shape.
    """
    if not dataset.latent:
        raise UsageError("this model takes latents, not images", "encode the images with its VAE first: dr.load_vae")
    if not input.latent:
        raise UsageError("this model takes images, not latents", "give a source of images")
    size = (input.size, input.size, input.channels)
    if dataset.images.shape[1:] != size:
        height, width, channels = dataset.images.shape[1:]
        raise InputError(
            f"latents of {channels} channels and {height}x{width} pixels",
            f"this model takes {input.channels} channels and {input.size}x{input.size}",
        )


def transformed(dataset: Dataset, image_size: int | None, channels: int | None) -> Dataset:
    """`conform` with a size and a number of channels; None leaves as it is."""
    check_transform(image_size, channels)
    if dataset.latent:
        raise UsageError("latents are not resized", "leave image_size= and channels= out")
    n, height, width, depth = dataset.images.shape
    shape = (image_size or height, image_size or width, channels or depth)
    if shape == (height, width, depth):
        return dataset
    images = np.empty((n, *shape), np.uint8)
    for out, image in zip(images, dataset.images, strict=True):
        out[:] = fit(from_array(image), image_size, shape[2])
    transform = dataset.transform | transform_of(image_size, shape[2])
    return replace(dataset, images=images, transform=transform, images_digest=None)


def transform_of(image_size: int | None, channels: int) -> dict[str, Any]:
    """What `fit` does, as a protocol states it."""
    resize = {"image_size": image_size, "resample": "bicubic", "crop": "center"} if image_size else {}
    return {"channels": channels} | resize


def check_transform(image_size: int | None, channels: int | None) -> None:
    """Refuse a size or a number of channels that no image can have (UsageError)."""
    if image_size is not None and not 1 <= image_size <= LARGEST_SIZE:
        raise UsageError(f"image_size is {image_size}", f"give a number of pixels from 1 to {LARGEST_SIZE}")
    if channels not in (None, 1, 3):
        raise UsageError(f"channels is {channels}", "give 1 (grey) or 3 (RGB)")


def fit(image: Image.Image, image_size: int | None, channels: int) -> Images:
    """Resize the shorter side to `image_size` (antialiased bicubic), crop the centre, convert the channels.

    Args:
        image: mode L or RGB.
        image_size: side of the square in pixels; None leaves the size.
        channels: 1 or 3; colour becomes grey by ITU-R 601 luma.

    Returns:
        uint8 (H, W, channels).
    """
    image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = (left, top, left + side, top + side)
        # Resizing the square alone costs the same for a panorama as for a square image.
        image = image.crop(square).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def from_array(image: Images | Latents) -> Image.Image:
    """A Pillow image from uint8 (H, W, 1) or (H, W, 3)."""
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))
