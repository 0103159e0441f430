"""`diffrep autoencode`: a semantic autoencoder on a frozen denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli.common import execute
from diffrep.cli.configs import AutoencodeConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session
from diffrep.cli.training import run_training

if TYPE_CHECKING:
    from torch import Tensor

    from diffrep.data import Dataset


def autoencode(config: Annotated[AutoencodeConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Train a semantic autoencoder on a frozen denoiser.

    Encoder and shift are trained; of the denoiser not one weight changes, and none is written: OUT/model names it.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: AutoencodeConfig) -> list[str]:
    """What would be done."""
    return [
        f"freeze {config.model}; read {config.data} in its size and channels",
        f"train encoder and shift, {config.code_dim} numbers per code: {config.steps} steps of {config.batch_size}",
        f"write {config.output_dir}/checkpoints/ every {config.checkpoint_every} steps, and {config.output_dir}/model/",
    ]


def work(session: Session) -> dict[str, Any]:
    """Build on the frozen base, train, save."""
    from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective

    config: AutoencodeConfig = session.config
    base = session.labelled(session.denoiser(config.model))
    splits = session.images(base, "train", "val")
    if config.preview_every:
        session.view(base)  # pictures that cannot be made are refused before training
    model = ShiftAutoencoder.fresh(base, config.code_dim, seed=config.seed, training_scale=config.training_scale)
    model = model.to(session.device)

    def preview(images: Dataset) -> Tensor:
        import torch

        from diffrep.data import to_input
        from diffrep.randomness import noise_for

        few, view = images.take(8), session.view(base)
        x0 = to_input(few.images, base.input.range, session.device)
        both = torch.cat([x0, model.decode(model.encode(x0), steps=10, noise=noise_for(config.seed, few.ids))])
        return view(both) if view else both

    objective = ShiftObjective(model, weighting=config.weighting)
    results = run_training(session, objective, model, splits, base.input, preview)
    return {**results, "code_dim": config.code_dim, "base": config.model, "base_identity": base.identity}
