"""How much a linear probe reads at every tap and noise level, beside an untrained network and the pixels (DDAE 3).

Tap and level are chosen by cross-validation on train and validation with all labels; the chosen features are then
probed on test with all labels and with few. The untrained network's tap and level are chosen exactly as the trained
one's. Features are pooled to their mean and to 2x2; one pass per level serves all taps and both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from diffrep.data import Dataset
from diffrep.denoiser import Denoiser
from diffrep.errors import InputError
from diffrep.experiments.controls import untrained
from diffrep.experiments.document import Outcome
from diffrep.extraction import extract
from diffrep.feature_set import FeatureSet
from diffrep.noise import NoiseLevel
from diffrep.probes import RidgeProbe, few_labels, select
from diffrep.tap_features import TapFeatures

Progress = Callable[[str, int, int], None]
Parts = dict[str, FeatureSet]
SPLITS = ("train", "val", "test")
POOLS = ("mean", "2x2")


@dataclass(frozen=True)
class Probed:
    """What a probe made of one network's features.

    Attributes:
        name: the chosen feature, for example "dec.1@log_snr=6.12".
        validation: its accuracy in cross-validation.
        few: accuracy on test with few labels per class, mean over the draws.
        all: accuracy on test with all labels of train and validation.
        draws: the accuracies that `few` is the mean of.
        table: cross-validation accuracy of every feature by name.
    """

    name: str
    validation: float
    few: float
    all: float
    draws: list[float]
    table: dict[str, float]


def probe_grid(
    denoiser: Denoiser,
    splits: Mapping[str, Dataset],
    levels: NoiseLevel,
    *,
    taps: str | Sequence[str] = "*",
    per_class: int = 10,
    draws: int = 20,
    controls: Sequence[Denoiser] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Outcome:
    """Probe a denoiser, untrained networks of its shape, and raw pixels, in both poolings.

    Args:
        denoiser: whose features are probed.
        splits: "train", "val" and "test" with labels; the penalty, tap and level never see "test".
        levels: noise levels, (K,).
        taps: names or globs.
        per_class: labels per class of the few-label probes.
        draws: how many few-label subsets are averaged; all networks get the same ones.
        controls: untrained networks that are averaged; None makes three.
        seed: of noise, folds, subsets and untrained networks.
        batch_size: images per pass.
        progress: called with ("features", networks done, networks in all), then with ("probes", ...).

    Returns:
        results `probe_trained`, `probe_untrained`, `probe_raw_pixels` (few labels), the same with `_all`, both also
        with `_2x2`, and `best_tap`, `best_log_snr`; `models` empty; `about["grids"]` the tables by pool.

    Errors:
        InputError: a split without labels.
    """
    for name in SPLITS:
        if splits[name].labels is None:
            raise InputError(f"the split {name!r} of {splits[name].source} has no labels", "a probe needs labels")
    networks = [denoiser, *(untrained_networks(denoiser, 3, seed) if controls is None else controls)]
    found: dict[str, list[Probed]] = {pool: [] for pool in POOLS}
    for done, network in enumerate(networks, start=1):
        parts = features_of(network, splits, levels, taps=taps, seed=seed, batch_size=batch_size)
        if progress:
            progress("features", done, len(networks))
        for pool in POOLS:
            found[pool].append(probe(parts[pool], per_class=per_class, draws=draws, seed=seed))
        if progress:
            progress("probes", done, len(networks))
    pixels = probe(raw_pixels(splits), per_class=per_class, draws=draws, seed=seed)
    return Outcome(_results(found, pixels), about={"grids": {pool: found[pool][0].table for pool in POOLS}})


def untrained_networks(denoiser: Denoiser, count: int, seed: int) -> list[Denoiser]:
    """Untrained networks of the same shape; runs of different seeds average different ones."""
    return [untrained(denoiser, 1000 * seed + k) for k in range(count)]


def features_of(
    denoiser: Denoiser,
    splits: Mapping[str, Dataset],
    levels: NoiseLevel,
    *,
    taps: str | Sequence[str] = "*",
    seed: int = 0,
    batch_size: int = 256,
) -> dict[str, Parts]:
    """Features of all splits by pool ("mean", "2x2") and split; one pass per level where sizes allow it."""
    half = TapFeatures(denoiser, taps, levels, pool="2x2", noise_seed=seed)
    cells = {name: extract(half, splits[name], batch_size=batch_size, cache=False) for name in SPLITS}
    if all(tap.resolution % 2 == 0 for tap in denoiser.taps):
        return {"2x2": cells, "mean": {name: _mean_of_cells(part) for name, part in cells.items()}}
    whole = TapFeatures(denoiser, taps, levels, pool="mean", noise_seed=seed)
    return {
        "2x2": cells,
        "mean": {name: extract(whole, splits[name], batch_size=batch_size, cache=False) for name in SPLITS},
    }


def _mean_of_cells(part: FeatureSet) -> FeatureSet:
    """The mean over a map is the mean of its four equal quarters."""
    arrays = {name: a.reshape(len(a), -1, 4).mean(2) for name, a in part.arrays.items()}
    return replace(part, arrays=arrays, protocol={**part.protocol, "pool": "mean"})


def raw_pixels(splits: Mapping[str, Dataset]) -> Parts:
    """The pixels themselves as the only feature, "pixels", 0..1."""
    return {
        name: FeatureSet(
            {"pixels": (splits[name].images.reshape(len(splits[name]), -1) / np.float32(255)).astype(np.float32)},
            splits[name].labels,
            splits[name].class_names,
            splits[name].ids,
            name,
        )
        for name in SPLITS
    }


def probe(parts: Parts, *, per_class: int, draws: int, seed: int) -> Probed:
    """Choose a feature by 5-fold cross-validation on train and validation, then probe it on test.

    Ridge on standardised features throughout; the penalty is chosen by cross-validation within the labels at hand.
    """
    chosen = select(RidgeProbe(seed=seed), parts["train"], parts["val"], parts["test"], cv=5)
    name = chosen.name
    x = np.concatenate([parts["train"][name], parts["val"][name]])
    y = np.concatenate([_labels(parts["train"]), _labels(parts["val"])])
    x_test, y_test = parts["test"][name], _labels(parts["test"])
    scores = []
    for draw in range(draws):
        rows = few_labels(torch.from_numpy(y), per_class, draw, seed).numpy()
        scores.append(RidgeProbe(seed=seed).fit(x[rows], y[rows]).score(x_test, y_test))
    table = {str(row["name"]): float(row["validation"]) for row in chosen.table}
    few = float(np.mean(scores)) if scores else float("nan")
    return Probed(name, float(chosen.validation), few, float(chosen.score), scores, table)


def _labels(part: FeatureSet) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(part.labels, dtype=np.int64)


def split_name(name: str) -> tuple[str, float]:
    """Tap and log-SNR of a feature's name.

    Example:
        >>> split_name("dec.1@log_snr=6.12")
        ('dec.1', 6.12)
    """
    tap, _, level = name.partition("@log_snr=")
    return tap, float(level)


def _results(found: Mapping[str, list[Probed]], pixels: Probed) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for pool in POOLS:
        suffix = "" if pool == "mean" else f"_{pool}"
        trained, *controls = found[pool]
        results |= dict(_scores(f"trained{suffix}", [trained]))
        results |= dict(_scores(f"untrained{suffix}", controls))
        tap, log_snr = split_name(trained.name)
        results |= {f"best_tap{suffix}": tap, f"best_log_snr{suffix}": log_snr}
        results[f"best_validation{suffix}"] = trained.validation
        results[f"untrained{suffix}_best"] = [control.name for control in controls]
    return results | dict(_scores("raw_pixels", [pixels]))


def _scores(name: str, probed: Sequence[Probed]) -> Iterator[tuple[str, Any]]:
    """Mean over initializations (or the one network), and each by itself where there are several."""
    if not probed:
        return
    yield f"probe_{name}", float(np.mean([p.few for p in probed]))
    yield f"probe_{name}_all", float(np.mean([p.all for p in probed]))
    if len(probed) > 1:
        yield f"probe_{name}_each", [p.few for p in probed]
        yield f"probe_{name}_all_each", [p.all for p in probed]
