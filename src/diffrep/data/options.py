"""What `load` was asked for, as every source gets it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The arguments of `diffrep.data.load`, which says what each means."""

    source: str
    image_size: int | None = None
    channels: int | None = None
    max_bad_fraction: float = 0.01
    labels: Path | None = None
    cache: Path | None = None
    seed: int = 0
    workers: int | None = None
