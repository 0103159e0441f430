"""Train the packaged models, ddpm-digits and pdae-digits, and write them with their cards.

    python scripts/train_packaged.py ddpm-digits
    python scripts/train_packaged.py pdae-digits

Both see the train split only; the checkpoint that is best on the validation split is kept. A stopped run goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from diffrep import data, formats, networks
from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.randomness import seed_of
from diffrep.schedules import DiscreteSchedule
from diffrep.training import DenoisingObjective, TrainConfig, load_checkpoint, train
from diffrep.training.validation import validation

WEIGHTS = Path(__file__).resolve().parents[1] / "src" / "diffrep" / "weights"


def ddpm(steps: int, seed: int) -> tuple[Denoiser, DenoisingObjective, TrainConfig]:
    """An untrained denoiser for digits, its objective and its recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "ddpm-digits"))
        network = networks.build({"layout": "tiny", "dropout": 0.05})
    denoiser = Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8))
    config = TrainConfig(
        steps,
        learning_rate=1e-3,
        warmup_steps=100,
        cosine_to=0.02,
        ema="ramp",
        ema_decay=0.999,
        precision="bf16",
        seed=seed,
        validate_every=250,
        checkpoint_every=500,
    )
    return denoiser, DenoisingObjective(denoiser), config


def pdae(steps: int, seed: int) -> tuple[ShiftAutoencoder, ShiftObjective, TrainConfig]:
    """A fresh autoencoder on the frozen ddpm-digits, its objective and its recipe."""
    model = ShiftAutoencoder.fresh(formats.load("ddpm-digits"), code_dim=32, seed=seed)
    config = TrainConfig(
        steps,
        learning_rate=2e-3,
        warmup_steps=100,
        cosine_to=0.02,
        ema="ramp",
        ema_decay=0.999,
        precision="bf16",
        seed=seed,
        validate_every=250,
        checkpoint_every=500,
    )
    return model, ShiftObjective(model), config


def main() -> None:
    """Train one model and write its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["ddpm-digits", "pdae-digits"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=WEIGHTS)
    parser.add_argument("--run-dir", type=Path)
    arguments = parser.parse_args()
    make, steps = {"ddpm-digits": (ddpm, 5000), "pdae-digits": (pdae, 4000)}[arguments.name]
    model, objective, config = make(arguments.steps or steps, arguments.seed)
    splits = data.load("digits")
    run = arguments.run_dir or Path("runs") / arguments.name
    loader = data.loader(splits["train"], 64, arguments.seed)
    validate = validation(objective, splits["val"], model.input)
    started = time.process_time()
    for report in train(objective, loader, config, run_dir=run, resume="auto", validate=validate):
        if report.validation is not None:
            print(f"step {report.step}: loss {report.loss:.4f}, validation {report.validation:.5f}", flush=True)
    objective.load_state_dict(load_checkpoint(run, "best"))
    best = validate()
    print(f"best validation loss {best:.5f} after {time.process_time() - started:.0f} CPU seconds")
    formats.save(model.eval(), arguments.output_dir / arguments.name)


if __name__ == "__main__":
    main()
