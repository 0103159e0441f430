"""`load`: from a source's name to its train, val and test splits. The table of sources is `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from diffrep.data.conforming import check_transform
from diffrep.data.dataset import Splits
from diffrep.data.options import Options
from diffrep.errors import UsageError, nearest


class Source(NamedTuple):
    """A row of the table of sources: its function, as "module:function", and one line for users."""

    function: str
    description: str

    def open(self, location: str, options: Options) -> Splits:
        """Read the source at a location (what stands behind the colon)."""
        module, name = self.function.split(":")
        function = cast("Callable[[str, Options], Splits]", getattr(import_module(module), name))
        return function(location, options)


SOURCES: dict[str, Source] = {
    "digits": Source("diffrep.data.digits:load_digits", "1797 handwritten digits, 8x8 grey; part of the installation"),
    "folder": Source(
        "diffrep.data.folder:load_folder",
        "folder:PATH, image files; subfolders are classes, or labels.csv; train/val/test subfolders are splits",
    ),
    "npz": Source(
        "diffrep.data.npz:load_npz",
        "npz:PATH, a NumPy file of train_images, train_labels, test_images, test_labels (uint8 N,H,W or N,H,W,C), or "
        "train_latents, test_latents (float32 N,C,H,W)",
    ),
}


def sources() -> dict[str, str]:
    """Name -> one-line description of every source that `load` knows."""
    return {name: source.description for name, source in SOURCES.items()}


def load(
    source: str | Path,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    max_bad_fraction: float = 0.01,
    labels: str | Path | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Splits:
    """Open a source of images and return its splits; a split that it lacks is cut from train, 10 % of each class.

    Args:
        source: "digits", "folder:PATH" or "npz:PATH"; a folder or an .npz file may be given bare.
        image_size: side in pixels; the shorter side is resized to it and the centre square is kept. None keeps
            the size, which must then be the same for all images.
        channels: 1 (grey) or 3 (RGB); None is 1 if every image is stored grey, else 3.
        max_bad_fraction: share of files, 0 to 1, that may be unreadable.
        labels: a CSV file with a header, a path column and a label column, for `folder:`.
        cache: where decoded images are kept; $DIFFREP_CACHE or the user's cache folder if None.
        seed: of the splits that have to be made; `digits` has a fixed split.
        workers: processes that decode; None chooses. The result does not depend on it.

    Errors:
        UsageError: an argument that cannot be; an unknown source.
        InputError: nothing to read, or images that do not fit together.
        TooManyBadRecords: more unreadable files than allowed.

    Example:
        >>> load("digits")["train"]
        Dataset('digits', train, 1197 images of 8x8x1, 10 classes)
    """
    check_transform(image_size, channels)
    if not 0 <= max_bad_fraction <= 1:
        raise UsageError(f"max_bad_fraction is {max_bad_fraction}", "give a fraction from 0 to 1, for example 0.05")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}", "give a number >= 1")
    name, location = _parse(source)
    if labels is not None and name != "folder":
        raise UsageError(f"labels={str(labels)!r} does not go with the source {name}", "it belongs to folder:PATH")
    options = Options(
        source=str(source) if isinstance(source, str) else f"{name}:{location}",
        image_size=image_size,
        channels=channels,
        max_bad_fraction=max_bad_fraction,
        labels=None if labels is None else Path(labels).expanduser(),
        cache=None if cache is None else Path(cache).expanduser(),
        seed=seed,
        workers=workers,
    )
    return SOURCES[name].open(location, options)


def holds_latents(source: str | Path) -> bool:
    """Whether a source holds latents in the place of images; False where it cannot be told."""
    from diffrep.data import npz

    try:
        name, location = _parse(source)
    except UsageError:
        return False
    return name == "npz" and npz.holds_latents(location)


def _parse(source: str | Path) -> tuple[str, str]:
    """Split a source into its name in the table and its location."""
    text = str(source)
    name, _, location = text.partition(":")
    if isinstance(source, str) and name in SOURCES:
        return name, location
    bare = Path(text).expanduser()
    if bare.is_dir():
        return "folder", text
    if bare.suffix.lower() == ".npz" and (isinstance(source, Path) or bare.is_file()):
        return "npz", text
    if isinstance(source, Path):
        return "folder", text
    raise UsageError(f"unknown data source {text!r}", f"{nearest(name, SOURCES)}; or give an existing folder")
