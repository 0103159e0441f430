"""Labels from a CSV file: a header, a column of paths and a column of labels; perhaps a column `split`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from diffrep.data.splitting import SPLIT_NAMES
from diffrep.errors import InputError, nearest

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "name")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "y")


class Row(NamedTuple):
    """The label of a file, and the split it is said to belong to (None: not said)."""

    label: str
    split: str | None


@dataclass(frozen=True)
class LabelFile:
    """The rows of a label file by POSIX path, as they are written there, "./" apart."""

    path: Path
    rows: dict[str, Row]

    def match(self, ids: Sequence[str]) -> dict[str, str]:
        """Image id -> the row that means it: by its path, its path below its split's folder, or its bare name.

        Errors:
            InputError: if a row means two images.
        """
        exact = {id: id for id in ids if id in self.rows}
        owner = {row: id for id, row in exact.items()}
        for id in ids:
            parts = PurePosixPath(id).parts
            below = "/".join(parts[1:]) if parts[0].lower() in SPLIT_NAMES else ""
            row = next((name for name in (below, parts[-1]) if name in self.rows and name not in exact), None)
            if id in exact or row is None:
                continue
            if row in owner:
                raise InputError(f"{row} in {self.path} means both {owner[row]} and {id}", "write whole paths there")
            owner[row] = id
        return {id: row for row, id in owner.items()}


def read_label_file(path: Path) -> LabelFile:
    """Read a label file: UTF-8; commas, semicolons or tabs.

    The column of paths is called path, file, filename or image, that of labels label, class, category or target; with
    two columns the other one is the labels. A column `split` of train, val and test is used where there is one.

    Errors:
        InputError: no such file; no header; a column that is missing; two labels for a path.
    """
    lines = _lines(path)
    header, table = [cell.strip().lower() for cell in lines[0]], lines[1:]
    path_at = _column(path, header, PATH_COLUMNS, "path")
    rest = [i for i in range(len(header)) if i != path_at]
    label_at = rest[0] if len(header) == 2 else _column(path, header, LABEL_COLUMNS, "label")
    split_at = header.index("split") if "split" in header else None
    rows: dict[str, Row] = {}
    for number, cells in enumerate(table, start=2):
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number}: {len(cells)} cells under {len(header)} columns", "mend the line")
        name = str(PurePosixPath(cells[path_at].strip().replace("\\", "/")))
        row = Row(cells[label_at].strip(), _split(path, number, cells[split_at]) if split_at is not None else None)
        if not row.label:
            raise InputError(f"{path}, line {number}: no label for {name}", "give one, or remove the line")
        if rows.setdefault(name, row) != row:
            raise InputError(f"{path}, line {number}: {name} is {row.label}, and {rows[name].label} above", "keep one")
    return LabelFile(path, rows)


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"cannot read the labels in {path}: {why}", "give a CSV file in UTF-8") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [cells for cells in csv.reader(text.splitlines(), delimiter=delimiter) if any(map(str.strip, cells))]
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file: {error}", "give a header and one line per image") from error
    if len(lines) < 2:
        raise InputError(f"{path} holds no labels", "give a header such as path,label and one line per image")
    return lines


def _column(path: Path, header: list[str], names: Iterable[str], what: str) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    hint = f"{nearest(what, header)}; rename one to {what}"
    raise InputError(f"{path} has no {what} column; its first line is {','.join(header)[:200]}", hint)


def _split(path: Path, number: int, value: str) -> str:
    name = value.strip().lower()
    if name not in SPLIT_NAMES:
        raise InputError(f"{path}, line {number}: the split is {value!r}", nearest(name, SPLIT_NAMES))
    return SPLIT_NAMES[name]
