"""The training loop: a generator that the caller iterates, and that can be stopped and resumed at any step.

`for report in train(objective, loader, config)`: one report per optimizer step. Everything random in a step
has the step's address, and everything else is in the checkpoint, so a resumed run is the unbroken one bit by
bit (on the same machine and number of threads). The loop prints nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from diffrep.errors import DiffrepError, StoppedResumable, UsageError
from diffrep.randomness import seed_of
from diffrep.runs import Metrics
from diffrep.training.checkpoint import Checkpoints, Stored
from diffrep.training.config import TrainConfig
from diffrep.training.ema import Average
from diffrep.training.gradient import backward, seeded
from diffrep.training.objective import Objective, parameter_names, to_device
from diffrep.training.optimizer import (
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from diffrep.training.precision import AUTO, fast_precision
from diffrep.training.report import Progress, TrainReport
from diffrep.training.signals import StopRequest


def train(
    objective: Objective,
    loader: Callable[[int], Any],
    config: TrainConfig,
    *,
    run_dir: Path | str | None = None,
    resume: str = "never",
    validate: Callable[[], float] | None = None,
) -> Iterator[TrainReport]:
    """Train, one report per step.

    When the iteration ends, the objective holds the averaged weights (unless `config.ema` is None) and is in
    evaluation mode. If the caller leaves the iteration earlier, it holds the raw ones, in training mode. A run
    that is resumed is read at once, before the first step.

    Args:
        objective: what is trained; see `Objective`.
        loader: step index from 0 -> batch; the same step gives the same batch always.
        config: all settings.
        run_dir: where checkpoints/ and metrics.jsonl go; None writes nothing.
        resume: "never", or "auto" to continue from the newest whole checkpoint in `run_dir`, if there is one.
        validate: called every `validate_every` steps and at the end with the averaged weights in place, in
            evaluation mode; returns a number of which the lowest is best. The best checkpoint is kept.

    Errors:
        UsageError: other settings than those of the run that is resumed; a folder that holds a run already.
        DiffrepError: more than `max_skipped` steps in a row without a finite loss and gradient; disk full.
        StoppedResumable: after SIGTERM or SIGINT, when the step is finished and saved (with `run_dir` only).

    Example:
        >>> for report in train(objective, loader, TrainConfig(steps=100)):  # doctest: +SKIP
        ...     report.loss
    """
    if resume not in ("never", "auto"):
        raise UsageError(f'resume = "{resume}"', 'expected "never" or "auto"')
    if resume == "auto" and run_dir is None:
        raise UsageError('resume = "auto" without a run folder', "pass run_dir=")
    run = _Run(objective, loader, config, validate)
    if run_dir is not None:
        run.attach(Path(run_dir), resume)
    return run.iterate()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        objective: Objective,
        loader: Callable[[int], Any],
        config: TrainConfig,
        validate: Callable[[], float] | None,
    ) -> None:
        self.objective, self.loader, self.config, self.validate = objective, loader, config, validate
        self.parameters = parameter_names(objective)
        self.weights = dict(objective.state_dict())
        self.device = _device(self.parameters, config.device)
        if config.precision == AUTO:
            self.config = replace(config, precision=fast_precision(self.device))
        self.free_precision = config.precision == AUTO
        self.optimizer = make_optimizer(self.parameters, config)
        self.average: Average | None = None
        if config.ema is not None:
            self.average = Average(self.weights, config.ema, config.ema_decay, config.ema_half_life)
        self.store: Checkpoints | None = None
        self.metrics: Metrics | None = None
        self.progress = Progress()
        self.saved: int | None = None

    def attach(self, folder: Path, resume: str) -> None:
        """Use a run folder, and continue what is in it."""
        self.store = Checkpoints(folder, self.config.keep_last)
        self.metrics = Metrics(folder / "metrics.jsonl")
        if resume == "never" and (self.store.steps() or self.metrics.read()):
            raise UsageError(f'"{folder}" holds a training run', 'pass resume="auto", or another run_dir')
        folder.mkdir(parents=True, exist_ok=True)
        self.store.tidy()
        if (stored := self.store.newest()) is not None:
            self._restore(stored)
        self.metrics.cut_after(self.progress.step)

    def iterate(self) -> Iterator[TrainReport]:
        """The loop itself."""
        started = time.perf_counter() - self.progress.seconds
        with StopRequest(listen=self.store is not None) as stop:
            self.objective.train(True)
            while self.progress.step < self.config.steps:
                self._halt_if(stop.name)
                report = self._step(started)
                self._halt_if(stop.name)
                yield report
        if self.average is not None:
            self.average.install()
        self.objective.train(False)

    def _step(self, started: float) -> TrainReport:
        now, index = self.progress, self.progress.step
        batch = to_device(self.loader(index), self.device)
        rate = learning_rate(self.config, index)
        loss, norm = backward(self.objective, batch, self.config, index, self.parameters.values())
        self._update(loss, norm, rate, len(batch.ids))
        now.step, now.images_seen = index + 1, now.images_seen + len(batch.ids)
        value, better = self._validated()
        now.seconds = time.perf_counter() - started
        self._log(loss, rate, norm, value)
        saved = self._save() if self._due(self.config.checkpoint_every) or better else None
        return TrainReport(
            step=now.step,
            steps=self.config.steps,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            images_seen=now.images_seen,
            seconds=now.seconds,
            skipped=now.skipped,
            validation=value,
            checkpoint=saved,
            averaged=self._averaged,
        )

    def _update(self, loss: float, norm: float, rate: float, images: int) -> None:
        """Move the weights and their average; skip both if loss or gradient is not finite."""
        now = self.progress
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return self._skip(loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update(now.images_seen, images)
            now.ema_updates = self.average.updates
        now.skipped_in_a_row = 0
        now.loss_sum, now.loss_count = now.loss_sum + loss, now.loss_count + 1

    def _skip(self, loss: float, norm: float) -> None:
        now = self.progress
        now.skipped, now.skipped_in_a_row = now.skipped + 1, now.skipped_in_a_row + 1
        if now.skipped_in_a_row > self.config.max_skipped:
            raise DiffrepError(
                f"step {now.step + 1}: loss {loss:g}, gradient norm {norm:g}; "
                f"{now.skipped_in_a_row} steps in a row were not finite and have been skipped",
                f"lower the learning rate (now {self.config.learning_rate:g}), set clip_norm, "
                "use precision float32, or look for broken images",
            )

    def _validated(self) -> tuple[float | None, bool]:
        """The validation that is due after this step, and whether it is the best so far."""
        if self.validate is None or not self._due(self.config.validate_every):
            return None, False
        seed = seed_of(self.config.seed, "validate", self.progress.step)
        with self._averaged(), seeded(seed, self.device):
            value = float(self.validate())
        best = self.progress.best
        better = math.isfinite(value) and (best is None or value < best["value"])
        if better:
            self.progress.best = {"step": self.progress.step, "value": value}
        return value, better

    def _due(self, every: int) -> bool:
        step = self.progress.step
        return step == self.config.steps or (every > 0 and step % every == 0)

    def _log(self, loss: float, rate: float, norm: float, validation: float | None) -> None:
        """One line; its loss is the mean over the steps since the line before."""
        now = self.progress
        if self.metrics is None or not (self._due(self.config.log_every) or validation is not None):
            return
        mean = now.loss_sum / now.loss_count if now.loss_count else math.nan
        line = {"step": now.step, "loss": mean, "learning_rate": rate, "grad_norm": norm}
        line |= {"images_seen": now.images_seen, "skipped": now.skipped, "seconds": round(now.seconds, 3)}
        self.metrics.append(line if validation is None else line | {"validation": validation})
        now.loss_sum, now.loss_count = 0.0, 0

    def _save(self) -> Path | None:
        if self.store is None or self.metrics is None:
            return None
        self.metrics.sync()
        tensors = {"model": self.weights, "optimizer": optimizer_tensors(self.optimizer, self.parameters)}
        if self.average is not None:
            tensors["ema"] = self.average.tensors
        state = asdict(self.progress) | {"config": self.config.as_dict()}
        best, self.saved = self.progress.best or {}, self.progress.step
        stored = Stored(self.progress.step, tensors, state)
        return self.store.save(stored, best.get("step"), best.get("value"))

    def _restore(self, stored: Stored) -> None:
        state = dict(stored.state)
        before = state.pop("config")
        if self.free_precision:
            self.config = replace(self.config, precision=before["precision"])
        self.config.check_resumes(before, stored.step)
        self.objective.load_state_dict(stored.tensors["model"])
        load_optimizer_tensors(self.optimizer, self.parameters, stored.tensors["optimizer"])
        self.progress, self.saved = Progress(**state), stored.step
        if self.average is not None:
            for name, tensor in stored.tensors["ema"].items():
                self.average.tensors[name].copy_(tensor)
            self.average.updates = self.progress.ema_updates
        if self.store is not None and (self.progress.best or {}).get("step") not in self.store.steps():
            self.progress.best = None

    def _halt_if(self, signal: str | None) -> None:
        now = self.progress
        if signal is None or self.store is None or now.step >= self.config.steps:
            return
        saved = self.store.folder(now.step)
        if self.saved != now.step:
            self._save()
        raise StoppedResumable(
            f'stopped by {signal} after step {now.step} of {self.config.steps}; saved as "{saved}"',
            'continue with resume="auto" (on the command line: the same command with --resume auto)',
        )

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        self.objective.train(False)
        try:
            with self.average.swapped() if self.average is not None else nullcontext():
                yield
        finally:
            self.objective.train(True)


def _device(parameters: dict[str, torch.nn.Parameter], wanted: str | None) -> torch.device:
    found = next(iter(parameters.values())).device
    if wanted is not None and torch.device(wanted).type != found.type:
        raise UsageError(f'device = "{wanted}", but the parameters are on "{found}"', "move them with .to()")
    return found
