"""`dr.features`: the features of a data set in one call, with good defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from diffrep import formats
from diffrep.data import Dataset
from diffrep.data.splitting import SPLITS
from diffrep.errors import UsageError, nearest
from diffrep.experiments.inputs import open_input
from diffrep.extraction import extract
from diffrep.feature_set import FeatureSet
from diffrep.formats.vae import Vae
from diffrep.tap_features import TapFeatures
from diffrep.taps import base_of


def features(
    model: nn.Module | str | Path,
    data: Mapping[str, Dataset] | Dataset | str | Path,
    *,
    taps: str = "*",
    split: str = "train",
    vae: Vae | None = None,
    **settings: Any,  # noqa: ANN401 (passed on to TapFeatures)
) -> FeatureSet:
    """Features of a data set in one call: all taps, three low noise levels, mean-pooled, cached.

    Args:
        model: a denoiser or an autoencoder, or what `dr.load` takes.
        data: one split, several, or what `dr.data.load` takes.
        taps: names or globs.
        split: which split, where there are several.
        vae: makes latents of images, for a model of latents: `dr.load_vae(...)`.
        settings: further arguments of `TapFeatures`, such as levels= or pool=.

    Errors:
        UsageError: no such split, and what `TapFeatures` refuses.

    Example:
        >>> import diffrep as dr
        >>> dr.features("ddpm-digits", "digits", taps="mid", split="test").names[0]
        'mid@log_snr=8.00'
    """
    denoiser = base_of(model if isinstance(model, nn.Module) else formats.load(model))
    if isinstance(data, Dataset):
        return extract(TapFeatures(denoiser, taps=taps, **settings), data)
    splits = data
    if isinstance(splits, str | Path):
        splits = open_input(denoiser.input, splits, vae=vae, only=[split] if split in SPLITS else SPLITS)
    if split not in splits:
        raise UsageError(f'no split "{split}"', nearest(split, splits))
    return extract(TapFeatures(denoiser, taps=taps, **settings), splits[split])
