"""From a data set to features: streamed in parts, resumable, cached by everything that the numbers depend on.

A part is a few thousand images, written under its own name when it is complete; what is missing after a crash is
computed when the same work is asked for again, and nothing else. `extract` keeps its parts in the cache and returns a
`FeatureSet`; `extract_to` writes one Parquet file with all splits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffrep.data import Dataset, conform, to_input
from diffrep.errors import UsageError
from diffrep.feature_set import FeatureSet, read_parquet, to_table, write_parquet, write_tables
from diffrep.files import atomic_path, remove_temporaries
from diffrep.tap_features import TapFeatures

if TYPE_CHECKING:
    import pyarrow as pa

PART = 4096
"""Images per part: the unit of resuming and of memory."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def extract(
    features: TapFeatures,
    dataset: Dataset,
    *,
    batch_size: int = 256,
    cache: bool | Path | str = True,
    progress: Progress | None = None,
) -> FeatureSet:
    """Compute the features of a data set, or read them from the cache.

    Args:
        features: what to compute.
        dataset: images; resized, cropped and converted to the model's input where they differ.
        batch_size: images per pass; changes speed, not results.
        cache: True for $DIFFREP_CACHE (default: the user's cache folder), a folder, or False to keep nothing.
        progress: called with (done, total) after each batch.

    Errors:
        InputError: an empty data set, or images that do not fit the model. UsageError: no single data set.

    Example:
        >>> train = extract(features, data["train"])      # doctest: +SKIP
    """
    if not isinstance(dataset, Dataset):
        raise UsageError(f"a {type(dataset).__name__} is no data set", 'give one split, such as data["train"]')
    fitted = conform(dataset, features.base.input)
    protocol = protocol_of(features, fitted)
    if cache is False:
        return _join(list(_parts(features, fitted, batch_size, progress)), protocol)
    folder = (cache_folder() if cache is True else Path(cache)) / "features" / _key(protocol)
    files = list(_stored(features, fitted, folder, batch_size, progress))
    return _join([read_parquet(file)[fitted.split] for file in files], protocol)


def extract_to(
    features: TapFeatures,
    splits: Mapping[str, Dataset],
    path: Path | str,
    *,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Path:
    """Write the features of several splits to one Parquet file, a row group per part.

    Finished parts lie in `<path>.parts/` until the file is complete, so that the same call after a crash goes on
    where it stopped; parts of other features or other data are never mixed in.

    Returns:
        `path`.
    """
    target = Path(path)
    work = target.with_name(target.name + ".parts")
    fitted = {name: conform(d, features.base.input) for name, d in splits.items()}
    total = sum(len(d) for d in fitted.values())
    files: list[Path] = []
    done = 0
    for dataset in fitted.values():
        folder = work / _key(protocol_of(features, dataset))
        files += _stored(features, dataset, folder, batch_size, _shifted(progress, done, total))
        done += len(dataset)
    first = next(iter(fitted.values()))
    protocol = {
        **protocol_of(features, first),
        "split": list(fitted),
        "data_revision": {k: d.revision for k, d in fitted.items()},
        "images": {k: len(d) for k, d in fitted.items()},
    }
    with atomic_path(target) as temporary:
        write_tables(temporary, map(_table, files), protocol, first.class_names)
    shutil.rmtree(work, ignore_errors=True)
    return target


def protocol_of(features: TapFeatures, dataset: Dataset) -> dict[str, Any]:
    """Everything that the features of a data set depend on; also the key of the cache."""
    data = {
        "data": dataset.source,
        "data_revision": dataset.revision,
        "split": dataset.split,
        "transform": dataset.transform,
    }
    return {**features.protocol(), **data, "images": len(dataset)}


def cache_folder() -> Path:
    """$DIFFREP_CACHE, or `diffrep` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffrep"
    return Path(os.environ.get("DIFFREP_CACHE") or default)


def _key(protocol: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(protocol, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _stored(
    features: TapFeatures, dataset: Dataset, folder: Path, batch_size: int, progress: Progress | None
) -> Iterator[Path]:
    remove_temporaries(folder)
    for start in range(0, len(dataset), PART):
        path = folder / f"part-{start:09d}.parquet"
        part = dataset.subset(np.arange(start, min(start + PART, len(dataset))))
        if not path.exists():
            inner = _shifted(progress, start, len(dataset))
            write_parquet(
                path, [_join(list(_parts(features, part, batch_size, inner)), protocol_of(features, dataset))]
            )
        elif progress:
            progress(start + len(part), len(dataset))
        yield path


def _parts(features: TapFeatures, dataset: Dataset, batch_size: int, progress: Progress | None) -> Iterator[FeatureSet]:
    device, spec = features.base.device, features.base.input
    for start in range(0, len(dataset), batch_size):
        rows = slice(start, min(start + batch_size, len(dataset)))
        ids = dataset.ids[rows]
        x0 = to_input(dataset.images[rows], spec.range, device)
        arrays = {name: value.cpu().numpy() for name, value in features(x0, ids=ids).items()}
        labels = None if dataset.labels is None else np.asarray(dataset.labels[rows], np.int64)
        yield FeatureSet(
            arrays, labels, tuple(dataset.class_names), list(ids), dataset.split, {}, list(dataset.paths[rows])
        )
        if progress:
            progress(rows.stop, len(dataset))


def _join(parts: list[FeatureSet], protocol: dict[str, Any]) -> FeatureSet:
    first = parts[0]
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in first.names}
    labels = None if first.labels is None else np.concatenate([p.labels for p in parts if p.labels is not None])
    ids = [i for part in parts for i in part.ids]
    paths = [p for part in parts for p in (part.paths or [None] * len(part))]
    return FeatureSet(arrays, labels, first.class_names, ids, first.split, protocol, paths)


def _table(path: Path) -> pa.Table:
    return to_table(next(iter(read_parquet(path).values())))


def _shifted(progress: Progress | None, offset: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(offset + done, total)
