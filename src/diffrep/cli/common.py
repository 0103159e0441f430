"""What every command does around its work: print its settings, plan, start a run folder, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrep.cli.configs import Config
from diffrep.cli.options import WORDS, Options
from diffrep.cli.reporter import Reporter
from diffrep.errors import InputError, UsageError

if TYPE_CHECKING:
    from diffrep.data import Splits
    from diffrep.denoiser import Denoiser
    from diffrep.experiments.document import Outcome
    from diffrep.runs import RunFolder

MAY_CHANGE = (
    "steps",
    "output_dir",
    "device",
    "batch_size",
    "checkpoint_every",
    "keep_last",
    "log_every",
    "preview_every",
)
"""Settings that may differ when a run is resumed; the training loop refuses what would change its result."""


@dataclass
class Session:
    """One call of a command that computes.

    Args:
        config: its settings.
        options: what belongs to this call.
        reporter: where progress goes.
        folder: the run folder's path.
        report: what else report.json holds.
    """

    config: Any
    options: Options
    reporter: Reporter
    folder: Path
    report: dict[str, Any] = field(default_factory=dict)
    run: RunFolder | None = None

    @property
    def resumes(self) -> bool:
        """Whether an earlier run in the folder may be continued."""
        return self.options.resume == "auto"

    @cached_property
    def device(self) -> str:
        """The device to work on; `auto` is a GPU where there is one.

        Errors:
            UsageError: a device that is not there.
        """
        import torch

        from diffrep.formats.loading import check_device

        name: str = self.config.device
        if name == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        check_device(name)
        return name

    def start(self) -> RunFolder:
        """Write the beginnings of the run folder. Called when all input has been looked at, so that nothing is lost."""
        from diffrep.runs import RunFolder

        self.run = RunFolder(self.folder)
        return self.run.start(
            self.config.plain(), command(), self.options.overwrite, self.resumes, may_change=MAY_CHANGE
        )

    def wrote(self, *paths: Path | str) -> None:
        """Remember files of this run, so that a later --overwrite may remove them, and name them."""
        if self.run is not None:
            self.run.record(*paths)
        for path in paths:
            self.reporter.say(f"wrote {self.folder / path}")

    def take(self, outcome: Outcome, title: str) -> dict[str, Any]:
        """Keep an experiment's sections and arrays for the report, and return its numbers."""
        outcome.write_arrays(self.folder)
        self.wrote("arrays.npz")
        self.report |= {"title": title, **outcome.about, "sections": outcome.sections}
        return outcome.results

    def show(self, text: str) -> None:
        """Print a line of the result, where no JSON is wanted."""
        if not self.options.json:
            print(text)

    def denoiser(self, source: str) -> Denoiser:
        """Load a denoiser, or the frozen base of an autoencoder, onto the device."""
        model = self.model(source)
        base: Denoiser = getattr(model, "denoiser", model)
        return base

    def labelled(self, denoiser: Denoiser) -> Any:  # noqa: ANN401 (a denoiser, or a wrapper around it)
        """The denoiser with the label of --label, if there is one.

        Errors:
            UsageError: the model has no such class.
        """
        from diffrep.guidance import conditioned

        label = self.config.label
        if label is None:
            return denoiser
        classes = denoiser.labels.num_classes if denoiser.labels else 0
        if not classes:
            raise UsageError(f"--label {label}, but the model has no classes", "leave --label out")
        if label != "none" and label >= classes:
            raise UsageError(f"--label {label} is no class of the model", f"expected 0 to {classes - 1}")
        return conditioned(denoiser, label)

    def autoencoder(self, source: str) -> Any:  # noqa: ANN401 (the Autoencoder protocol, either class)
        """Load an autoencoder onto the device.

        Errors:
            UsageError: the model is a plain denoiser.
        """
        model = self.model(source)
        if not hasattr(model, "encode"):
            raise UsageError(
                f'"{source}" is a denoiser without an encoder', f"train one: diffrep autoencode {source} DATA -o OUT"
            )
        return model

    def model(self, source: str) -> Any:  # noqa: ANN401 (a Denoiser or an Autoencoder)
        """Load a model onto the device."""
        from diffrep.formats import load

        return load(
            source, device=self.device, architecture=architecture_in(getattr(self.config, "architecture", None))
        )

    def images(self, input: Any) -> Splits:  # noqa: ANN401 (an InputSpec; imported late)
        """Open the command's images in a model's size and channels, and say so.

        Errors:
            UsageError: the model takes latents.
        """
        from diffrep import data

        if input.latent:
            raise UsageError(
                "this model takes latents, not images",
                "encode images with its VAE, and use it in Python (docs/formats.md)",
            )
        config, low_high = self.config, " to ".join(f"{v:g}" for v in input.range)
        self.reporter.say(
            f"images are brought to what the model takes: {input.size}x{input.size} pixels (resized, centre crop), "
            f"{'grey' if input.channels == 1 else 'colour'}, values {low_high}"
        )
        splits = data.load(
            config.data,
            image_size=input.size,
            channels=input.channels,
            labels=config.labels,
            max_bad_fraction=config.max_bad_fraction,
        )
        return self.noted(splits)

    def noted(self, splits: Splits) -> Splits:
        """Say what happened while images were read."""
        for note in splits.notes:
            self.reporter.say(note)
        if splits.bad_records:
            left_out = len(splits.bad_records)
            what = "1 unreadable file was" if left_out == 1 else f"{left_out} unreadable files were"
            self.reporter.say(f"{what} left out (bad_records.jsonl)")
        return splits

    def bad_records(self, splits: Splits) -> None:
        """Write bad_records.jsonl, also when it is empty."""
        from diffrep.data import write_bad_records

        write_bad_records(self.folder / "bad_records.jsonl", splits.bad_records)


def architecture_in(file: Path | None) -> dict[str, Any] | None:
    """The facts in a JSON file of --architecture."""
    if file is None:
        return None
    from diffrep.formats.facts import read_config

    return read_config(there(file, "architecture file", "give a JSON file of constructor names and values"))


def command() -> list[str]:
    """The command line of this call."""
    return ["diffrep", *WORDS.get()]


Plan = Callable[[Any], list[str]]
Action = Callable[[Session], dict[str, Any]]


def execute(config: Config, options: Options, *, plan: Plan, work: Action, folder: Path | None = None) -> int:
    """Run a command that writes a run folder.

    Args:
        config: its settings.
        options: what belongs to this call.
        plan: the settings -> lines for `--dry-run`.
        work: does it, and returns the results: one flat JSON object.
        folder: the run folder; None is the config's `output_dir`.

    Returns:
        0.
    """
    target = _plainly(folder or Path(config.output_dir))  # type: ignore[attr-defined]
    if options.print_config:
        return _print_config(config, options)
    if options.dry_run:
        return _print_plan([*plan(config), *_about_folder(target, options)], options)
    if options.overwrite and options.resume == "auto":
        raise UsageError("--overwrite and --resume auto exclude each other", "choose one of them")
    _check_free(target, options)
    began = time.perf_counter()
    with Reporter() as reporter:
        session = Session(config, options, reporter, target)
        results = {**work(session), "output_dir": str(target)}
        results.setdefault("seconds", round(time.perf_counter() - began, 2))
        if session.run is not None:
            session.run.finish({**session.report, "commands": [command()], "results": results})
            _draw_report(session)
    return print_results(results, options.json)


def print_results(results: Mapping[str, Any], as_json: bool) -> int:
    """Print one JSON object, or its plain numbers and words line by line."""
    from diffrep.runs import plain

    if as_json:
        print(json.dumps(plain(results), allow_nan=False))
        return 0
    for name, value in results.items():
        if isinstance(value, str | int | float):
            print(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    return 0


def there(path: Path, what: str, how: str) -> Path:
    """`path` itself, if it is there.

    Errors:
        InputError: it is not.
    """
    if not path.exists():
        raise InputError(f"there is no {what} {path}", how)
    return path


def _draw_report(session: Session) -> None:
    if "sections" in session.report:
        from diffrep.reports import write_report

        session.wrote(write_report(session.folder).name)


def _print_config(config: Config, options: Options) -> int:
    import yaml

    print(json.dumps(config.plain()) if options.json else yaml.safe_dump(config.plain(), sort_keys=False), end="")
    return 0


def _print_plan(lines: list[str], options: Options) -> int:
    print(json.dumps({"dry_run": lines}) if options.json else "\n".join(lines))
    return 0


def _plainly(folder: Path) -> Path:
    """The folder without "~" and "..", which would hide that it is there already."""
    path = folder.expanduser()
    return path.resolve() if ".." in path.parts else path


def _taken(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _about_folder(folder: Path, options: Options) -> list[str]:
    if not _taken(folder):
        return [f"run folder {folder} (new): config.yaml, environment.json, metrics.jsonl, report.json"]
    if options.overwrite:
        return [f"run folder {folder}: the earlier run in it is cleared"]
    if options.resume == "auto":
        return [f"run folder {folder}: the earlier run in it goes on"]
    return [f"run folder {folder} is not empty: the command would stop without --overwrite or --resume auto"]


def _check_free(folder: Path, options: Options) -> None:
    """Refuse a folder that is taken before any work is done; `RunFolder.start` looks closer."""
    if folder.is_file():
        raise UsageError(f'"{folder}" is a file, not a folder for a run', "choose another folder")
    if _taken(folder) and not options.overwrite and options.resume == "never":
        raise UsageError(
            f'the folder "{folder}" is not empty',
            "choose another folder, or say --overwrite or --resume auto if it holds an earlier run",
        )
