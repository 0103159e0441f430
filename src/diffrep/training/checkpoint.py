"""Checkpoints: folders that are whole or absent, and proven when they are read.

checkpoints/step-000500 in a run folder holds model.safetensors (the raw weights), ema.safetensors,
optimizer.safetensors, state.json and manifest.json with the sha256 of each. index.json beside these folders
names the last and the best.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from diffrep.errors import FormatError, UsageError, nearest
from diffrep.files import atomic_folder, remove_folder, remove_temporaries, write_atomic, write_synced
from diffrep.runs import to_json

ANOTHER = "use another checkpoint of this run"

WEIGHTS = {"ema": "ema", "raw": "model"}
"""Kinds of weights and the file that holds them."""


@dataclass
class Stored:
    """The content of one checkpoint.

    Args:
        step: steps done.
        tensors: by part: "model" (raw weights), "optimizer" and, if the run keeps an average, "ema".
        state: what state.json says.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run_dir: the run folder.
        keep_last: newest checkpoints to keep, besides the best.
    """

    def __init__(self, run_dir: Path | str, keep_last: int = 2) -> None:
        self.path = Path(run_dir) / "checkpoints"
        self.keep_last = keep_last

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; not yet verified."""
        names = (p.name.removeprefix("step-") for p in self.path.glob("step-*") if p.is_dir())
        return sorted(int(name) for name in names if name.isdigit())

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / f"step-{step:06d}"

    def save(self, stored: Stored, best: int | None = None, best_value: float | None = None) -> Path:
        """Write a checkpoint, then the index, then remove checkpoints that are neither new nor best.

        Errors:
            DiffrepError: if the disk is full; earlier checkpoints are intact.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_folder(self.folder(stored.step)) as folder:
            parts = {f"{part}.safetensors": _bytes(tensors) for part, tensors in stored.tensors.items()}
            parts["state.json"] = to_json(stored.state).encode()
            for name, data in parts.items():
                write_synced(folder / name, data)
            manifest = {name: {"sha256": sha256(d).hexdigest(), "bytes": len(d)} for name, d in parts.items()}
            write_synced(folder / "manifest.json", to_json({"files": manifest}))
        index = {"last": self.folder(stored.step).name, "best": None, "best_value": best_value}
        if best is not None:
            index["best"] = self.folder(best).name
        write_atomic(self.path / "index.json", to_json(index))
        self._prune(stored.step, best)
        return self.folder(stored.step)

    def read(self, step: int) -> Stored:
        """Read and verify a checkpoint.

        Errors:
            UsageError: if there is none for this step.
            FormatError: naming the file that is missing or damaged, with both hashes.
        """
        if step not in (known := self.steps()):
            hint = nearest(str(step), map(str, known))
            raise UsageError(f'no checkpoint for step {step} in "{self.path}"', hint)
        folder = self.folder(step)
        data = {name: _verified(folder / name, digest) for name, digest in _manifest(folder).items()}
        tensors = {Path(name).stem: _tensors(d) for name, d in data.items() if name.endswith(".safetensors")}
        return Stored(step, tensors, json.loads(data["state.json"]))

    def state(self, step: int) -> dict[str, Any]:
        """What state.json of a checkpoint says, verified, without reading the tensors.

        Errors:
            FormatError: naming the file that is missing or damaged.
        """
        folder = self.folder(step)
        state: dict[str, Any] = json.loads(_verified(folder / "state.json", _manifest(folder)["state.json"]))
        return state

    def newest(self) -> Stored | None:
        """The newest checkpoint that is whole, or None if there is none at all; warns of damaged ones.

        Errors:
            FormatError: if there are checkpoints, and none is whole.
        """
        damage: FormatError | None = None
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except FormatError as error:
                damage = damage or error
                warnings.warn(f"checkpoint of step {step} is passed over: {error}", stacklevel=2)
        if damage is not None:
            raise FormatError(
                f"no checkpoint is whole: {damage.message}", "put a copy back, or start again (--overwrite)"
            ) from damage
        return None

    def best(self) -> int | None:
        """The step of the best checkpoint, or None if no validation has chosen one."""
        try:
            name = json.loads((self.path / "index.json").read_text())["best"]
            step = int(name.removeprefix("step-")) if name else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            newest = self.newest()
            step = (newest.state.get("best") or {}).get("step") if newest else None
        return step if step in self.steps() else None

    def tidy(self) -> None:
        """Remove what a killed run left half written."""
        remove_temporaries(self.path)

    def _prune(self, step: int, best: int | None) -> None:
        done = [s for s in self.steps() if s <= step]
        for old in done[: -self.keep_last]:
            if old != best:
                remove_folder(self.folder(old))


def load_checkpoint(run_dir: Path | str, which: str | int = "best", weights: str = "ema") -> dict[str, Tensor]:
    """The weights of a run's checkpoint, verified, by name.

    Args:
        run_dir: the run folder.
        which: "best" (lowest validation), "last", or a step.
        weights: "ema" (averaged) or "raw".

    Errors:
        UsageError: if the run has no such checkpoint or no such weights.
        FormatError: if a file is damaged, with both hashes.

    Example:
        >>> load_checkpoint("runs/a", "last", "raw")  # doctest: +SKIP
    """
    store = Checkpoints(run_dir)
    if weights not in WEIGHTS:
        raise UsageError(f'unknown weights "{weights}"', nearest(weights, WEIGHTS))
    stored = store.read(_step_of(store, which))
    if WEIGHTS[weights] not in stored.tensors:
        raise UsageError(f'the run in "{run_dir}" keeps no averaged weights', 'use weights="raw"')
    return stored.tensors[WEIGHTS[weights]]


def _step_of(store: Checkpoints, which: str | int) -> int:
    steps = store.steps()
    if not steps:
        raise UsageError(f'no checkpoints in "{store.path}"', "expected the folder of a training run")
    if which == "last":
        return steps[-1]
    if which == "best":
        best = store.best()
        if best is None:
            raise UsageError(f'no validation has chosen a best checkpoint in "{store.path}"', 'use "last"')
        return best
    if not str(which).isdigit():
        known = ["best", "last", *map(str, steps)]
        raise UsageError(f'unknown checkpoint "{which}"', nearest(str(which), known))
    return int(which)


def _manifest(folder: Path) -> dict[str, str]:
    path = folder / "manifest.json"
    try:
        listed = json.loads(path.read_bytes())["files"]
        files = {str(name): str(entry["sha256"]) for name, entry in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f'"{path}" is missing or damaged', ANOTHER) from error
    wanted = {"state.json", "model.safetensors", "optimizer.safetensors"}
    strange = sorted(wanted - files.keys()) + [name for name in files if Path(name).name != name]
    if strange:
        raise FormatError(f'"{path}" is damaged: it does not name "{strange[0]}"', ANOTHER)
    return files


def _verified(path: Path, expected: str) -> bytes:
    if not path.is_file():
        raise FormatError(f'"{path}" is missing', ANOTHER)
    data = path.read_bytes()
    if (found := sha256(data).hexdigest()) != expected:
        raise FormatError(
            f'"{path}" is damaged: its sha256 is {found}, the manifest says {expected}',
            ANOTHER,
        )
    return data


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})


def _tensors(data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(data)
