"""`dr.features`: the features of a data set in one call, with good defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from diffrep import data as sources
from diffrep import formats
from diffrep.data import Dataset
from diffrep.errors import UsageError, nearest
from diffrep.extraction import extract
from diffrep.feature_set import FeatureSet
from diffrep.tap_features import TapFeatures
from diffrep.taps import base_of


def features(
    model: nn.Module | str | Path,
    data: Mapping[str, Dataset] | Dataset | str | Path,
    *,
    taps: str = "*",
    split: str = "train",
    **settings: Any,  # noqa: ANN401 (passed on to TapFeatures)
) -> FeatureSet:
    """Features of a data set in one call: all taps, three low noise levels, mean-pooled, cached.

    Args:
        model: a denoiser or an autoencoder, or what `dr.load` takes.
        data: one split, several, or what `dr.data.load` takes.
        taps: names or globs.
        split: which split, where there are several.
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
    spec = denoiser.input
    splits = data
    if isinstance(splits, str | Path):
        splits = sources.load(splits, image_size=spec.size, channels=spec.channels)
    if split not in splits:
        raise UsageError(f'no split "{split}"', nearest(split, splits))
    return extract(TapFeatures(denoiser, taps=taps, **settings), splits[split])
