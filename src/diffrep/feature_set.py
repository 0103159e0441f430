"""A set of features as a value, and as a Parquet file that every tool reads.

One row per image: id, path, split, label and one fixed-size float vector per feature. The schema's metadata hold the
protocol and the class names, so that a file says by itself what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffrep.errors import FormatError, InputError, UsageError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

FIXED_COLUMNS = ("id", "path", "split", "label")


@dataclass(repr=False)
class FeatureSet:
    """Features of the images of one split.

    Args:
        arrays: feature name -> float32 (N, D).
        labels: (N,) int64, or None.
        class_names: name of label 0, 1, ...; empty without labels.
        ids: N ids.
        split: "train", "val", "test" or another name.
        protocol: everything that the numbers depend on.
        paths: N paths or None each, where the images came from files.
    """

    arrays: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    ids: list[str]
    split: str
    protocol: dict[str, Any] = field(default_factory=dict)
    paths: list[str | None] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the features."""
        return list(self.arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self.arrays:
            raise UsageError(f'unknown feature "{name}"', nearest(name, self.arrays))
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape[1]}" for name, array in list(self.arrays.items())[:3])
        more = ", ..." if len(self.arrays) > 3 else ""
        return f"FeatureSet({self.split}, {len(self)} images, {len(self.arrays)} features: {shapes}{more})"

    def save(self, path: Path | str) -> Path:
        """Write one Parquet file, atomically; `FeatureSet.load` reads it back equal."""
        return write_parquet(Path(path), [self])

    @classmethod
    def load(cls, path: Path | str, split: str | None = None) -> FeatureSet:
        """Read one split of a Parquet file; the split may be left out where the file has only one.

        Errors:
            InputError: no such file or split. FormatError: not a file that diffrep wrote.
        """
        sets = read_parquet(Path(path))
        if split is None and len(sets) == 1:
            return next(iter(sets.values()))
        if split not in sets:
            raise InputError(f'{path} has no split "{split}"', f"it has {', '.join(sets)}")
        return sets[split]


def to_table(part: FeatureSet) -> pa.Table:
    """The rows of a feature set as an Arrow table, without metadata."""
    import pyarrow as pa

    n = len(part)
    labels = [None] * n if part.labels is None else part.labels.tolist()
    labels = [None if label is None or label < 0 else label for label in labels]
    columns: dict[str, pa.Array] = {
        "id": pa.array(part.ids, pa.string()),
        "path": pa.array(part.paths or [None] * n, pa.string()),
        "split": pa.array([part.split] * n, pa.string()),
        "label": pa.array(labels, pa.int64()),
    }
    for name, array in part.arrays.items():
        flat = pa.array(np.ascontiguousarray(array, dtype=np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    return pa.table(columns)


def write_parquet(path: Path, parts: Sequence[FeatureSet]) -> Path:
    """Write feature sets, one row group each, to a temporary name and rename it."""
    from diffrep.files import atomic_path

    with atomic_path(path) as temporary:
        write_tables(temporary, (to_table(part) for part in parts), parts[0].protocol, parts[0].class_names)
    return path


def write_tables(path: Path, tables: Iterator[pa.Table], protocol: dict[str, Any], class_names: Sequence[str]) -> None:
    """Stream Arrow tables of one schema into a Parquet file, with protocol, model and class names in its metadata."""
    import pyarrow.parquet as pq

    metadata = {
        "diffrep.protocol": json.dumps(protocol),
        "diffrep.model_sha256": str(protocol.get("model", "")),
        "diffrep.class_names": json.dumps(list(class_names)),
    }
    writer = None
    try:
        for table in tables:
            table = table.replace_schema_metadata(metadata)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def read_parquet(path: Path) -> dict[str, FeatureSet]:
    """Read a Parquet file of features: one `FeatureSet` per split.

    Errors:
        InputError: no such file. FormatError: not Parquet, or not written by diffrep.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"no feature file {path}", "write one with: diffrep extract MODEL DATA --output-dir OUT")
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{path} is no readable Parquet file: {error}") from error
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if "diffrep.protocol" not in metadata:
        raise FormatError(f"{path} carries no diffrep.protocol", "it was not written by diffrep extract")
    protocol, class_names = json.loads(metadata["diffrep.protocol"]), json.loads(metadata["diffrep.class_names"])
    splits = np.asarray(table["split"].to_pylist())
    order = list(dict.fromkeys(splits.tolist()))
    return {s: _of_split(table, np.flatnonzero(splits == s), s, protocol, tuple(class_names)) for s in order}


def _of_split(
    table: pa.Table, rows: NDArray[np.int64], split: str, protocol: dict[str, Any], class_names: tuple[str, ...]
) -> FeatureSet:
    chosen = table.take(rows).combine_chunks()
    arrays = {}
    for name in chosen.column_names:
        if name in FIXED_COLUMNS:
            continue
        column = chosen[name].combine_chunks()
        column = column.chunk(0) if hasattr(column, "chunk") else column
        arrays[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1).astype(np.float32)
    raw = chosen["label"].to_pylist()
    labels = None if all(label is None for label in raw) else np.array([-1 if v is None else v for v in raw], np.int64)
    return FeatureSet(
        arrays,
        labels,
        class_names,
        chosen["id"].to_pylist(),
        split,
        {**protocol, "split": split},
        chosen["path"].to_pylist(),
    )
