"""A PDAE training step on a frozen 64-pixel U-Net: the loop's defaults against a plain float32 step."""

from __future__ import annotations

from benchmarks.ddpm_step import our_steps, plain_steps
from benchmarks.models import images, pdae_unet
from benchmarks.timing import Row, compare
from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective
from diffrep.data import Batch


def rows() -> list[Row]:
    base = pdae_unet()
    batch = Batch(images(2, 64), None, ["0", "1"])
    plain = plain_steps(ShiftObjective(ShiftAutoencoder.fresh(base, code_dim=512)), batch)
    ours = our_steps(ShiftObjective(ShiftAutoencoder.fresh(base, code_dim=512)), batch)
    return [compare("PDAE training step", ("float32, plain loop", plain), ("dr.train, bf16", ours), 1.4, rounds=4)]
