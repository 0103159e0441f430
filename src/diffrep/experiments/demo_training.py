"""What the demo trains: PDAE on the frozen denoiser, always; the denoiser itself, where asked for.

Both are limited by steps, never by the clock, so that a busy machine is slower and never worse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from diffrep import networks
from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective
from diffrep.data import Dataset, loader
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.randomness import seed_of
from diffrep.schedules import DiscreteSchedule
from diffrep.training import DenoisingObjective, Objective, TrainConfig, fast_precision, train

Progress = Callable[[str, int, int], None]
LogLine = dict[str, Any]
LOG_EVERY = 10


def train_autoencoder(
    denoiser: Denoiser,
    dataset: Dataset,
    *,
    code_dim: int = 32,
    steps: int = 1300,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[ShiftAutoencoder, list[LogLine]]:
    """Train a fresh encoder and a zero shift on a frozen denoiser (PDAE 1.5).

    Args:
        denoiser: the frozen base.
        dataset: training images.
        code_dim: numbers per code.
        steps: optimizer steps.
        batch_size: images per step.
        seed: of weights, order and noise.
        progress: called with ("autoencoder", steps done, steps).

    Returns:
        The autoencoder with averaged weights, in eval mode, and its loss by step.
    """
    autoencoder = ShiftAutoencoder.fresh(denoiser, code_dim, seed=seed)
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=2e-3,
        warmup_steps=min(100, steps // 5),
        cosine_to=0.02,
        ema="constant",
        ema_decay=0.995,
        precision=fast_precision(denoiser.device),
        seed=seed,
    )
    lines = _run("autoencoder", ShiftObjective(autoencoder), dataset, config, denoiser.device, progress)
    return autoencoder.eval(), lines


def pretrain(
    dataset: Dataset,
    *,
    size: int = 8,
    channels: int = 1,
    steps: int = 1500,
    batch_size: int = 64,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[Denoiser, list[LogLine]]:
    """Train the tiny U-Net from nothing to predict noise, on the linear schedule of 1000 steps.

    Args:
        dataset: training images of that size.
        size: height and width.
        channels: 1 or 3.
        steps: optimizer steps.
        batch_size: images per step.
        seed: of weights, order and noise.
        device: where it is trained.
        progress: called with ("pretraining", steps done, steps).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "denoiser"))
        network = networks.tiny(image_channels=channels, multipliers=networks.multipliers_for(size), dropout=0.05)
    denoiser = Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(channels, size)).to(device)
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-3,
        warmup_steps=min(100, steps // 5),
        cosine_to=0.1,
        ema="constant",
        ema_decay=0.995,
        precision=fast_precision(device),
        seed=seed,
    )
    lines = _run("pretraining", DenoisingObjective(denoiser), dataset, config, device, progress)
    return denoiser.eval(), lines


def _run(
    stage: str,
    objective: Objective,
    dataset: Dataset,
    config: TrainConfig,
    device: str | torch.device,
    progress: Progress | None,
) -> list[LogLine]:
    batches = loader(dataset, config.batch_size, config.seed, device=device)
    lines: list[LogLine] = []
    since: list[float] = []
    for report in train(objective, batches, config):
        since.append(report.loss)
        if report.step % LOG_EVERY == 0 or report.step == report.steps:
            lines.append({"stage": stage, "step": report.step, "loss": sum(since) / len(since)})
            since.clear()
        if progress:
            progress(stage, report.step, report.steps)
    return lines
