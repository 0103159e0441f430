"""A DDPM training step: the loop's defaults against float32 with an unfused optimizer and a per-tensor average."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.models import ddae_unet, images
from benchmarks.timing import Row, compare
from diffrep.data import Batch
from diffrep.randomness import Draw
from diffrep.training import DenoisingObjective, Objective, TrainConfig, train


def plain_steps(objective: Objective, batch: Batch) -> Callable[[], None]:
    """A plain step of one's own: float32, loops over tensors for the optimizer and for the average."""
    parameters = list(objective.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-4, foreach=False, fused=False)
    average = [p.detach().clone() for p in parameters]

    def step() -> None:
        objective.train(True)
        optimizer.zero_grad()
        objective.loss(batch, Draw(0, 0, batch.ids)).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average, parameters, strict=True):
                a.mul_(0.9999).add_(p, alpha=1 - 0.9999)

    return step


def our_steps(objective: Objective, batch: Batch) -> Callable[[], None]:
    """Steps of `train` with bf16 autocast."""
    config = TrainConfig(10_000, learning_rate=1e-4, precision="bf16", ema_decay=0.9999)
    reports = train(objective, lambda step: batch, config)
    return lambda: next(reports)


def rows() -> list[Row]:
    batch = Batch(images(4, 32), None, [str(i) for i in range(4)])
    plain = plain_steps(DenoisingObjective(ddae_unet()), batch)
    ours = our_steps(DenoisingObjective(ddae_unet()), batch)
    return [compare("DDPM training step", ("float32, plain loop", plain), ("dr.train, bf16", ours), 1.5)]
