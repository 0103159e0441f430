"""Ways from one image to another: codes on a line, inverted x_T on a great circle (PDAE 1.11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffrep.data import to_uint8
from diffrep.errors import InputError
from diffrep.experiments.document import Outcome, section, strip

TEXT = (
    "From the image at the left to the one at the right: the code moves on a straight line, x_T on a great circle, "
    "and every frame is decoded by itself."
)


@torch.no_grad()
def interpolation(
    autoencoder: Any,  # noqa: ANN401 (the Autoencoder protocol, either class)
    a: Tensor,
    b: Tensor,
    *,
    names: Sequence[str] = (),
    num_frames: int = 10,
    steps: int = 20,
    view: Callable[[Tensor], Tensor] | None = None,
) -> Outcome:
    """Interpolate pairs of images and make the strip: one row per pair, both ends included.

    Args:
        autoencoder: any `Autoencoder`.
        a: images (B, C, H, W) in [-1, 1] where the ways start.
        b: images of the same shape where they end.
        names: one label per pair; none numbers them.
        num_frames: frames per pair.
        steps: DDIM steps of inversion and of decoding.
        view: makes pictures of latents; None where images are pictures.

    Errors:
        InputError: no pair.
    """
    if not len(a):
        raise InputError("no pair of images to interpolate", "give at least one image on each side")
    frames = autoencoder.interpolate(a, b, num_frames=num_frames, steps=steps).reshape(num_frames, *a.shape)
    rows = torch.stack([_bytes(frames[:, k], view) for k in range(len(a))])
    labels = list(names) or [f"pair {k + 1}" for k in range(len(a))]
    block = strip("interpolation", labels, caption=f"{num_frames} frames, {steps} DDIM steps.")
    return Outcome({}, [section("Interpolation", block, text=TEXT)], {"interpolation": rows.numpy()})


def _bytes(frames: Tensor, view: Callable[[Tensor], Tensor] | None) -> Tensor:
    return torch.from_numpy(to_uint8(view(frames) if view else frames))


def pairs_of_classes(labels: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Indices of at most `count` pairs: the first images of a class and of the class after it.

    First every class is in one pair, then the pairs between these follow: as many pairs as classes, at most.

    Errors:
        InputError: fewer than two classes.
    """
    first: dict[int, int] = {}
    for index, label in enumerate(labels):
        first.setdefault(int(label), index)
    classes = sorted(first)
    if len(classes) < 2:
        raise InputError(f"{len(classes)} class among {len(labels)} images", "pairs need at least two")
    order = [*range(0, len(classes), 2), *range(1, len(classes), 2)]
    around = [(classes[k], classes[(k + 1) % len(classes)]) for k in order]
    return [(first[u], first[v]) for u, v in around[:count]]
