"""`diffrep demo`: the whole main job on the embedded digits."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from diffrep.cli.common import execute
from diffrep.cli.configs import DemoConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session
from diffrep.cli.session import command as words
from diffrep.errors import UsageError

BESIDE = ("experiment", "model", "data", "output_dir", "device")
"""Settings that are no `DemoSettings`."""


def demo(
    config: Annotated[DemoConfig, Parameter(name="*")] = DemoConfig(),  # noqa: B008 (frozen)
    options: Options = Options(),  # noqa: B008 (frozen)
) -> int:
    """The whole main job on embedded digits: probe, autoencoder, report, in a few minutes.

    Takes the packaged denoiser ddpm-digits; probes its features at every tap and several noise levels; trains a
    semantic autoencoder on it; reconstructs, interpolates, edits and samples; writes report.html. Needs no network.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: DemoConfig) -> list[str]:
    """What would be done."""
    first = f"pre-train a denoiser, {config.pretrain_steps} steps" if config.from_scratch else "load ddpm-digits"
    return [
        f"{first}; 1797 images of 8x8 pixels",
        f"probe every tap at {len(config.levels)} levels, {config.draws} draws of {config.per_class} labels per class",
        f"train an autoencoder: {config.steps} steps of {config.batch_size} images, {config.code_dim} numbers per code",
        f"reconstruct, interpolate, edit, sample; write {config.output_dir}/report.json, model/ and report.html",
    ]


def work(session: Session) -> dict[str, Any]:
    """Run it and draw the report."""
    from diffrep.experiments.demo import DemoSettings
    from diffrep.experiments.demo import demo as run_demo
    from diffrep.reports import write_report

    if session.resumes:
        raise UsageError("the demo cannot be resumed", "say --overwrite, or choose another --output-dir")
    settings = DemoSettings(**session.config.model_dump(exclude=set(BESIDE)))
    outcome = run_demo(
        settings,
        output_dir=session.folder,
        overwrite=session.options.overwrite,
        command=words(),
        device=session.device,
        progress=session.reporter.update,
    )
    report = write_report(session.folder)
    return {**outcome.results, "report": str(report)}
