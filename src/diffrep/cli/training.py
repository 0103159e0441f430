"""What `train` and `autoencode` share: the loop with a run folder, validation, previews, and the model at its end."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diffrep.cli.configs import Training
from diffrep.cli.session import Session, command
from diffrep.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from diffrep.data import Dataset, Splits
    from diffrep.denoiser import InputSpec
    from diffrep.training import Objective, TrainConfig

PREVIEWS = "previews"


def loop_settings(config: Training) -> TrainConfig:
    """The loop's part of a command's settings.

    Errors:
        UsageError: a setting that cannot be.
    """
    from diffrep.training import TrainConfig

    shared = TrainConfig.__dataclass_fields__.keys() & type(config).model_fields.keys()
    values = {name: getattr(config, name) for name in shared if name != "device"}
    own = {"ema": None if config.ema == "none" else config.ema, "clip_norm": config.clip_norm or None}
    return TrainConfig(**{**values, **own})


def run_training(
    session: Session,
    objective: Objective,
    model: nn.Module,
    splits: Splits,
    spec: InputSpec,
    preview: Callable[[Dataset], Tensor],
) -> dict[str, Any]:
    """Train, keep the weights that are best on validation, save the model, and return what happened.

    Args:
        session: the command's call; its run folder is started here.
        objective: what is trained.
        model: what is saved to the run folder's model/.
        splits: images in the model's size; "train" and "val" are used.
        spec: the model's input.
        preview: validation images -> pictures (N, C, H, W) in [-1, 1].
    """
    from diffrep.data import loader
    from diffrep.training import Checkpoints, load_checkpoint, train
    from diffrep.training.validation import validation

    config: Training = session.config
    train_images, val_images = splits.split("train"), splits["val"].take(config.validation_images)
    batches = loader(train_images, config.batch_size, config.seed, flip=config.flip, device=session.device)
    settings = loop_settings(config)
    check = validation(objective, val_images, spec, device=session.device) if len(val_images) else None
    run = session.start()
    session.bad_records(splits)
    resume, last = "auto" if session.resumes else "never", None
    for report in train(objective, batches, settings, run_dir=run.path, resume=resume, validate=check):
        last = report
        session.reporter.update("training", report.step, report.steps)
        if report.validation is not None:
            session.reporter.say(f"step {report.step}: loss {report.loss:.4f}, validation {report.validation:.5f}")
        if config.preview_every and report.step % config.preview_every == 0 and len(val_images):
            with report.averaged():
                _preview(session, report.step, preview(val_images))
    if last is None and not session.resumes:
        raise InputError("the training loop made no step", "give --steps of at least 1")
    if check is not None:
        objective.load_state_dict(load_checkpoint(run.path, "best"))
    objective.train(False)
    state, lines = Checkpoints(run.path).state(config.steps), run.metrics.read()
    results = {
        "steps": config.steps,
        "images_seen": state["images_seen"],
        "loss": lines[-1]["loss"] if lines else None,
        "validation": check() if check else None,
        "training_seconds": state["seconds"],
        "precision": state["config"]["precision"],
        "parameters": sum(p.numel() for p in objective.parameters()),
        "train_images": len(train_images),
        "data": splits.source,
        "data_revision": splits.revision,
    }
    _save(session, model, results)
    return results


def _preview(session: Session, step: int, pictures: Tensor) -> None:
    from diffrep.cli.pictures import write_sheet

    path = write_sheet(session.folder / PREVIEWS / f"step-{step:06d}.png", pictures)
    session.wrote(path.relative_to(session.folder))


def _save(session: Session, model: nn.Module, results: dict[str, Any]) -> None:
    from diffrep.formats import save
    from diffrep.runs import without_home

    facts = {name: value for name, value in results.items() if value is not None}
    lines = [f"# {session.folder.name}", "", "Command:", "", f"    {shlex.join(command())}", ""]
    lines += [f"- {name}: {value}" for name, value in {"seed": session.config.seed, **facts}.items()]
    save(model.eval(), session.folder / "model", card=without_home("\n".join(lines) + "\n"))
    session.wrote("model")
