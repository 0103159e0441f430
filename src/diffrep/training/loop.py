"""The training loop: a generator that the caller iterates, and that can be stopped and resumed at any step.

`for report in train(objective, loader, config)`: one report per optimizer step. Everything random in a step
has the step's address, and everything else is in the checkpoint, so a resumed run is the unbroken one bit by bit
(on the same machine and number of threads). The loop prints nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrep.errors import DiffrepError, StoppedResumable, UsageError
from diffrep.randomness import Draw, seed_of
from diffrep.runs import Metrics
from diffrep.training.checkpoint import Checkpoints, Stored
from diffrep.training.config import TrainConfig
from diffrep.training.ema import Average
from diffrep.training.objective import Objective, parameter_names, split, to_device
from diffrep.training.optimizer import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors
from diffrep.training.signals import StopRequest


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
        averaged: `with report.averaged():` holds the averaged weights (if any), in evaluation mode, inside the block.
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
    """What a run knows about itself beyond tensors; part of every checkpoint."""

    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    ema_updates: int = 0
    best: dict[str, Any] | None = None
    loss_sum: float = 0.0
    loss_count: int = 0


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

    When the iteration ends, the objective holds the averaged weights (unless `config.ema` is None). If the caller
    leaves the iteration earlier, it holds the raw ones.

    Args:
        objective: what is trained; see `Objective`.
        loader: step index from 0 -> batch; the same step gives the same batch always.
        config: all settings.
        run_dir: where checkpoints/ and metrics.jsonl go; None writes nothing.
        resume: "never", or "auto" to continue from the newest whole checkpoint in `run_dir`, if there is one.
        validate: called every `validate_every` steps and at the end with the averaged weights in place; returns
            a number of which the lowest is best. The best checkpoint is kept.

    Errors:
        UsageError: other settings than those of the run that is resumed; a folder that holds a run already.
        DiffrepError: more than `max_skipped` steps in a row without a finite loss and gradient; disk full.
        StoppedResumable: after SIGTERM or SIGINT, when the step is finished and saved (with `run_dir` only).

    Example:
        >>> for report in train(objective, loader, TrainConfig(steps=100), run_dir="runs/a"):  # doctest: +SKIP
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
            raise UsageError(f'"{folder}" holds a training run already', 'pass resume="auto", or another run_dir')
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

    def _step(self, started: float) -> TrainReport:
        now, index = self.progress, self.progress.step
        batch = to_device(self.loader(index), self.device)
        rate = learning_rate(self.config, index)
        loss, norm = self._gradients(batch, index)
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

    def _gradients(self, batch: Any, index: int) -> tuple[float, float]:  # noqa: ANN401
        """Leave the clipped gradient of the batch's mean loss in the parameters; return loss and norm."""
        n, seed = len(batch.ids), self.config.seed
        total = torch.zeros((), device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with _seeded(seed_of(seed, "global", index), self.device):
            for part in split(batch, self.config.accumulate):
                with self._autocast():
                    losses = self.objective.loss(part, Draw(seed, index, part.ids))
                _check_shape(losses, len(part.ids))
                mean = losses.float().sum() / n
                mean.backward()
                total += mean.detach()
        loss, norm = torch.stack([total, self._clip()]).tolist()
        return loss, norm

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _clip(self) -> Tensor:
        parameters = list(self.parameters.values())
        if self.config.clip_norm is not None:
            return torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

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
                f"lower the learning rate (now {self.config.learning_rate:g}), set clip_norm, use precision float32, "
                "or look for broken images",
            )

    def _validated(self) -> tuple[float | None, bool]:
        """The validation that is due after this step, and whether it is the best so far."""
        if self.validate is None or not self._due(self.config.validate_every):
            return None, False
        seed = seed_of(self.config.seed, "validate", self.progress.step)
        with self._averaged(), _seeded(seed, self.device):
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
        best = self.progress.best or {}
        self.saved = self.progress.step
        return self.store.save(Stored(self.progress.step, tensors, state), best.get("step"), best.get("value"))

    def _restore(self, stored: Stored) -> None:
        state = dict(stored.state)
        self.config.check_resumes(state.pop("config"), stored.step)
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


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Give the global generators (dropout) an address inside the block, and their state back after it."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def _device(parameters: dict[str, torch.nn.Parameter], wanted: str | None) -> torch.device:
    found = next(iter(parameters.values())).device
    if wanted is not None and torch.device(wanted).type != found.type:
        raise UsageError(f'device = "{wanted}", but the parameters are on "{found}"', f'move them: .to("{wanted}")')
    return found


def _check_shape(losses: Tensor, images: int) -> None:
    if losses.shape != (images,):
        raise UsageError(f"the objective's loss has shape {tuple(losses.shape)}", f"expected one per image: ({images},)")
