"""Train the packaged models, ddpm-digits and pdae-digits, and write them with their cards.

    python scripts/train_packaged.py ddpm-digits
    python scripts/train_packaged.py pdae-digits

Both see the train split only; the checkpoint that is best on the validation split is kept, and test is read once, for
the card. A stopped run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from diffrep import data, formats, networks
from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective
from diffrep.data import Splits, to_tensor
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.experiments.demo import DemoSettings
from diffrep.experiments.probe_grid import probe_grid
from diffrep.experiments.reconstruct import reconstruct
from diffrep.randomness import seed_of
from diffrep.runs import environment
from diffrep.schedules import DiscreteSchedule
from diffrep.training import DenoisingObjective, TrainConfig, load_checkpoint, train
from diffrep.training.validation import validation

WEIGHTS = Path(__file__).resolve().parents[1] / "src" / "diffrep" / "weights"
COMMON = {"warmup_steps": 100, "cosine_to": 0.02, "ema_decay": 0.999, "precision": "bf16"}
LICENSE = (
    "Weights: Apache-2.0. Data: scikit-learn's `load_digits`, the test part of Alpaydin and Kaynak's Optical "
    "Recognition of Handwritten Digits (UCI, CC BY 4.0)."
)


def ddpm(seed: int) -> tuple[Denoiser, DenoisingObjective, TrainConfig]:
    """An untrained denoiser for digits, its objective and its recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "ddpm-digits"))
        network = networks.build({"layout": "tiny", "dropout": 0.05})
    denoiser = Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8))
    config = TrainConfig(5000, learning_rate=1e-3, seed=seed, validate_every=250, checkpoint_every=500, **COMMON)
    return denoiser, DenoisingObjective(denoiser), config


def pdae(seed: int) -> tuple[ShiftAutoencoder, ShiftObjective, TrainConfig]:
    """A fresh autoencoder on the frozen ddpm-digits, its objective and its recipe."""
    model = ShiftAutoencoder.fresh(formats.load("ddpm-digits"), code_dim=32, seed=seed)
    config = TrainConfig(4000, learning_rate=2e-3, seed=seed, validate_every=250, checkpoint_every=500, **COMMON)
    return model, ShiftObjective(model), config


def ddpm_numbers(denoiser: Denoiser, splits: Splits) -> list[str]:
    """Probe accuracies beside their controls, as the rows of a table."""
    found = probe_grid(denoiser, splits, denoiser.schedule.at(list(DemoSettings().levels))).results
    rows = [("this model", "trained"), ("untrained network, mean of 3 (control)", "untrained")]
    rows.append(("raw pixels (control)", "raw_pixels"))
    lines = [f"| {words} | {found[f'probe_{k}']:.3f} | {found[f'probe_{k}_all']:.3f} |" for words, k in rows]
    cell = f"{found['best_tap']} at log-SNR {found['best_log_snr']:.2f}"
    about = (
        f"Ridge probe on mean-pooled features ({cell}, chosen by 5-fold cross-validation); accuracy on 400 test images."
    )
    return [about, "", "| features | 10 labels per class | all labels |", "|---|---:|---:|", *lines]


def pdae_numbers(model: ShiftAutoencoder, splits: Splits) -> list[str]:
    """Reconstruction errors beside their controls, as the rows of a table."""
    test, train_images = splits["test"], to_tensor(splits["train"].images)
    found = reconstruct(model, to_tensor(test.images), test.ids, train=train_images, inversion_steps=(50,)).results
    rows = {
        "z only, 5 steps": "z_only_5_steps",
        "z only, 10 steps": "z_only",
        "z only, 50 steps": "z_only_50_steps",
        "shuffled z, 10 steps (control)": "shuffled_z",
        "no code, 10 steps (control)": "unconditional",
        "mean image (control)": "mean_image",
        "PCA with 32 numbers (control)": "pca",
        "z + inverted x_T, 50 + 50 steps": "inverted",
        "inverted x_T without code, 50 + 50 steps (control)": "inverted_without_code",
    }
    lines = [f"| {words} | {found[f'{k}_mse']:.4f} | {found[f'{k}_ssim']:.3f} |" for words, k in rows.items()]
    return [
        "400 test images, MSE on [0, 1], SSIM 11x11 with zero padding:",
        "",
        "| | MSE | SSIM |",
        "|---|---:|---:|",
        *lines,
    ]


def card(name: str, config: TrainConfig, facts: Mapping[str, Any], numbers: list[str]) -> str:
    """The model card."""
    about = environment()
    recipe = ", ".join(f"{key} {value}" for key, value in asdict(config).items() if key in ("steps", "seed", *COMMON))
    return "\n".join(
        [
            f"# {name}",
            "",
            f"- Command: `python scripts/train_packaged.py {name}`",
            "- Data: `digits`, train split only (1197 images of 8x8); best checkpoint on the 200 validation images",
            f"- Recipe: batch {config.batch_size}, learning rate {config.learning_rate:g}, {recipe}",
            *[f"- {key}: {value}" for key, value in facts.items()],
            f"- Made with torch {about['versions']['torch']} on {about['processor']}, one thread",
            f"- License: {LICENSE}",
            "",
            "## Numbers",
            *numbers,
            "",
        ]
    )


def main() -> None:
    """Train one model and write its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["ddpm-digits", "pdae-digits"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=WEIGHTS)
    parser.add_argument("--run-dir", type=Path)
    chosen = parser.parse_args()
    make: Any = {"ddpm-digits": ddpm, "pdae-digits": pdae}[chosen.name]
    measure: Any = {"ddpm-digits": ddpm_numbers, "pdae-digits": pdae_numbers}[chosen.name]
    model, objective, config = make(chosen.seed)
    splits = data.load("digits")
    run = chosen.run_dir or Path("runs") / chosen.name
    check = validation(objective, splits["val"], model.input)
    for report in train(
        objective, data.loader(splits["train"], 64, chosen.seed), config, run_dir=run, resume="auto", validate=check
    ):
        if report.validation is not None:
            print(f"step {report.step}: loss {report.loss:.4f}, validation {report.validation:.5f}", flush=True)
    objective.load_state_dict(load_checkpoint(run, "best"))
    objective.train(False)
    seconds = max(line["seconds"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))
    facts = {"Parameters trained": sum(p.numel() for p in objective.parameters()), "Validation loss": f"{check():.5f}"}
    facts["Seconds of training"] = f"{seconds:.0f}, on a shared machine"
    formats.save(
        model.eval(), chosen.output_dir / chosen.name, card=card(chosen.name, config, facts, measure(model, splits))
    )


if __name__ == "__main__":
    main()
