"""What the loop says after each step, and what a run knows about itself beyond its tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainReport:
    """One optimizer step.

    Args:
        step: steps done, from 1.
        steps: steps in all.
        loss: mean loss of this step's images; NaN or infinite if the step was skipped.
        learning_rate: the rate of this step.
        grad_norm: global norm of the gradient before clipping.
        images_seen: images so far, over all sessions of the run.
        seconds: time so far, over all sessions of the run.
        skipped: steps skipped so far because loss or gradient was not finite.
        validation: what `validate` gave after this step, or None.
        checkpoint: the checkpoint written after this step, or None.
        averaged: `with report.averaged():` holds the averaged weights (if any) inside the block, in
            evaluation mode, and the raw ones in training mode again after it.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    images_seen: int
    seconds: float
    skipped: int
    validation: float | None
    checkpoint: Path | None
    averaged: Callable[[], AbstractContextManager[None]] = field(repr=False)


@dataclass
class Progress:
    """Where a run is; part of every checkpoint.

    Args:
        step: steps done.
        images_seen: images so far.
        seconds: time so far, over all sessions.
        skipped: steps skipped so far because loss or gradient was not finite.
        skipped_in_a_row: those since the last good step.
        ema_updates: updates of the averaged weights.
        best: {"step": ..., "value": ...} of the lowest validation so far.
        loss_sum: sum of the losses since the last line of metrics.jsonl.
        loss_count: number of these.
    """

    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    ema_updates: int = 0
    best: dict[str, Any] | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
