"""Fashion-MNIST at 16x16, end to end: train a denoiser, probe it beside its controls, autoencode, write the results.

    python scripts/fashion_mnist.py npz:fashion_mnist.npz

Needs an .npz with train_images, train_labels, test_images, test_labels. About 25 minutes of one core. The denoiser and
the autoencoder are trained by the commands that the page names; a stopped run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from diffrep import data, formats
from diffrep.cli import main as diffrep
from diffrep.data import to_tensor
from diffrep.experiments.probe_grid import probe_grid
from diffrep.experiments.reconstruct import STRIP, reconstruct
from diffrep.files import write_atomic
from diffrep.reports.images import png, tile
from diffrep.runs import environment

SIZE, TIMES = 16, (5, 20, 60)
TRAIN = f"--image-size {SIZE} --channels 1 --batch-size 128 --steps 1500 --ema ramp --ema-decay 0.999 --precision bf16"
AUTOENCODE = "--code-dim 64 --steps 1000 --ema ramp --ema-decay 0.999 --precision bf16"


def command(*words: str) -> str:
    """Run a command of diffrep, going on where it stopped, and return it as it would be typed."""
    if code := diffrep([*words, "--resume", "auto"]):
        raise SystemExit(code)
    return shlex.join(["diffrep", *words])


def percent(results: dict[str, Any], key: str) -> str:
    """A share as a percentage."""
    return f"{100 * results[key]:.1f}"


def page(lines: list[str], probes: dict[str, Any], rebuilt: dict[str, Any], n: int) -> str:
    """docs/results-fashion.md."""
    about = environment()
    rows = [
        ("trained, 2x2 pooling", "probe_trained_2x2"),
        ("untrained, 2x2 pooling, mean of 3 (control)", "probe_untrained_2x2"),
        ("trained, mean-pooled", "probe_trained"),
        ("untrained, mean-pooled, mean of 3 (control)", "probe_untrained"),
        ("raw pixels (control)", "probe_raw_pixels"),
    ]
    probe_rows = [f"| {words} | {percent(probes, key + '_all')} | {percent(probes, key)} |" for words, key in rows]
    mses = (
        "z_only_mse",
        "inverted_mse",
        "inverted_without_code_mse",
        "shuffled_z_mse",
        "unconditional_mse",
        "mean_image_mse",
        "pca_mse",
    )
    mse_rows = [f"| {key.removesuffix('_mse').replace('_', ' ')} | {rebuilt[key]:.4f} |" for key in mses]
    gain = 100 * (probes["probe_trained_2x2_all"] - probes["probe_raw_pixels_all"])
    return "\n".join(
        [
            f"# Fashion-MNIST at {SIZE}x{SIZE}",
            "",
            f"12,000 training, 3,000 test images. torch {about['versions']['torch']}, {about['processor']}. Commands:",
            "",
            "```bash",
            *lines,
            "```",
            "",
            "and `python scripts/fashion_mnist.py npz:PATH`, which runs them and measures what follows"
            f" ({time.process_time() / 60:.0f} CPU minutes).",
            "",
            "## Probe",
            f"Ridge on standardised features of every tap, t = {', '.join(map(str, TIMES))}; tap, level and penalty by",
            "5-fold cross-validation on train and validation",
            f"({probes['best_tap_2x2']} at log-SNR {probes['best_log_snr_2x2']:.2f} for 2x2 pooling,",
            f"{probes['best_tap']} at {probes['best_log_snr']:.2f} mean-pooled); accuracy on test in percent.",
            "",
            "| features | all labels | 10 per class |",
            "|---|---:|---:|",
            *probe_rows,
            "",
            f"Trained features (2x2) are {gain:+.1f} points from raw pixels with all labels.",
            "",
            "## Reconstruction",
            f"{n} test images; a code of 64 numbers; z only and its controls with 10 DDIM steps from random x_T,",
            "inverted x_T with 50 + 50. MSE on [0, 1]; PCA with 64 numbers.",
            "",
            "| | MSE |",
            "|---|---:|",
            *mse_rows,
            "",
            f"![Rows: {', '.join(STRIP)}](images/fashion-reconstruction.png)",
            "",
        ]
    )


def main() -> None:
    """Train, measure, write docs/results-fashion.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="npz:PATH")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    chosen = parser.parse_args()
    base, codes = (str(chosen.runs_dir / name) for name in ("fashion-ddpm", "fashion-pdae"))
    lines = [
        command("train", chosen.data, *TRAIN.split(), "-o", base),
        command("autoencode", base, chosen.data, *AUTOENCODE.split(), "-o", codes),
    ]
    splits = data.load(chosen.data, image_size=SIZE, channels=1)
    denoiser, autoencoder = formats.load(base), formats.load(codes)
    probes = probe_grid(denoiser, splits, denoiser.schedule.at(list(TIMES))).results
    test, train = splits["test"].take(500), splits["train"]
    rebuilt = reconstruct(
        autoencoder,
        to_tensor(test.images),
        test.ids,
        train=to_tensor(train.images),
        steps=(10,),
        headline_steps=10,
        inversion_steps=(50,),
    )
    strip = rebuilt.arrays["reconstruction"]
    write_atomic(
        chosen.docs / "images" / "fashion-reconstruction.png",
        png(tile(strip.reshape(-1, *strip.shape[2:]), strip.shape[1])),
    )
    write_atomic(chosen.docs / "results-fashion.md", page(lines, probes, rebuilt.results, len(test)))


if __name__ == "__main__":
    main()
