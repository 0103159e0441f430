"""Samples of a denoiser, and what is left free when a code is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffrep.data import to_uint8
from diffrep.denoiser import Denoiser
from diffrep.experiments.document import Outcome, section, strip
from diffrep.randomness import noise_for, normal
from diffrep.sampling import ddim


@torch.no_grad()
def samples(denoiser: Denoiser, *, rows: int = 2, columns: int = 12, steps: int = 50, seed: int = 0) -> Outcome:
    """Sample a denoiser from noise and make the grid.

    Args:
        denoiser: what is sampled, without labels.
        rows: rows of the grid.
        columns: images per row.
        steps: DDIM steps.
        seed: image i belongs to (seed, i).
    """
    denoiser = denoiser.for_sampling()
    spec = denoiser.input
    count = rows * columns
    path = denoiser.schedule.path(steps, rule=denoiser.sampling.rule)
    start = noise_for(seed, [str(i) for i in range(count)])(0, (count, spec.channels, spec.size, spec.size))
    start = start.to(denoiser.device) * (1.0 if denoiser.schedule.convention == "vp" else float(path[0].sigma))
    grid = to_uint8(ddim(denoiser, start, path))
    arrays = {"samples": grid.reshape(rows, columns, *grid.shape[1:])}
    block = strip("samples", [""] * rows, caption=f"Drawn from noise by the denoiser alone, {steps} DDIM steps.")
    return Outcome({}, [section("Samples", block)], arrays)


@torch.no_grad()
def same_code(
    autoencoder: Any,  # noqa: ANN401 (the Autoencoder protocol, either class)
    images: Tensor,
    ids: Sequence[str],
    *,
    draws: int = 11,
    steps: int = 50,
    seed: int = 0,
) -> Outcome:
    """Decode each image's code from several random x_T: what the code holds stays, the rest varies.

    Args:
        autoencoder: any `Autoencoder`.
        images: (B, C, H, W) in [-1, 1]; one row each.
        ids: one id per image.
        draws: how many x_T per image.
        steps: DDIM steps.
        seed: the x_T of draw k belongs to (seed, id, k).
    """
    z = autoencoder.encode(images)
    start = torch.cat([normal(seed, "same-code", list(ids), tuple(images.shape[1:]), step=k) for k in range(draws)])
    drawn = autoencoder.decode(z.repeat(draws, 1), start.to(images), steps=steps)
    frames = torch.stack([images, *drawn.reshape(draws, *images.shape)])
    rows = torch.stack([torch.from_numpy(to_uint8(frames[:, k])) for k in range(len(images))])
    caption = f"Left the image; then its code decoded from {draws} different x_T, {steps} DDIM steps."
    block = strip("same_code", ["one code, many x_T"] * len(images), caption=caption)
    return Outcome({}, [section("Samples", block)], {"same_code": rows.numpy()})
