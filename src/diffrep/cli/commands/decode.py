"""`diffrep decode`: images from codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli.commands.encode import FILE, identity
from diffrep.cli.commands.probe import file_of
from diffrep.cli.common import execute
from diffrep.cli.configs import DecodeConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session, there
from diffrep.errors import FormatError

if TYPE_CHECKING:
    from torch import Tensor

    from diffrep.feature_set import FeatureSet

SHEET = 64


def decode(config: Annotated[DecodeConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Make images from the codes that `diffrep encode` wrote: OUT/images/*.png and a sheet of the first.

    Where the codes come with x_T, the images themselves are rebuilt; else x_T is drawn by (--seed, id).
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: DecodeConfig) -> list[str]:
    """What would be done."""
    return [
        f"read {file_of(config.codes, FILE)}" + (f", the first {config.num}" if config.num else ""),
        f"decode with {config.model} in {config.steps} steps",
        f"write {config.output_dir}/images/000000.png, ..., images.jsonl and decoded.png",
    ]


def work(session: Session) -> dict[str, Any]:
    """Decode and write."""
    from diffrep.feature_set import read_parquet
    from diffrep.files import write_atomic

    config: DecodeConfig = session.config
    model = session.autoencoder(config.model)
    source = there(file_of(config.codes, FILE), "file of codes", "write one with: diffrep encode MODEL DATA -o OUT")
    sets = read_parquet(source)
    _check(sets, model, config)
    session.view(model)  # pictures that cannot be made are refused before any work
    session.start()
    written: list[dict[str, Any]] = []
    first: list[Tensor] = []
    total = min(sum(len(part) for part in sets.values()), config.num or 10**12)
    for part in sets.values():
        wanted = min(len(part), total - len(written))
        for start in range(0, wanted, config.batch_size):
            rows = slice(start, min(start + config.batch_size, wanted))
            images = _images(session, model, part, rows)
            written += _write(session, images, part.ids[rows], len(written))
            if sum(map(len, first)) < SHEET:
                first.append(images.cpu())
            session.reporter.update("decoding", len(written), total)
    write_atomic(session.folder / "images.jsonl", "".join(json.dumps(line) + "\n" for line in written))
    _sheet(session, first)
    session.wrote("decoded.png", "images", "images.jsonl")
    return {"images": len(written), "steps": config.steps, "with_x_T": _has_start(sets)}


def _check(sets: dict[str, FeatureSet], model: Any, config: DecodeConfig) -> None:  # noqa: ANN401
    for part in sets.values():
        if "z" not in part.arrays:
            raise FormatError(
                f"{config.codes} holds no codes z", f"give what diffrep encode wrote; it has {', '.join(part.names)}"
            )
        maker = part.protocol.get("autoencoder")
        if maker is not None and maker != identity(model):
            raise FormatError(
                f"the codes in {config.codes} were made by the autoencoder {maker[:16]}..., not by {config.model} "
                f"({identity(model)[:16]}...)",
                "decode them with the model that encoded them",
            )


def _has_start(sets: dict[str, FeatureSet]) -> bool:
    return all("x_T" in part.arrays for part in sets.values())


def _images(session: Session, model: Any, part: FeatureSet, rows: slice) -> Tensor:  # noqa: ANN401
    import torch

    from diffrep.randomness import noise_for

    z = torch.from_numpy(part["z"][rows]).to(session.device)
    spec = model.input
    start = None
    if "x_T" in part.arrays:
        start = torch.from_numpy(part["x_T"][rows]).to(session.device)
        start = start.reshape(len(z), spec.channels, spec.size, spec.size)
    noise = noise_for(session.config.seed, part.ids[rows])
    images: Tensor = model.decode(z, start, steps=session.config.steps, noise=noise)
    view = session.view(model)
    return view(images) if view else images


def _write(session: Session, images: Tensor, ids: list[str], first: int) -> list[dict[str, Any]]:
    from diffrep.cli.pictures import write_single

    paths = write_single(session.folder / "images", images, first)
    return [
        {"file": path.relative_to(session.folder).as_posix(), "id": name} for path, name in zip(paths, ids, strict=True)
    ]


def _sheet(session: Session, first: list[Tensor]) -> None:
    import torch

    from diffrep.cli.pictures import write_sheet

    write_sheet(session.folder / "decoded.png", torch.cat(first)[:SHEET])
