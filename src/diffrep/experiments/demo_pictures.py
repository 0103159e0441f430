"""The demo's pictures: samples, one code with many x_T, interpolations and edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffrep.autoencoder import ShiftAutoencoder
from diffrep.data import Dataset
from diffrep.errors import InputError
from diffrep.experiments.document import Outcome
from diffrep.experiments.interpolate import interpolation, pairs_of_classes
from diffrep.experiments.manipulate import manipulation
from diffrep.experiments.samples import same_code, samples

if TYPE_CHECKING:
    from diffrep.experiments.demo import DemoSettings

Progress = Callable[[str, int, int], None]
PAIRS, EDITED = 5, 6


def pictures(
    settings: DemoSettings,
    autoencoder: ShiftAutoencoder,
    parts: Mapping[str, Dataset],
    images: Mapping[str, Tensor],
    progress: Progress | None = None,
) -> dict[str, Outcome]:
    """Make all of them: "samples", "same_code", "interpolation" and "edit".

    Args:
        settings: steps, seed and how many are shown.
        autoencoder: trained.
        parts: labelled data sets "train" and "test".
        images: their images (N, C, H, W) in [-1, 1].
        progress: called with ("pictures", done, total).
    """
    test, x = parts["test"], images["test"]
    steps, seed, shown = settings.sample_steps, settings.seed, settings.shown
    work: dict[str, Callable[[], Outcome]] = {
        "samples": lambda: samples(autoencoder.denoiser, steps=steps, columns=shown, seed=seed),
        "same_code": lambda: same_code(autoencoder, x[:2], test.ids[:2], draws=shown - 1, steps=steps, seed=seed),
        "interpolation": lambda: _interpolation(settings, autoencoder, test, x),
        "edit": lambda: _edit(settings, autoencoder, parts, images),
    }
    done = {}
    for name, make in work.items():
        done[name] = make()
        if progress:
            progress("pictures", len(done), len(work))
    return done


def _interpolation(settings: DemoSettings, autoencoder: ShiftAutoencoder, test: Dataset, x: Tensor) -> Outcome:
    pairs = pairs_of_classes(_labels(test), PAIRS)
    a, b = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    names = [f"{_class(test, i)} to {_class(test, j)}" for i, j in pairs]
    return interpolation(autoencoder, x[a], x[b], names=names, steps=settings.picture_steps)


def _edit(
    settings: DemoSettings,
    autoencoder: ShiftAutoencoder,
    parts: Mapping[str, Dataset],
    images: Mapping[str, Tensor],
) -> Outcome:
    """The first test image of each class but the one that the edits move towards."""
    test = parts["test"]
    target = min(settings.edited_class, len(test.class_names) - 1)
    first: dict[int, int] = {}
    for index, label in enumerate(_labels(test)):
        if label != target:
            first.setdefault(label, index)
    chosen = torch.tensor(list(first.values())[:EDITED])
    return manipulation(
        autoencoder,
        images["test"][chosen],
        autoencoder.encode(images["train"]),
        torch.tensor(_labels(parts["train"])) == target,
        name=test.class_names[target],
        labels=[_class(test, int(i)) for i in chosen],
        steps=settings.picture_steps,
    )


def _labels(dataset: Dataset) -> Sequence[int]:
    if dataset.labels is None:
        raise InputError(f"the split {dataset.split!r} of {dataset.source} has no labels", "the demo needs labels")
    return [int(label) for label in dataset.labels]


def _class(dataset: Dataset, index: int) -> str:
    return dataset.class_names[_labels(dataset)[index]]
