"""Run folders: everything that one command did, in one place.

A run folder holds config.yaml (replayable), environment.json (versions and machine, no names of people or
hosts), metrics.jsonl (one JSON object per line), checkpoints/ and, when the run is finished, report.json.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from diffrep.errors import FormatError, UsageError
from diffrep.files import disk_errors, remove_temporaries, write_atomic

Json = Any
"""What JSON can hold: None, bool, int, float, str, and lists and string-keyed dictionaries of these."""

MARKER = ".diffrep-run.json"
"""The file that says "diffrep made this folder", with the names that it wrote beyond `OWN`."""

OWN = ("config.yaml", "environment.json", "metrics.jsonl", "report.json", "report.html", "bad_records.jsonl")
"""Files that every run may have."""

CHECKPOINT = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
"""Files of one checkpoint folder, checkpoints/step-000500."""

MAY_CHANGE = ("steps", "device", "resume", "overwrite", "checkpoint_every", "keep_last", "log_every", "max_skipped")
"""Entries of a configuration that change no result; a resumed run may have others."""


class RunFolder:
    """One run's folder.

    Args:
        path: the folder; made by `start` when missing.

    Example:
        >>> run = RunFolder("runs/a").start({"seed": 0}, ["diffrep", "train"])  # doctest: +SKIP
        >>> run.finish({"loss": 0.1})  # doctest: +SKIP
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metrics = Metrics(self.path / "metrics.jsonl")

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with."""
        return _read_yaml(self.path / "config.yaml")

    def start(
        self,
        config: Mapping[str, Any],
        command: Sequence[str] = (),
        overwrite: bool = False,
        resume: bool = False,
        may_change: Collection[str] = MAY_CHANGE,
    ) -> RunFolder:
        """Write config.yaml, environment.json and an empty metrics.jsonl, and return this folder.

        Args:
            config: everything the run depends on; written so that it can be replayed.
            command: the words of the command line.
            overwrite: clear an earlier run first: only files that diffrep wrote, never others.
            resume: continue an earlier run; an empty folder is a new run.
            may_change: names (or last names) of entries that may differ from the earlier run's when resuming.

        Errors:
            UsageError: if the folder holds something and neither `overwrite` nor `resume` was said, if it is
                not a run folder, or if another configuration would be resumed.
        """
        wanted = plain(config)
        if self._taken():
            self._take_over(wanted, overwrite, resume, may_change)
        write_atomic(self.path / MARKER, json.dumps({"files": self._recorded()}))
        write_atomic(self.path / "config.yaml", _yaml(wanted))
        write_atomic(self.path / "environment.json", to_json(environment(command)))
        self.metrics.path.touch()
        return self

    def record(self, *paths: Path | str) -> None:
        """Remember files of this run (a folder: the files in it), so that `overwrite` may remove them."""
        names = set(self._recorded())
        for path in (self.path / p for p in paths):
            found = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
            names |= {p.relative_to(self.path).as_posix() for p in found}
        write_atomic(self.path / MARKER, json.dumps({"files": sorted(names)}))

    def finish(self, report: Mapping[str, Any]) -> Path:
        """Write report.json, completely or not at all; home folders as "~"."""
        return write_atomic(self.path / "report.json", to_json(all_without_home(plain(report))))

    def _taken(self) -> bool:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f'"{self.path}" is a file, not a folder for a run', "choose another folder")
        return self.path.is_dir() and any(self.path.iterdir())

    def _take_over(self, config: Mapping[str, Any], overwrite: bool, resume: bool, may_change: Collection[str]) -> None:
        if overwrite and resume:
            raise UsageError("both overwrite and resume were asked for", "choose one of the two")
        if not overwrite and not resume:
            raise UsageError(
                f'the folder "{self.path}" is not empty',
                "choose another folder, or say --overwrite or --resume auto if it holds an earlier run",
            )
        if not (self.path / MARKER).is_file():
            raise UsageError(
                f'the folder "{self.path}" holds files, but not a run of diffrep; it is left as it is',
                "choose an empty or new folder",
            )
        if overwrite:
            self._clear()
        elif (self.path / "config.yaml").is_file():
            _same(self.config, config, may_change)

    def _clear(self) -> None:
        root = self.path.resolve()
        steps = [p.relative_to(root) for p in (root / "checkpoints").glob("step-*")]
        files = [*OWN, *self._recorded(), MARKER, "checkpoints/index.json"]
        for file in [root / f for f in files] + [root / s / name for s in steps for name in CHECKPOINT]:
            folder = file.parent.resolve()
            if (folder == root or root in folder.parents) and (file.is_file() or file.is_symlink()):
                file.unlink()
                _remove_empty(folder, root)
        for folder in (root, root / "checkpoints"):
            if folder.is_dir() and not folder.is_symlink():
                remove_temporaries(folder)
                _remove_empty(folder, root)

    def _recorded(self) -> list[str]:
        try:
            return [str(name) for name in json.loads((self.path / MARKER).read_text())["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []


class Metrics:
    """metrics.jsonl: one JSON object per line, appended; numbers that are not finite become null.

    Args:
        path: the file; made by the first `append`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, values: Mapping[str, Any]) -> None:
        """Add a line, or nothing at all.

        Errors:
            DiffrepError: if the disk is full; the half line is taken back.
        """
        line = json.dumps(plain(values), allow_nan=False) + "\n"
        with disk_errors(self.path), open(self.path, "ab") as file:
            before = file.tell()
            try:
                file.write(line.encode())
                file.flush()
            except OSError:
                os.truncate(self.path, before)
                raise

    def read(self) -> list[dict[str, Any]]:
        """All complete lines, in order; a line torn by a crash is left out."""
        if not self.path.is_file():
            return []
        return [values for line in self.path.read_text().splitlines() if (values := _line(line)) is not None]

    def cut_after(self, step: int) -> None:
        """Remove the lines of later steps, so that a resumed run reads as an unbroken one."""
        if self.path.is_file():
            kept = [json.dumps(line) for line in self.read() if line.get("step", 0) <= step]
            write_atomic(self.path, "".join(f"{line}\n" for line in kept))

    def sync(self) -> None:
        """Force the lines to the disk."""
        with disk_errors(self.path), open(self.path, "ab") as file:
            os.fsync(file.fileno())


def environment(command: Sequence[str] = ()) -> dict[str, Any]:
    """What a result may depend on besides its configuration; no host name, and home folders as "~"."""
    import torch

    import diffrep

    names = ("torch", "numpy", "safetensors", "scikit-learn")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [without_home(word) for word in command],
        "python": platform.python_version(),
        "versions": {"diffrep": diffrep.__version__, **{name: _version(name) for name in names}},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def plain(value: object) -> Json:
    """Turn a value into what JSON and YAML can hold.

    Paths become text, tuples, arrays and tensors lists, dataclasses dictionaries, NaN and infinity None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    return str(value)


def to_json(values: Json) -> str:
    """Readable JSON text with a final newline."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"train": {"seed": 0}} becomes {"train.seed": 0}."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _same(before: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str]) -> None:
    old, new = flat(before), flat(now)
    for key in sorted(old.keys() | new.keys()):
        free = key in may_change or key.rsplit(".", 1)[-1] in may_change
        if not free and old.get(key) != new.get(key):
            raise UsageError(
                f"the run to resume was started with {key} = {old.get(key)!r}, now it is {new.get(key)!r}",
                f"use {key} = {old.get(key)!r}, or start a new run in another folder",
            )


def _line(text: str) -> dict[str, Any] | None:
    try:
        values = json.loads(text)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _remove_empty(folder: Path, root: Path) -> None:
    while root in folder.parents and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _yaml(values: Json) -> str:
    import yaml

    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FormatError(f'"{path}" is not YAML: {error}', "start a new run in another folder") from error
    if not isinstance(values, dict):
        raise FormatError(f'"{path}" holds no configuration', "expected a mapping of names to values")
    return values


def without_home(text: str) -> str:
    """The text with the home folder as "~", for files that are shown to others."""
    home = str(Path.home())
    return text if home in ("/", "") else re.sub(rf"(?<![\w/.-]){re.escape(home)}(?![\w.-])", "~", text)


def all_without_home(value: Json) -> Json:
    """The same value with the home folder as "~" in every text."""
    if isinstance(value, dict):
        return {key: all_without_home(v) for key, v in value.items()}
    if isinstance(value, list):
        return [all_without_home(v) for v in value]
    return without_home(value) if isinstance(value, str) else value


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
