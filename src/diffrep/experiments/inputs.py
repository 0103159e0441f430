"""A source of images as what a model takes: its size and channels, or, for a model of latents, its latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from diffrep import data
from diffrep.data.conforming import check_latents
from diffrep.data.dataset import Images, Latents, Splits
from diffrep.data.latents import encoded
from diffrep.data.opening import holds_latents
from diffrep.data.splitting import SPLITS
from diffrep.denoiser import InputSpec
from diffrep.errors import UsageError
from diffrep.formats.vae import Vae

BATCH = 8
"""Images per pass through a VAE, which needs far more memory than the network of its latents."""


def open_input(
    spec: InputSpec,
    source: str | Path,
    *,
    vae: Vae | None = None,
    only: Sequence[str] = SPLITS,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,  # noqa: ANN401 (passed on to data.load)
) -> Splits:
    """Open a source of images for a model.

    Args:
        spec: the model's input.
        source: as for `data.load`; for a model of latents also an .npz file of latents.
        vae: makes latents of images, for a model of latents; they are kept in the cache.
        only: the splits that are wanted; the others are not encoded, and left out.
        progress: called with (images encoded, images in all of a split).
        options: further arguments of `data.load`.

    Errors:
        UsageError: images for a model of latents and no VAE, or a VAE of other latents. InputError: latents of another
            shape; and what `data.load` raises.
    """
    latents = holds_latents(source)
    if not spec.latent and not latents:
        return data.load(source, image_size=spec.size, channels=spec.channels, **options)
    if latents:
        splits = data.load(source, **options)
        for dataset in splits.values():
            check_latents(dataset, spec)
        return splits
    if vae is None:
        raise UsageError(
            "this model takes latents, not images, and no VAE lies beside it",
            "name its VAE: --vae stabilityai/sd-vae-ft-mse, a folder or a card (in Python: vae=dr.load_vae(...)); or "
            "give latents: npz:FILE with train_latents (N, C, H, W)",
        )
    described = vae.described(spec)  # first, so that another VAE is refused before images are decoded
    splits = data.load(source, image_size=spec.size * vae.factor, channels=3, **options)
    device = next(vae.parameters()).device

    @torch.inference_mode()
    def encode(images: Images) -> Latents:
        latents = vae.encode(data.to_tensor(images, device=device), spec).permute(0, 2, 3, 1)
        return cast(Latents, np.ascontiguousarray(latents.float().cpu().numpy()))

    made = {
        name: encoded(splits[name], encode, described, cache=options.get("cache"), batch_size=BATCH, progress=progress)
        for name in only
    }
    return replace(splits, datasets=made)
