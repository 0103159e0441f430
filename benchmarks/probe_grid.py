"""A grid of taps and levels on the digits: features once and ridge, against probes trained online.

Online is the official way (DDAE 3.4): 15 epochs in which the network runs again at every level for every batch, and
one Adam probe per cell learns from what it gives.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.timing import Row, compare
from diffrep import data, formats
from diffrep.denoiser import Denoiser
from diffrep.extraction import extract
from diffrep.probes import RidgeProbe, select
from diffrep.tap_features import TapFeatures

EPOCHS, BATCH, TIMES = 15, 128, (1, 10, 40)


def online(denoiser: Denoiser, splits: data.Splits) -> None:
    """All cells, each with its own linear probe, trained together."""
    grid = TapFeatures(denoiser, "*", denoiser.schedule.at(TIMES))
    loader = data.loader(splits["train"], BATCH, 0)
    batch = loader(0)
    probes = {name: nn.Linear(f.shape[1], 10) for name, f in grid(batch.images, ids=batch.ids).items()}
    optimizers = [torch.optim.Adam(probe.parameters(), lr=1e-3) for probe in probes.values()]
    for step in range(EPOCHS * len(splits["train"]) // BATCH):
        batch = loader(step)
        found = grid(batch.images, ids=[f"{i}/{step}" for i in batch.ids])
        for (name, probe), optimizer in zip(probes.items(), optimizers, strict=True):
            loss = nn.functional.cross_entropy(probe(found[name].clone()), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    grid(data.to_tensor(splits["test"].images), ids=splits["test"].ids)


def cached(denoiser: Denoiser, splits: data.Splits) -> None:
    """Features of every split once, then a ridge probe for each cell."""
    grid = TapFeatures(denoiser, "*", denoiser.schedule.at(TIMES))
    train, val, test = (extract(grid, splits[name], cache=False) for name in ("train", "val", "test"))
    select(RidgeProbe(), train, val, test)


def rows() -> list[Row]:
    denoiser, splits = formats.load("ddpm-digits"), data.load("digits")
    return [
        compare(
            f"grid of {9 * len(TIMES)} cells",
            ("online probes, 15 epochs", lambda: online(denoiser, splits)),
            ("features once + ridge", lambda: cached(denoiser, splits)),
            8.0,
            rounds=3,
        )
    ]
