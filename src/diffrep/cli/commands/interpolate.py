"""`diffrep interpolate`: ways from image to image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli.commands.extract import words
from diffrep.cli.common import execute
from diffrep.cli.configs import InterpolateConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session
from diffrep.errors import UsageError, nearest

if TYPE_CHECKING:
    from diffrep.data import Dataset


def interpolate(config: Annotated[InterpolateConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Make ways from image to image: codes on a line, inverted x_T on a great circle.

    Writes OUT/interpolation.png, one way per row, and OUT/report.html.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: InterpolateConfig) -> list[str]:
    """What would be done."""
    ways = len(words(config.ids)) // 2 or config.num
    return [
        f"read {config.data} in the size of {config.model}",
        f"{ways} ways of {config.frames} pictures, {config.steps} steps each",
        f"write {config.output_dir}/interpolation.png and report.html",
    ]


def work(session: Session) -> dict[str, Any]:
    """Interpolate and write."""
    import torch

    from diffrep.data import to_input
    from diffrep.experiments.interpolate import interpolation
    from diffrep.files import write_atomic
    from diffrep.reports.images import png, tile

    config: InterpolateConfig = session.config
    model = session.autoencoder(config.model)
    view, splits = session.view(model), session.images(model, config.split)
    images = splits.split(config.split)
    pairs = pairs_of(images, words(config.ids), config.num)
    session.start()
    session.bad_records(splits)
    ends = [to_input(images.images[[p[k] for p in pairs]], model.input.range, session.device) for k in (0, 1)]
    names = [f"{images.ids[a]} to {images.ids[b]}" for a, b in pairs]
    outcome = interpolation(model, *ends, names=names, num_frames=config.frames, steps=config.steps, view=view)
    rows = torch.from_numpy(outcome.arrays["interpolation"]).flatten(0, 1).numpy()
    write_atomic(session.folder / "interpolation.png", png(tile(rows, config.frames)))
    session.wrote("interpolation.png")
    return {**session.take(outcome, "Interpolation"), "pairs": names, "frames": config.frames}


def pairs_of(images: Dataset, ids: list[str], count: int) -> list[tuple[int, int]]:
    """Rows of the images between which ways lead: those named, or of different classes, or the first ones.

    Errors:
        UsageError: an unknown id, or an odd number of them.
    """
    from diffrep.experiments.interpolate import pairs_of_classes

    if len(ids) % 2:
        raise UsageError(f"{len(ids)} ids for ways between two images", "give two ids per way")
    rows = {name: row for row, name in enumerate(images.ids)}
    for name in ids:
        if name not in rows:
            raise UsageError(f'no image has the id "{name}"', nearest(name, rows))
    if ids:
        return [(rows[a], rows[b]) for a, b in zip(ids[::2], ids[1::2], strict=True)]
    if images.labels is not None and len(images.class_names) > 1:
        return pairs_of_classes(images.labels.tolist(), count)
    return [(k, k + 1) for k in range(0, min(2 * count, len(images) - 1), 2)]
