"""`diffrep probe`: how much a small supervised model reads from features."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli.commands.extract import FILE
from diffrep.cli.common import execute
from diffrep.cli.configs import ProbeConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session
from diffrep.errors import InputError, UsageError, nearest

if TYPE_CHECKING:
    from diffrep.feature_set import FeatureSet
    from diffrep.probes import Probe

SHOWN = 8


def probe(config: Annotated[ProbeConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Choose tap and level on validation and report a probe on test.

    With --cv 5 they are chosen by folds of train and validation. The test split is used once, for the winner.
    """
    return execute(config, options, plan=plan, work=work, folder=folder_of(config))


def folder_of(config: ProbeConfig) -> Path:
    """Where the run folder goes."""
    beside = config.features.parent if config.features.suffix == ".parquet" else config.features
    return config.output_dir or beside / "probe"


def file_of(features: Path, name: str = FILE) -> Path:
    """The Parquet file that a path means: itself, or `name` in that folder."""
    return features if features.suffix == ".parquet" else features / name


def plan(config: ProbeConfig) -> list[str]:
    """What would be done."""
    how = f"{config.cv}-fold cross-validation on train and val" if config.cv else "val"
    return [
        f"read {file_of(config.features)}",
        f"fit a {config.probe} probe on every feature that matches {config.only}, choose by {how}, report on test",
        f"write {folder_of(config)}/report.json",
    ]


def work(session: Session) -> dict[str, Any]:
    """Choose, test, and stand the commonest class beside it."""
    from diffrep.feature_set import read_parquet
    from diffrep.probes import few_shot, select

    config: ProbeConfig = session.config
    sets = read_parquet(file_of(config.features))
    train, test = (_split(sets, name, config.features) for name in ("train", "test"))
    names = [name for name in train.names if fnmatchcase(name, config.only)]
    if not names:
        raise UsageError(f'no feature matches "{config.only}"', nearest(config.only, train.names))
    session.start()
    kind, progress = make(config), session.reporter.counter("probing")
    chosen = select(kind, train, sets.get("val"), test, cv=config.cv, names=names, seed=config.seed, progress=progress)
    table = sorted(chosen.table, key=lambda row: -row["validation"])
    results: dict[str, Any] = {
        "feature": chosen.name,
        "accuracy": chosen.score,
        "interval": chosen.interval,
        "validation": chosen.validation,
        "commonest_class": commonest(train, test),
    }
    if config.per_class:
        few = few_shot(kind, train, test, chosen.name, per_class=config.per_class, draws=config.draws, seed=config.seed)
        results |= {
            "few_labels_accuracy": few.mean,
            "few_labels_std": few.std,
            "per_class": config.per_class,
        }
    session.report["selection"] = chosen.record()
    for row in table[:SHOWN]:
        session.show(f"{row['validation']:.4f} on validation  {row['name']}")
    return {**results, "table": table}


def make(config: ProbeConfig) -> Probe:
    """The unfitted probe that the settings describe."""
    from diffrep.probes import KNNProbe, LinearProbe, RidgeProbe

    if config.probe == "linear":
        return LinearProbe(c=config.c)
    if config.probe == "knn":
        return KNNProbe(k=config.k)
    return RidgeProbe(l2="cv" if config.l2 is None else config.l2, seed=config.seed)


def commonest(train: FeatureSet, test: FeatureSet) -> float:
    """Control: accuracy on test of always saying the class that is commonest in train."""
    import numpy as np

    if train.labels is None or test.labels is None:
        raise InputError("these images have no labels, so nothing can be probed", "extract from labelled images")
    values, counts = np.unique(train.labels, return_counts=True)
    return float((test.labels == values[counts.argmax()]).mean())


def _split(sets: dict[str, FeatureSet], name: str, source: Path) -> FeatureSet:
    if name not in sets:
        raise InputError(f'{source} has no split "{name}" (it has {", ".join(sets)})', "extract all splits")
    return sets[name]
