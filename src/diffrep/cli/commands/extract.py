"""`diffrep extract`: feature vectors of images, as one Parquet file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli import levels
from diffrep.cli.common import execute
from diffrep.cli.configs import ExtractConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session, architecture_in
from diffrep.errors import InputError

if TYPE_CHECKING:
    from diffrep.data import Dataset, Splits

FILE = "features.parquet"


def extract(config: Annotated[ExtractConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Write one feature vector per image, tap and noise level to OUT/features.parquet.

    Columns: id, path, split, label, and one fixed-size vector of float32 per feature. Images are resized, cropped
    and converted to the model's own size, channels and range. Stopped, it goes on with --resume auto.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: ExtractConfig) -> list[str]:
    """What would be done; reads the model, not the images."""
    from diffrep.formats import load
    from diffrep.tap_features import TapFeatures

    model = load(config.model, architecture=architecture_in(config.architecture))
    denoiser = getattr(model, "denoiser", model)
    rows = None if config.levels is None else levels.parse(config.levels, denoiser.schedule)
    features = TapFeatures(denoiser, wanted_taps(config), rows, pool=config.pool)
    size = denoiser.input.size
    return [
        f"read {config.data} ({config.split or 'all splits'}) at {size}x{size}, {denoiser.input.channels} channel(s)",
        f"{len(features.names)} features: {', '.join(features.names)}",
        f"write {config.output_dir}/{FILE} and bad_records.jsonl",
    ]


def work(session: Session) -> dict[str, Any]:
    """Compute and write."""
    from diffrep.extraction import extract_to
    from diffrep.tap_features import TapFeatures

    config: ExtractConfig = session.config
    denoiser = session.denoiser(config.model)
    rows = None if config.levels is None else levels.parse(config.levels, denoiser.schedule)
    features = TapFeatures(
        session.labelled(denoiser),
        wanted_taps(config),
        rows,
        pool=config.pool,
        noise_seed=config.seed,
        precision=config.precision,
    )
    wanted = [config.split] if config.split else []
    splits = session.images(denoiser, *wanted)
    chosen = with_images(splits, config.split)
    session.start()
    session.bad_records(splits)
    progress = session.reporter.counter("extraction")
    extract_to(features, chosen, session.folder / FILE, batch_size=config.batch_size, progress=progress)
    session.wrote(FILE, "bad_records.jsonl")
    return {
        "features": features.names,
        "images": {name: len(part) for name, part in chosen.items()},
        "bad_records": len(splits.bad_records),
        "model": denoiser.identity,
        "file": str(session.folder / FILE),
    }


def wanted_taps(config: ExtractConfig) -> list[str] | None:
    """The taps of --taps; None where there are none, which is the model's own default."""
    return words(config.taps) if config.taps else None


def words(taps: tuple[str, ...]) -> list[str]:
    """Tap names, also where several stand in one word, separated by commas."""
    return [name.strip() for word in taps for name in word.split(",") if name.strip()]


def with_images(splits: Splits, wanted: str | None) -> dict[str, Dataset]:
    """The wanted split, or all that hold images.

    Errors:
        InputError: there is none.
    """
    if wanted is not None:
        return {wanted: splits.split(wanted)}
    chosen = {name: part for name, part in splits.items() if len(part)}
    if not chosen:
        raise InputError(f"{splits.source} holds no image", "give another source")
    return chosen
