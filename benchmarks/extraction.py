"""Features at dec.6: ours against a full pass in float32 that records gradients."""

from __future__ import annotations

from benchmarks.models import ddae_unet, images
from benchmarks.timing import Row, compare
from diffrep.randomness import normal
from diffrep.tap_features import TapFeatures
from diffrep.taps import tapped

BATCH = 4


def rows() -> list[Row]:
    denoiser = ddae_unet()
    level = denoiser.schedule.at(10)
    x0, ids = images(BATCH, 32), [str(i) for i in range(BATCH)]

    def plain() -> None:
        alpha, sigma = level.like(x0)
        with tapped(denoiser, "dec.6", early_exit=False) as maps:
            denoiser(alpha * x0 + sigma * normal(0, "features", ids, x0.shape[1:]), level)
        maps["dec.6"].mean(dim=(2, 3)).detach()

    exact = TapFeatures(denoiser, "dec.6", level)
    quick = TapFeatures(denoiser, "dec.6", level, precision="bf16")
    before = ("full pass, float32, gradients recorded", plain)
    return [
        compare("extraction at dec.6", before, ("TapFeatures float32", lambda: exact(x0, ids=ids)), 2.5),
        compare("extraction at dec.6", before, ("TapFeatures bf16", lambda: quick(x0, ids=ids)), 4.0),
    ]
