"""The main job on real images, in one run: features and probe, an autoencoder, its evidence, and a run folder.

On the 8x8 digits with the packaged denoiser: (a) probe every tap at several noise levels and, at the same time,
(b) train PDAE on the frozen denoiser, (c) reconstruct, interpolate, edit and sample, (d) measure the posterior-mean
gap. Every number stands beside its control. The autoencoder is always trained here; no packaged one is opened.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from diffrep import formats
from diffrep.autoencoder import ShiftAutoencoder
from diffrep.data import Dataset, Splits, conform, load, to_input
from diffrep.denoiser import Denoiser
from diffrep.errors import UsageError
from diffrep.experiments import demo_pictures, demo_report
from diffrep.experiments.demo_training import pretrain, train_autoencoder
from diffrep.experiments.document import Outcome
from diffrep.experiments.gap import gap_outcome, gap_times, posterior_gap
from diffrep.experiments.probe_grid import probe_grid, untrained_networks
from diffrep.experiments.reconstruct import reconstruct
from diffrep.runs import RunFolder
from diffrep.training import fast_precision

Progress = Callable[[str, int, int], None]
MODEL, DATA = "ddpm-digits", "digits"


@dataclass(frozen=True)
class DemoSettings:
    """Everything that the demo's numbers depend on, apart from model and data.

    Args:
        seed: of weights, noise, order, folds and draws.
        steps: optimizer steps of the autoencoder.
        batch_size: images per step.
        code_dim: numbers per code.
        levels: times of the denoiser's schedule at which features are taken.
        per_class: labels per class of the few-label probes.
        draws: few-label subsets that are averaged.
        initializations: untrained networks that are averaged.
        sampling_steps: DDIM steps of the z-only rows.
        headline_steps: those of the numbers that are named without steps.
        inversion_steps: steps of each row with inverted x_T, up and down.
        picture_steps: steps of interpolation and edits.
        sample_steps: steps of samples.
        gap_points: how many times the gap curve has.
        shown: images per strip.
        edited_class: index of the class that edits move towards.
        from_scratch: pre-train the denoiser here instead of loading the packaged one.
        pretrain_steps: optimizer steps of that.
    """

    seed: int = 0
    steps: int = 1300
    batch_size: int = 64
    code_dim: int = 32
    levels: tuple[int, ...] = (0, 5, 10, 40, 80, 160)
    per_class: int = 10
    draws: int = 20
    initializations: int = 3
    sampling_steps: tuple[int, ...] = (5, 10, 50)
    headline_steps: int = 10
    inversion_steps: tuple[int, ...] = (10,)
    picture_steps: int = 20
    sample_steps: int = 50
    gap_points: int = 21
    shown: int = 12
    edited_class: int = 8
    from_scratch: bool = False
    pretrain_steps: int = 1500

    def __post_init__(self) -> None:
        for name in ("draws", "initializations", "inversion_steps", "levels"):
            if not getattr(self, name):
                raise UsageError(
                    f"{name} = {getattr(self, name)!r}", "expected at least one; the report shows controls"
                )


@dataclass
class Clock:
    """Seconds per stage, in the order in which the stages ended: on the wall, and of the stage's own thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    processor_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to a stage."""
        started, worked = time.perf_counter(), time.thread_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
        self.processor_seconds[stage] = self.processor_seconds.get(stage, 0.0) + time.thread_time() - worked


def demo(
    settings: DemoSettings | None = None,
    *,
    output_dir: Path | str | None = None,
    overwrite: bool = False,
    command: Sequence[str] = (),
    denoiser: Denoiser | None = None,
    data: Splits | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Outcome:
    """Run the demo, and write its run folder (all but report.html) where one is asked for.

    Args:
        settings: None takes the defaults.
        output_dir: the run folder; None writes nothing.
        overwrite: replace an earlier run there.
        command: words of the command line, for the record.
        denoiser: in place of the packaged "ddpm-digits"; trained on the train split only.
        data: in place of "digits"; labelled.
        device: where everything is computed; a denoiser that is given stays where it is.
        progress: called with (stage, done, total).

    Returns:
        An `Outcome`: `results` has z_only_mse, probe_trained, best_tap, seconds and so on; `models` holds "denoiser"
        and "autoencoder".

    Errors:
        UsageError: a folder that is not empty, without `overwrite`.
    """
    started, chosen, clock = time.perf_counter(), settings or DemoSettings(), Clock()
    progress = _one_at_a_time(progress)
    run = None
    if output_dir is not None:
        config = {"experiment": "demo", "model": _name(chosen, denoiser), "data": data.source if data else DATA}
        run = RunFolder(output_dir).start({**config, **asdict(chosen)}, command, overwrite=overwrite)
    with clock("loading"):
        splits = data if data is not None else load(DATA)
    with one_thread():
        base, lines = _base(chosen, denoiser, splits, device, clock, progress)
        outcome = _experiments(chosen, base, splits, clock, lines, progress)
    outcome.about |= {"seconds": clock.seconds, "processor_seconds": clock.processor_seconds, "seeds": _seeds(chosen)}
    outcome.about |= {"commands": [list(command)] if command else []}
    outcome.results["seconds"] = time.perf_counter() - started
    if run is not None:
        _write(run, outcome, lines)
    return outcome


@contextmanager
def one_thread() -> Iterator[None]:
    """One processor per job inside the block.

    The demo's networks are so small that several threads wait for each other longer than they work; on a busy
    machine they are many times slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_at_a_time(progress: Progress | None) -> Progress | None:
    """The same callback, never called by two threads at once."""
    if progress is None:
        return None
    told, lock = progress, Lock()

    def tell(stage: str, done: int, total: int) -> None:
        with lock:
            told(stage, done, total)

    return tell


def _name(settings: DemoSettings, denoiser: Denoiser | None) -> str:
    if denoiser is not None:
        return denoiser.source or "given"
    return "pre-trained here" if settings.from_scratch else MODEL


def _base(
    settings: DemoSettings,
    denoiser: Denoiser | None,
    splits: Splits,
    device: str,
    clock: Clock,
    progress: Progress | None,
) -> tuple[Denoiser, list[dict[str, Any]]]:
    """The frozen denoiser, and the loss lines of its training where it was trained here."""
    if denoiser is not None:
        return denoiser.eval(), []
    if not settings.from_scratch:
        with clock("loading"):
            return formats.load(MODEL, device=device), []
    with clock("pretraining"):
        return pretrain(
            splits["train"],
            steps=settings.pretrain_steps,
            seed=settings.seed,
            device=device,
            progress=progress,
        )


def _experiments(
    settings: DemoSettings,
    denoiser: Denoiser,
    splits: Splits,
    clock: Clock,
    lines: list[dict[str, Any]],
    progress: Progress | None,
) -> Outcome:
    """Parts (a) to (d), joined to one outcome; the loss lines are added to `lines`."""
    parts = {name: conform(splits[name], denoiser.input) for name in ("train", "val", "test")}
    images = {k: to_input(parts[k].images, denoiser.input.range, denoiser.device) for k in ("train", "test")}
    controls = untrained_networks(denoiser, settings.initializations, settings.seed)
    with ThreadPoolExecutor(1) as beside:
        read = copy.deepcopy(denoiser)  # taps are hooks on modules, which two threads must not share
        probing = beside.submit(_probe, settings, read, controls, parts, clock, progress)
        with clock("autoencoder"):
            autoencoder, loss = train_autoencoder(
                denoiser,
                parts["train"],
                code_dim=settings.code_dim,
                steps=settings.steps,
                batch_size=settings.batch_size,
                seed=settings.seed,
                progress=progress,
            )
        lines += loss
        probes = probing.result()
        twin = copy.deepcopy(autoencoder)
        rest = beside.submit(_pictures_and_gap, settings, twin, parts, images, clock, progress)
        with clock("reconstruction"):
            rebuilt = _reconstruct(settings, autoencoder, parts["test"].ids, images, progress)
        drawn, gap = rest.result()
    outcome = demo_report.compose(settings, denoiser, parts, probes, rebuilt, drawn, gap)
    outcome.models = {"denoiser": denoiser, "autoencoder": autoencoder}
    outcome.results["precision"] = fast_precision(denoiser.device)
    return outcome


def _probe(
    settings: DemoSettings,
    denoiser: Denoiser,
    controls: Sequence[Denoiser],
    parts: dict[str, Dataset],
    clock: Clock,
    progress: Progress | None,
) -> Outcome:
    """Part (a), in a thread of its own: it draws nothing from the global generator, which training seeds."""
    with clock("features and probes"):
        return probe_grid(
            denoiser,
            parts,
            denoiser.schedule.at(list(settings.levels)),
            per_class=settings.per_class,
            draws=settings.draws,
            controls=controls,
            seed=settings.seed,
            progress=progress,
        )


def _reconstruct(
    settings: DemoSettings,
    autoencoder: ShiftAutoencoder,
    ids: Sequence[str],
    images: dict[str, Tensor],
    progress: Progress | None,
) -> Outcome:
    return reconstruct(
        autoencoder,
        images["test"],
        ids,
        train=images["train"],
        steps=settings.sampling_steps,
        headline_steps=settings.headline_steps,
        inversion_steps=settings.inversion_steps,
        shown=settings.shown,
        seed=settings.seed,
        progress=progress,
    )


def _pictures_and_gap(
    settings: DemoSettings,
    autoencoder: ShiftAutoencoder,
    parts: dict[str, Dataset],
    images: dict[str, Tensor],
    clock: Clock,
    progress: Progress | None,
) -> tuple[dict[str, Outcome], Outcome]:
    """The rest of part (c) and part (d), in a thread of its own, on a copy of the autoencoder."""
    with clock("pictures"):
        drawn = demo_pictures.pictures(settings, autoencoder, parts, images, progress)
    with clock("gap"):
        return drawn, _gap(settings, autoencoder, parts["test"], images["test"], progress)


def _gap(
    settings: DemoSettings, autoencoder: ShiftAutoencoder, test: Dataset, images: Tensor, progress: Progress | None
) -> Outcome:
    """The curve without the shift, and with it at the scale that it was trained at."""
    schedule = autoencoder.schedule
    times = gap_times(schedule, settings.gap_points)
    told = autoencoder.at(autoencoder.encode(images), scale=autoencoder.training_scale)
    gaps = {
        name: posterior_gap(denoise, schedule, images, test.ids, times, seed=settings.seed, progress=progress)
        for name, denoise in (("frozen model", autoencoder.denoiser), ("with the code", told))
    }
    return gap_outcome(times, gaps)


def _seeds(settings: DemoSettings) -> dict[str, Any]:
    return {"seed": settings.seed, "rule": "every draw is addressed by (seed, purpose, step, image id)"}


def _write(run: RunFolder, outcome: Outcome, lines: Sequence[dict[str, Any]]) -> None:
    """The run folder: loss lines, arrays, models, report.json."""
    for line in lines:
        run.metrics.append(line)
    outcome.write_arrays(run.path)
    denoiser, autoencoder = outcome.models["denoiser"], outcome.models["autoencoder"]
    if denoiser.source is None:
        folder = formats.save(denoiser, run.path / "denoiser")
        autoencoder.denoiser.source = "../denoiser"
        run.record(folder)
    run.record("arrays.npz", formats.save(autoencoder, run.path / "model"))
    run.finish(outcome.report())
