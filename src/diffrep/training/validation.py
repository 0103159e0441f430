"""A validation loss that can be compared between steps: the same images, levels and noise each time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffrep.data import Batch, Dataset, to_input
from diffrep.denoiser import InputSpec
from diffrep.randomness import Draw
from diffrep.training.objective import Objective


def validation(
    objective: Objective,
    dataset: Dataset,
    spec: InputSpec,
    *,
    draws: int = 4,
    batch_size: int = 256,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Callable[[], float]:
    """Make the `validate` of `train`: the mean loss over a data set, with `draws` fixed levels and noises per image.

    Example:
        >>> check = validation(objective, data["val"], denoiser.input)  # doctest: +SKIP
        >>> train(objective, loader, config, validate=check)  # doctest: +SKIP
    """

    @torch.no_grad()
    def mean_loss() -> float:
        total = 0.0
        for start in range(0, len(dataset), batch_size):
            rows = slice(start, start + batch_size)
            labels = None if dataset.labels is None else torch.as_tensor(dataset.labels[rows], device=device)
            batch = Batch(to_input(dataset.images[rows], spec.range, device), labels, list(dataset.ids[rows]))
            for k in range(draws):
                total += float(objective.loss(batch, Draw(seed, k, batch.ids)).sum())
        return total / (draws * len(dataset))

    return mean_loss
