"""`diffrep encode`: the code of each image, as one Parquet file."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli.commands.extract import with_images
from diffrep.cli.common import execute
from diffrep.cli.configs import EncodeConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session

if TYPE_CHECKING:
    from diffrep.data import Dataset
    from diffrep.feature_set import FeatureSet

FILE = "codes.parquet"


def encode(config: Annotated[EncodeConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Write the code of each image to OUT/codes.parquet: id, path, split, label, z.

    With --invert the column x_T holds the noise from which `diffrep decode` rebuilds the image itself.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: EncodeConfig) -> list[str]:
    """What would be done."""
    extra = f", and x_T in {config.invert} steps" if config.invert else ""
    return [
        f"read {config.data} ({config.split or 'all splits'}) in the size of {config.model}",
        f"encode each image{extra}",
        f"write {config.output_dir}/{FILE}",
    ]


def work(session: Session) -> dict[str, Any]:
    """Encode and write."""
    from diffrep.feature_set import write_parquet

    config: EncodeConfig = session.config
    model = session.autoencoder(config.model)
    wanted = [config.split] if config.split else []
    splits = session.images(model, *wanted)
    chosen = with_images(splits, config.split)
    session.start()
    session.bad_records(splits)
    protocol = {
        "model": getattr(model, "denoiser", model).identity,
        "autoencoder": identity(model),
        "data": splits.source,
        "invert": config.invert,
    }
    parts = [_codes(session, model, part, protocol) for part in chosen.values()]
    write_parquet(session.folder / FILE, parts)
    session.wrote(FILE, "bad_records.jsonl")
    return {
        "images": {part.split: len(part) for part in parts},
        "code_dim": int(parts[0]["z"].shape[1]),
        "bad_records": len(splits.bad_records),
        "file": str(session.folder / FILE),
    }


def identity(model: Any) -> str:  # noqa: ANN401 (an nn.Module; imported late)
    """The sha256 over an autoencoder's own tensors, by which codes know who made them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _codes(session: Session, model: Any, part: Dataset, protocol: dict[str, Any]) -> FeatureSet:  # noqa: ANN401
    import torch

    from diffrep.data import to_input
    from diffrep.feature_set import FeatureSet

    config: EncodeConfig = session.config
    rows: dict[str, list[torch.Tensor]] = {"z": [], **({"x_T": []} if config.invert else {})}
    for start in range(0, len(part), config.batch_size):
        images = part.images[start : start + config.batch_size]
        x0 = to_input(images, model.input.range, session.device)
        z = model.encode(x0)
        rows["z"].append(z.cpu())
        if config.invert:
            rows["x_T"].append(model.invert(x0, z, steps=config.invert).flatten(1).cpu())
        session.reporter.update(f"encoding {part.split}", start + len(x0), len(part))
    arrays = {name: torch.cat(found).float().numpy() for name, found in rows.items()}
    return FeatureSet(
        arrays, part.labels, tuple(part.class_names), list(part.ids), part.split, protocol, list(part.paths)
    )
