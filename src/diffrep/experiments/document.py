"""What an experiment says in its report: sections of blocks, as plain JSON.

An experiment decides what is shown, beside which control and who wins; `diffrep.reports` only draws it.
A block is a dictionary with a "type": "text", "comparison", "table", "heat_map", "curves" or "strip".
Large arrays (the images of a strip) stay in the run folder's `arrays.npz` and are named by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffrep.files import atomic_path

Block = dict[str, Any]
ARRAYS_FILE = "arrays.npz"


@dataclass(frozen=True)
class Column:
    """A column of numbers: name, number format, and which direction is better ("lower", "higher" or "")."""

    name: str
    format: str = ".4f"
    better: str = ""


@dataclass(frozen=True)
class Row:
    """A row of numbers; a control names the result that it stands `against`, and is marked where it wins."""

    name: str
    values: Sequence[float | None]
    against: str = ""
    note: str = ""


@dataclass
class Outcome:
    """What an experiment returns: flat results, sections for the report, and arrays for its figures.

    Attributes:
        results: numbers and names, JSON-able; the object that `--json` prints.
        sections: made by `section`, in reading order.
        arrays: named arrays that the sections speak of; strips are uint8 (rows, columns, H, W, C).
        about: what else stands in report.json: title, summary, seconds, seeds, commands, protocol.
        models: trained models by name, for the caller to use or save.
    """

    results: dict[str, Any] = field(default_factory=dict)
    sections: list[Block] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """The content of report.json."""
        return {**self.about, "results": self.results, "sections": self.sections}

    def write_arrays(self, folder: str | Path) -> Path:
        """Write `arrays.npz` into a run folder, atomically, and return its path."""
        with atomic_path(Path(folder) / ARRAYS_FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **self.arrays)  # type: ignore[arg-type]
        return Path(folder) / ARRAYS_FILE


def section(title: str, *blocks: Block, text: str = "") -> Block:
    """One section of a report: a title, a paragraph and its blocks."""
    return {"title": title, "text": text, "blocks": [block for block in blocks if block]}


def text(words: str) -> Block:
    """A paragraph."""
    return {"type": "text", "text": words}


def comparison(
    title: str, items: Iterable[tuple[str, float]], *, better: str, format: str = ".4f", note: str = ""
) -> Block:
    """A result (first) beside its controls, drawn as bars; whoever beats the result is marked.

    Args:
        title: what is measured, with its unit.
        items: (name, value); the first is the result, the others are its controls.
        better: "lower" or "higher".
        format: how a value is written, for example ".1%".
        note: a sentence on how to read it.
    """
    pairs = [(name, float(value)) for name, value in items]
    result = pairs[0][1]
    drawn = [
        {
            "name": name,
            "value": value,
            "label": format_number(value, format),
            "kind": "control" if k else "result",
            "mark": _mark(value, result, better) if k else "",
        }
        for k, (name, value) in enumerate(pairs)
    ]
    return {"type": "comparison", "title": title, "better": better, "items": drawn, "note": note}


def table(columns: Sequence[Column], rows: Sequence[Row], *, caption: str = "", first: str = "") -> Block:
    """A table of numbers; a control's cell is marked where it wins or ties against its result.

    Args:
        columns: names, formats and directions.
        rows: results and controls; `Row.against` is the name of another row.
        caption: a sentence above the table.
        first: heading of the column of names.
    """
    by_name = {row.name: row for row in rows}
    drawn = []
    for row in rows:
        rival = by_name[row.against].values if row.against else [None] * len(columns)
        cells = [_cell(*parts) for parts in zip(row.values, rival, columns, strict=True)]
        drawn.append(
            {
                "name": row.name,
                "note": row.note,
                "kind": "control" if row.against else "result",
                "cells": cells,
            }
        )
    heads = [{"name": column.name, "better": column.better} for column in columns]
    return {"type": "table", "caption": caption, "first": first, "columns": heads, "rows": drawn}


def _cell(value: float | None, rival: float | None, column: Column) -> Block:
    if value is None:
        return {"value": None, "label": "", "mark": ""}
    mark = "" if rival is None else _mark(float(value), float(rival), column.better)
    return {"value": float(value), "label": format_number(value, column.format), "mark": mark}


def _mark(value: float, rival: float, better: str) -> str:
    if not better:
        return ""
    if value == rival:
        return "ties"
    return "wins" if (value < rival) == (better == "lower") else ""


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_title: str,
    column_title: str,
    format: str = ".1%",
    chosen: tuple[int, int] | None = None,
    caption: str = "",
) -> Block:
    """A table of cells coloured by value; `chosen` (row, column) is outlined."""
    labels = [["" if v is None else format_number(v, format) for v in line] for line in values]
    return {
        "type": "heat_map",
        "values": [[None if v is None else float(v) for v in line] for line in values],
        "labels": labels,
        "rows": list(rows),
        "columns": list(columns),
        "row_title": row_title,
        "column_title": column_title,
        "chosen": list(chosen) if chosen else None,
        "caption": caption,
    }


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    log_y: bool = False,
    caption: str = "",
) -> Block:
    """Lines over a common axis: name -> (x, y)."""
    drawn = [{"name": name, "x": [float(v) for v in x], "y": [float(v) for v in y]} for name, (x, y) in series.items()]
    return {
        "type": "curves",
        "series": drawn,
        "x_label": x_label,
        "y_label": y_label,
        "log_y": log_y,
        "alt": alt,
        "caption": caption,
    }


def strip(array: str, rows: Sequence[str], *, columns: Sequence[str] = (), caption: str = "") -> Block:
    """Rows of images: `array` names a uint8 array (rows, columns, H, W, C) in `arrays.npz`.

    Args:
        array: key in the run folder's arrays.
        rows: one label per row; empty labels make a plain grid.
        columns: one label per column, or none.
        caption: a sentence above the images, also used as their description.
    """
    return {"type": "strip", "array": array, "rows": list(rows), "columns": list(columns), "caption": caption}


def format_number(value: float, form: str) -> str:
    """Write a number; 0.911 with ".1%" is "91.1 %", and what ".4f" would round to one digit or none is "2.8e-05".

    Example:
        >>> format_number(0.911, ".1%"), format_number(0.2971, ".4f"), format_number(2.8e-05, ".4f")
        ('91.1 %', '0.2971', '2.8e-05')
    """
    number = float(value)
    written = format(number, form)
    if written.endswith("%"):
        return written[:-1] + " %"
    digits = written.lstrip("-0.").replace(".", "")
    wanted = int(form[1:-1]) - 2 if form.endswith("f") else 0
    return f"{number:.1e}" if len(digits) < wanted and number else written
