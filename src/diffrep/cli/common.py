"""What every command does around its work: print its settings, plan, start a run folder, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffrep.cli.configs import Config
from diffrep.cli.options import Options
from diffrep.cli.reporter import Reporter
from diffrep.cli.session import Session, command
from diffrep.errors import UsageError

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
