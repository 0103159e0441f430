"""Twelve taps in one pass: what reading them adds to a pass that reads nothing."""

from __future__ import annotations

import torch

from benchmarks.models import ddae_unet, images
from benchmarks.timing import Row, compare_cost
from diffrep.taps import read


def rows() -> list[Row]:
    denoiser = ddae_unet()
    level, x = denoiser.schedule.at(10), images(4, 32)

    @torch.inference_mode()
    def without() -> None:
        denoiser(x, level)

    @torch.inference_mode()
    def with_taps() -> None:
        read(denoiser, x, level, "dec.*")

    return [
        compare_cost("12 taps in one pass", ("a pass without taps", without), ("a pass with 12 taps", with_taps), 1.05)
    ]
