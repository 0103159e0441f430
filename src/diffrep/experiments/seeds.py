"""The demo for several seeds: mean, 95 % interval and every single run, as a Markdown table.

Run as a program, it fills the table of results:

    python -m diffrep.experiments.seeds --seeds 0 1 2 --out docs/results-demo.md

It ends with exit code 1 if one of the bars is missed by one of the seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffrep.experiments.demo import DemoSettings, demo
from diffrep.experiments.document import format_number
from diffrep.files import write_atomic
from diffrep.metrics import mean_interval
from diffrep.runs import environment


@dataclass(frozen=True)
class Line:
    """A row of the table: a key of the demo's results, its words, its format, and the bar that each seed must meet."""

    key: str
    words: str
    format: str = ".4f"
    at_most: float | None = None
    at_least: float | None = None

    def met(self, value: float) -> bool:
        """Whether a run's value meets the bar; without a bar, always."""
        high = self.at_most is None or value <= self.at_most
        return high and (self.at_least is None or value >= self.at_least)

    @property
    def bar(self) -> str:
        """The bar in words, empty where there is none."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {format_number(self.at_least, self.format)}"


LINES = (
    Line("z_only_to_mean_image", "z only (10 steps) / mean image, MSE", ".3f", at_most=0.32),
    Line("z_only_to_shuffled_z", "z only (10 steps) / shuffled z, MSE", ".3f", at_most=0.18),
    Line("probe_over_untrained", "probe, 10 labels per class: trained - untrained", ".1%", at_least=0.04),
    Line("probe_over_raw_pixels", "probe, 10 labels per class: trained - raw pixels", ".1%", at_least=0.02),
    Line("z_only_mse", "MSE, z only, 10 steps"),
    Line("z_only_5_steps_mse", "MSE, z only, 5 steps"),
    Line("z_only_50_steps_mse", "MSE, z only, 50 steps"),
    Line("shuffled_z_mse", "MSE, shuffled z, 10 steps (control)"),
    Line("unconditional_mse", "MSE, unconditional, 10 steps (control)"),
    Line("mean_image_mse", "MSE, mean image (control)"),
    Line("pca_mse", "MSE, PCA with as many numbers as the code (control)"),
    Line("inverted_mse", "MSE, z + inverted x_T, 10 + 10 steps"),
    Line("inverted_without_code_mse", "MSE, inverted x_T without code, 10 + 10 steps (control)"),
    Line("z_only_ssim", "SSIM, z only, 10 steps", ".3f"),
    Line("probe_trained", "accuracy, 10 labels per class, trained", ".1%"),
    Line("probe_untrained", "accuracy, 10 labels per class, untrained (control)", ".1%"),
    Line("probe_raw_pixels", "accuracy, 10 labels per class, raw pixels (control)", ".1%"),
    Line("probe_trained_all", "accuracy, all labels, trained", ".1%"),
    Line("probe_untrained_all", "accuracy, all labels, untrained (control)", ".1%"),
    Line("probe_raw_pixels_all", "accuracy, all labels, raw pixels (control)", ".1%"),
    Line("probe_trained_2x2", "accuracy, 10 labels per class, 2x2 pooling, trained", ".1%"),
    Line("probe_untrained_2x2", "accuracy, 10 labels per class, 2x2 pooling, untrained (control)", ".1%"),
    Line("probe_trained_2x2_all", "accuracy, all labels, 2x2 pooling, trained", ".1%"),
    Line("probe_untrained_2x2_all", "accuracy, all labels, 2x2 pooling, untrained (control)", ".1%"),
    Line("seconds", "seconds", ".0f"),
)


def table_of(runs: Mapping[int, Mapping[str, Any]], lines: Sequence[Line] = LINES) -> str:
    """The Markdown table of several runs: {seed: the demo's results}.

    Keys that a run lacks (other step counts) are left out.
    """
    seeds = list(runs)
    heads = ["", "mean", "95 % interval", *(f"seed {seed}" for seed in seeds), "bar"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 2), "---"]]
    for line in lines:
        if any(line.key not in runs[seed] for seed in seeds):
            continue
        values = [float(runs[seed][line.key]) for seed in seeds]
        interval = mean_interval(values)
        low_high = " to ".join(format_number(v, line.format) for v in interval) if interval else "one run"
        each = [format_number(v, line.format) for v in values]
        verdict = f"{line.bar}: {'met' if all(map(line.met, values)) else 'missed'}" if line.bar else ""
        rows.append([line.words, format_number(sum(values) / len(values), line.format), low_high, *each, verdict])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def all_met(runs: Mapping[int, Mapping[str, Any]], lines: Sequence[Line] = LINES) -> bool:
    """Whether every seed meets every bar."""
    return all(line.met(float(run[line.key])) for run in runs.values() for line in lines if line.key in run)


def run_seeds(
    seeds: Sequence[int],
    settings: DemoSettings | None = None,
    *,
    runs_dir: Path | None = None,
    **inputs: Any,  # noqa: ANN401 (passed on)
) -> dict[int, dict[str, Any]]:
    """Run the demo once per seed and return {seed: results}.

    Args:
        seeds: distinct seeds.
        settings: everything but the seed.
        runs_dir: where the run folders go, `seed-0` and so on; None writes none.
        inputs: `denoiser`, `data` and `progress` of `demo`.
    """
    base = settings or DemoSettings()
    runs = {}
    for seed in seeds:
        folder = None if runs_dir is None else runs_dir / f"seed-{seed}"
        runs[seed] = demo(replace(base, seed=seed), output_dir=folder, overwrite=True, **inputs).results
    return runs


def page(runs: Mapping[int, Mapping[str, Any]], command: Sequence[str]) -> str:
    """The file that the command writes: how it was made, then the table."""
    about = environment()
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
    first = next(iter(runs.values()))
    return (
        "# The demo, seed by seed\n\n"
        f"Made by `{' '.join(command)}`: {first['steps']} steps, a code of {first['code_dim']} numbers, "
        f"{first['images']} test images, {first['precision']} in training. {versions}; {about['processor']}, "
        f"{about['threads']} threads. Intervals are Student's for the mean over seeds; the bars hold for each seed.\n\n"
        + table_of(runs)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m diffrep.experiments.seeds", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to run, one after another")
    parser.add_argument("--out", type=Path, help="Markdown file to write; without it the table is only shown")
    parser.add_argument("--runs-dir", type=Path, help="keep the run folders here")
    parser.add_argument("--steps", type=int, default=DemoSettings.steps, help="optimizer steps of the autoencoder")
    chosen = parser.parse_args(arguments)
    runs = run_seeds(list(dict.fromkeys(chosen.seeds)), DemoSettings(steps=chosen.steps), runs_dir=chosen.runs_dir)
    words = ["python", "-m", "diffrep.experiments.seeds", *(arguments if arguments is not None else sys.argv[1:])]
    if chosen.out is not None:
        write_atomic(chosen.out, page(runs, words))
    sys.stdout.write(table_of(runs))
    return 0 if all_met(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
