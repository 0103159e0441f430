"""A network of two convolutions with dropout, 8x8 images, and a run of 24 steps; also a program to be killed.

`python training_toy.py RUN_DIR WHAT AT`: WHAT = "step" kills the process (SIGKILL) when step AT has been done,
"write" at the AT-th time that something is forced to the disk, "term" sends SIGTERM while step AT is made.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffrep.denoiser import Denoiser, InputSpec
from diffrep.errors import DiffrepError
from diffrep.randomness import Draw
from diffrep.schedules import DiscreteSchedule
from diffrep.training import DenoisingObjective, TrainConfig, train

PARTS = ("model", "ema", "optimizer")


class ToyNetwork(nn.Module):
    def __init__(self, dropout: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(2, 16, 3, padding=1)
            self.dropout = nn.Dropout(dropout)
            self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        plane = (time / 1000).reshape(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        hidden = torch.relu(self.first(torch.cat([x, plane.to(x.dtype)], 1)))
        return self.last(self.dropout(hidden))


@dataclass(frozen=True)
class ToyBatch:
    images: Tensor
    labels: Tensor | None
    ids: list[str]


def toy_objective(dropout: float = 0.1, **settings) -> DenoisingObjective:
    denoiser = Denoiser(ToyNetwork(dropout), schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8), **settings)
    return DenoisingObjective(denoiser)


def toy_loader(step: int) -> ToyBatch:
    generator = torch.Generator().manual_seed(step % 5)
    centre = torch.rand(8, 1, 1, 1, generator=generator) * 2 - 1
    return ToyBatch(centre.expand(-1, 1, 8, 8).contiguous(), None, [f"{step % 5}-{i}" for i in range(8)])


def toy_config(**changes) -> TrainConfig:
    settings = {"steps": 24, "learning_rate": 3e-3, "warmup_steps": 4, "cosine_to": 0.1, "log_every": 3}
    return TrainConfig(**{**settings, "checkpoint_every": 5, "validate_every": 7, "seed": 3, **changes})


def toy_validation(objective: DenoisingObjective):
    batch = toy_loader(100)

    def validate() -> float:
        with torch.no_grad():
            return float(objective.loss(batch, Draw(0, 0, batch.ids)).mean()) + float(torch.rand(()))

    return validate


def run_toy(run_dir: Path | None, resume: str = "auto", loader=toy_loader, objective=None, **changes):
    """Train the toy to the end; return the objective and the reports."""
    objective = objective or toy_objective()
    validate = toy_validation(objective)
    config = toy_config(**changes)
    reports = list(train(objective, loader, config, run_dir=run_dir, resume=resume, validate=validate))
    return objective, reports


def record_of(run_dir: Path) -> dict:
    """Everything that must not depend on interruptions: the last checkpoint's bytes, state and metrics."""
    last = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    state = json.loads((last / "state.json").read_text())
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for values in [state, *lines]:
        values.pop("seconds")
    index = json.loads((run_dir / "checkpoints" / "index.json").read_text())
    tensors = {part: (last / f"{part}.safetensors").read_bytes() for part in PARTS}
    return tensors | {"state": state, "lines": lines, "index": index}


def main(run_dir: str, what: str, at: int) -> None:
    torch.set_num_threads(1)
    writes, fsync = [], os.fsync

    def counted(handle: int) -> None:
        writes.append(handle)
        if what == "write" and len(writes) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    def loader(step: int) -> ToyBatch:
        if what == "term" and step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_loader(step)

    os.fsync = counted
    objective = toy_objective()
    validate = toy_validation(objective)
    for report in train(objective, loader, toy_config(), run_dir=run_dir, resume="auto", validate=validate):
        if what == "step" and report.step == at:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except DiffrepError as error:
        sys.stderr.write(str(error))
        sys.exit(error.exit_code)
