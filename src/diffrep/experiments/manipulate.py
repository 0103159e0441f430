"""Edits along one direction of code space: from without a class towards it, x_T kept (PDAE 1.11, manipulation)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffrep.autoencoder import CodeStats, direction, edit
from diffrep.data import to_uint8
from diffrep.experiments.document import Outcome, section, strip

TEXT = (
    "All rows move along the same direction: from the mean code of all other images to the mean code of class "
    '"{name}". The start x_T of each image stays as it was inverted; only the code moves.'
)


@torch.no_grad()
def manipulation(
    autoencoder: Any,  # noqa: ANN401 (the Autoencoder protocol, either class)
    images: Tensor,
    codes: Tensor,
    present: Tensor,
    *,
    name: str,
    scales: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
    labels: Sequence[str] = (),
    steps: int = 20,
) -> Outcome:
    """Decode images with codes moved along one class direction, from their own inverted x_T.

    Args:
        autoencoder: any `Autoencoder`.
        images: images to edit, (B, C, H, W) in [-1, 1].
        codes: codes of training images, (N, D), from which direction and scale are taken.
        present: (N,) bool: which of them show the class.
        name: what the class is called.
        scales: how far, in standard deviations per coordinate.
        labels: one label per image; none numbers them.
        steps: DDIM steps of inversion and of decoding.
    """
    stats = CodeStats.of(codes)
    along = direction(codes, present, stats)
    z = autoencoder.encode(images)
    start = autoencoder.invert(images, z, steps=steps)
    moved = torch.cat([edit(z, along, scale, stats) for scale in scales])
    frames = autoencoder.decode(moved, start.repeat(len(scales), 1, 1, 1), steps=steps)
    frames = torch.stack([images, *frames.reshape(len(scales), *images.shape)])
    rows = torch.stack([torch.from_numpy(to_uint8(frames[:, k])) for k in range(len(images))])
    titles = list(labels) or [f"image {k + 1}" for k in range(len(images))]
    columns = ["input", *(f"{scale:+.1f}" if scale else "0" for scale in scales)]
    caption = f'Towards "{name}", in standard deviations per number of the code; {steps} DDIM steps.'
    block = strip("edit", titles, columns=columns, caption=caption)
    return Outcome({}, [section("Edit", block, text=TEXT.format(name=name))], {"edit": rows.numpy()})
