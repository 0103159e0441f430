"""One run folder in, one self-contained HTML file out.

Reads report.json, arrays.npz, metrics.jsonl, environment.json and config.yaml, whichever are there.
Computes no result: a number that is not in the folder is not in the report. The file makes no request:
images are data: addresses, the style is inline, and there is no script.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrep.errors import FormatError, InputError
from diffrep.experiments.document import ARRAYS_FILE
from diffrep.files import write_atomic
from diffrep.reports import images, svg
from diffrep.runs import Metrics, all_without_home

REPORT_NAME = "report.html"
HIDDEN = (
    "sections",
    "results",
    "title",
    "summary",
    "kind",
    "seconds",
    "seeds",
    "commands",
    "command",
    "notes",
    "protocol",
)


def write_report(run_folder: str | Path) -> Path:
    """Draw the report of a finished run and return the path of `report.html` inside the folder.

    The file is written under a temporary name and renamed, so that a reader never sees half of it.

    Args:
        run_folder: a folder with at least report.json.

    Errors:
        InputError: if there is no report.json.
        FormatError: if a file in the folder cannot be read.
    """
    folder = Path(run_folder)
    return write_atomic(folder / REPORT_NAME, render(folder))


def render(folder: Path) -> str:
    """The HTML of a run folder's report, without writing it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    report = read_json(folder / "report.json")
    if report is None:
        raise InputError(f"{folder} holds no report.json", "give the folder of a finished run")
    environment = Environment(
        loader=PackageLoader("diffrep.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**page(folder, report))


def page(folder: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows, drawn from the folder's files."""
    arrays = _arrays(folder)
    kind = str(report.get("kind") or folder.name)
    sections = [_section(section, arrays) for section in report.get("sections", [])]
    training = _training(folder / "metrics.jsonl")
    if training:
        sections.append(training)
    sections.append(_results(report))
    kept = [{**s, "anchor": f"s{k}"} for k, s in enumerate(sections) if s["blocks"] or s["text"]]
    return {
        "kind": kind,
        "title": str(report.get("title") or f"diffrep {kind}"),
        "summary": str(report.get("summary", "")),
        "sections": kept,
        "making": list(_making(folder, report)),
        "commands": _commands(folder, report),
        "notes": [str(note) for note in report.get("notes", [])],
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file.

    Errors:
        FormatError: if the file is not a JSON object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path} is not JSON: {error}", "run the command again") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds a {type(content).__name__}", "expected a JSON object")
    return content


def _arrays(folder: Path) -> dict[str, NDArray[Any]]:
    path = folder / ARRAYS_FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"{path} cannot be read: {error}", "run the command again") from error


def _section(section: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    blocks = [drawn for block in section["blocks"] if (drawn := _block(block, arrays)) is not None]
    return {"title": section["title"], "text": section.get("text", ""), "blocks": blocks}


def _block(block: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
    """Add what the template cannot make: pictures, curves, colours. A strip without its array is left out."""
    drawn = dict(block)
    if block["type"] == "strip":
        array = arrays.get(block["array"])
        if array is None:
            return None
        drawn["pictures"] = images.strip_rows(array, block["rows"], block["columns"])
    elif block["type"] == "curves":
        drawn["svg"] = svg.curves(drawn)
        return drawn if drawn["svg"] else None
    elif block["type"] == "heat_map":
        drawn["shades"] = _shades(block["values"])
    elif block["type"] == "comparison":
        most = max((item["value"] for item in block["items"]), default=0.0) or 1.0
        drawn["items"] = [{**item, "width": 100 * max(item["value"], 0) / most} for item in block["items"]]
    return drawn


def _shades(values: list[list[float | None]]) -> list[list[int | None]]:
    """Percent of colour per cell; steeper at the top, where the cells that matter lie close together."""
    known = [v for line in values for v in line if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = (high - low) or 1.0
    return [[None if v is None else round(100 * ((v - low) / span) ** 4) for v in line] for line in values]


def _training(path: Path) -> dict[str, Any] | None:
    """Loss curves of every stage that metrics.jsonl speaks of."""
    stages: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for record in Metrics(path).read():
        if "step" not in record:
            continue
        stage = stages.setdefault(str(record.get("stage", "training")), {})
        for name in ("loss", "validation"):
            if isinstance(record.get(name), int | float):
                x, y = stage.setdefault(name, ([], []))
                x.append(float(record["step"]))
                y.append(float(record[name]))
    blocks = [_loss_block(stage, lines) for stage, lines in stages.items()]
    drawn = [block for block in blocks if block["svg"]]
    return {"title": "Loss curves", "text": "", "blocks": drawn} if drawn else None


def _loss_block(stage: str, lines: Mapping[str, tuple[list[float], list[float]]]) -> dict[str, Any]:
    series = [{"name": name, "x": x, "y": y} for name, (x, y) in lines.items()]
    last = "; ".join(f"{s['name']} {s['y'][-1]:.4g} at step {s['x'][-1]:.0f}" for s in series)
    block = {
        "type": "curves",
        "series": series,
        "x_label": "step",
        "y_label": "loss",
        "log_y": False,
        "alt": f"Loss of {stage} by step; at the end: {last}",
        "caption": f"{stage.capitalize()} ({last}). Neighbouring steps are averaged.",
    }
    return {**block, "svg": svg.curves(block)}


def _results(report: Mapping[str, Any]) -> dict[str, Any]:
    """Every number of the run, as a folded list."""
    results = report.get("results") or {k: v for k, v in report.items() if k not in HIDDEN}
    pairs = [(name, _written(value)) for name, value in results.items() if not isinstance(value, dict | list)]
    return {
        "title": "All numbers",
        "text": "",
        "blocks": [{"type": "pairs", "pairs": pairs}] if pairs else [],
    }


def _making(folder: Path, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Small tables of how the run was made: timings, seeds, protocol, versions, configuration."""
    yield from _pairs("Seconds", report.get("seconds"), ".1f")
    yield from _pairs("Processor seconds", report.get("processor_seconds"), ".1f")
    yield from _pairs("Seeds", report.get("seeds"))
    yield from _pairs("Protocol", report.get("protocol"))
    yield from _pairs("Environment", read_json(folder / "environment.json"))
    yield from _pairs("Configuration", _config(folder / "config.yaml"))


def _pairs(title: str, values: object, form: str = "") -> Iterator[dict[str, Any]]:
    if isinstance(values, Mapping) and values:
        flat = list(_flat(values))
        yield {"title": title, "pairs": [(name, _written(value, form)) for name, value in flat]}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _written(value: object, form: str = "") -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return format(value, form or ".5g")
    if isinstance(value, list):
        return ", ".join(_written(v, form) for v in value)
    return str(value)


def _config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise FormatError(f"{path} is not YAML: {error}", "run the command again") from error
    return all_without_home(content) if isinstance(content, dict) else None


def _commands(folder: Path, report: Mapping[str, Any]) -> list[str]:
    """The exact commands: what the report says, else what the environment recorded."""
    commands = report.get("commands") or []
    if not commands:
        recorded = report.get("command") or (read_json(folder / "environment.json") or {}).get("command")
        commands = [recorded] if recorded else []
    return [shlex.join(map(str, c)) if isinstance(c, list) else str(c) for c in commands]
