"""`diffrep train`: a denoiser from images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli.common import execute
from diffrep.cli.configs import TrainConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session
from diffrep.cli.training import run_training
from diffrep.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from diffrep.data import Dataset, Splits
    from diffrep.denoiser import Denoiser


def train(config: Annotated[TrainConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Train a denoiser on images.

    The weights that are best on the validation split are saved to OUT/model, which every other command takes. A run
    that was stopped or killed goes on bit-exactly with --resume auto.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: TrainConfig) -> list[str]:
    """What would be done."""
    size = f"{config.image_size} pixels" if config.image_size else "their own size"
    return [
        f"read {config.data} at {size}",
        f"train a {config.layout} network of base width {config.width}: {config.steps} steps of {config.batch_size}",
        f"write {config.output_dir}/checkpoints/ every {config.checkpoint_every} steps, and {config.output_dir}/model/",
    ]


def work(session: Session) -> dict[str, Any]:
    """Build, train, save."""
    from diffrep import data
    from diffrep.training import DenoisingObjective

    config: TrainConfig = session.config
    device = session.device
    splits = session.noted(
        data.load(
            config.data,
            image_size=config.image_size,
            channels=config.channels,
            labels=config.labels,
            max_bad_fraction=config.max_bad_fraction,
        )
    )
    denoiser = build(config, splits).to(device)
    if denoiser.input.latent and config.preview_every:
        raise UsageError("latents have no previews", "leave --preview-every out")

    def preview(images: Dataset) -> Tensor:
        from diffrep.cli.commands.sample import draw

        return draw(denoiser, [str(i) for i in range(16)], config.seed, steps=50)

    objective = DenoisingObjective(denoiser, weighting=config.weighting)
    return run_training(session, objective, denoiser, splits, denoiser.input, preview)


def build(config: TrainConfig, splits: Splits) -> Denoiser:
    """An untrained denoiser for these images.

    Errors:
        InputError: images that are not square. UsageError: sizes that the layout refuses.
    """
    import torch

    from diffrep import networks
    from diffrep.denoiser import Denoiser, InputSpec
    from diffrep.randomness import seed_of
    from diffrep.schedules import DiscreteSchedule

    images = splits.split("train")
    _, height, width, channels = images.images.shape
    if height != width:
        raise InputError(f"images of {height}x{width} pixels", "say --image-size: they are cropped to that square")
    recipe = {"layout": config.layout, "image_channels": channels, "channels": config.width, "blocks": config.blocks}
    recipe["dropout"] = config.dropout
    if config.layout == "tiny":
        recipe["multipliers"] = networks.multipliers_for(height)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(config.seed, "denoiser"))
            network = networks.build(recipe)
    except ValueError as error:
        raise UsageError(f"this network cannot be built: {error}", "see --width, --blocks and --layout") from error
    schedule = DiscreteSchedule.linear() if config.schedule == "linear" else DiscreteSchedule.cosine()
    spec = InputSpec(channels, height, latent=images.latent)
    return Denoiser(network, schedule=schedule, input=spec, parameterization=config.parameterization)
