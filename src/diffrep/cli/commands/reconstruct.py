"""`diffrep reconstruct`: images through an autoencoder and back, beside all controls."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from diffrep.cli.common import execute
from diffrep.cli.configs import ReconstructConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session


def reconstruct(config: Annotated[ReconstructConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Encode and decode images, beside all controls: shuffled codes, no code, mean image, PCA.

    Writes OUT/report.json with MSE, SSIM and PSNR of each, and OUT/report.html with pictures.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: ReconstructConfig) -> list[str]:
    """What would be done."""
    return [
        f"read {config.data} in the size of {config.model}; at most {config.num} images of {config.split}",
        f"decode in {config.steps} steps from random x_T and {config.inversion_steps} from inverted x_T; all controls",
        f"write {config.output_dir}/report.json, arrays.npz and report.html",
    ]


def work(session: Session) -> dict[str, Any]:
    """Measure, and leave sections for the report."""
    from diffrep.data import to_input
    from diffrep.experiments.reconstruct import reconstruct as measure

    config: ReconstructConfig = session.config
    model = session.autoencoder(config.model)
    view, splits = session.view(model), session.images(model, "train", config.split)
    chosen, train = splits.split(config.split).take(config.num), splits.split("train")
    session.start()
    session.bad_records(splits)
    outcome = measure(
        model,
        to_input(chosen.images, model.input.range, session.device),
        chosen.ids,
        train=to_input(train.images, model.input.range, session.device),
        steps=(config.steps,),
        headline_steps=config.steps,
        inversion_steps=(config.inversion_steps,),
        seed=config.seed,
        batch_size=config.batch_size,
        view=view,
        progress=session.reporter.update,
    )
    return session.take(outcome, "Reconstruction")
