"""All five jobs on a folder of diffusers, as commands: extract, probe, autoencode, reconstruct, sample.

python examples/five_jobs.py FOLDER DATA OUT [--overwrite], such as: ~/ddpm-cifar10-32 folder:photos runs/five-jobs
Without words it makes a small untrained model and takes some digits, to show the way in a minute.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

import diffrep as dr
from diffrep.cli import main

SHORT = ["--steps", "20", "--batch-size", "16", "--validation-images", "32", "--code-dim", "8"]
"""Training for a moment, where nothing better is wanted; leave it out for your own model."""
AGAIN = sys.argv[4:] if len(sys.argv) > 1 else ["--overwrite"]
"""The stand-ins may be made again; your own results are replaced if you say so."""


def stand_ins(folder: Path) -> list[str]:
    """A random UNet2DModel with a scheduler, saved by diffusers, and a few of the digits."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    folder.mkdir(parents=True, exist_ok=True)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "pipeline")
    arrays: dict[str, Any] = {}
    for split, part in dr.data.load("digits").items():
        few = part.take(200)
        arrays |= {f"{split}_images": few.images, f"{split}_labels": few.labels}
    np.savez(folder / "digits.npz", **arrays)
    return [str(folder / "pipeline"), f"npz:{folder / 'digits.npz'}"]


def run(*words: str | Path) -> None:
    given = [str(word) for word in words] + AGAIN
    print(f"\n$ diffrep {shlex.join(given)}", flush=True)
    if code := main(given):
        sys.exit(code)


if len(sys.argv) in (2, 3):
    sys.exit(__doc__)
out = Path(sys.argv[3] if len(sys.argv) > 1 else "runs/five-jobs")
model, data = sys.argv[1:3] if len(sys.argv) > 1 else stand_ins(out)
short = [] if len(sys.argv) > 1 else SHORT

run("extract", model, data, "--taps", "*", "-o", out / "features")
run("probe", out / "features")
run("autoencode", model, data, *short, "-o", out / "codes")
run("reconstruct", out / "codes", data, "--num", "16", "--inversion-steps", "10", "-o", out / "rebuilt")
run("sample", model, "--num", "16", "--steps", "10", "-o", out / "samples")
print(f"\nprobe: {out}/features/probe/report.json, pictures: {out}/rebuilt/report.html, {out}/samples/samples.png")
