"""`diffrep sample`: images from a denoiser alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diffrep.cli.common import execute
from diffrep.cli.configs import SampleConfig
from diffrep.cli.options import Options
from diffrep.cli.session import Session
from diffrep.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from diffrep.denoiser import Denoiser


def sample(config: Annotated[SampleConfig, Parameter(name="*")], options: Options = Options()) -> int:  # noqa: B008
    """Draw images from a denoiser: OUT/samples.png (a sheet) and OUT/samples.npz (uint8 images, ids).

    A model of latents also gives float32 latents; without its VAE (--vae) there are no images and no sheet. Image i
    belongs to (--seed, i): more images or another batch size leave the first ones as they are.
    """
    return execute(config, options, plan=plan, work=work)


def plan(config: SampleConfig) -> list[str]:
    """What would be done."""
    return [
        f"draw {config.num} images from {config.model}: {config.sampler}, {config.steps} steps, seed {config.seed}",
        f"write {config.output_dir}/samples.png and samples.npz",
    ]


def work(session: Session) -> dict[str, Any]:
    """Draw and write."""
    import numpy as np
    import torch

    from diffrep.cli.pictures import write_sheet
    from diffrep.data import to_uint8
    from diffrep.files import atomic_path

    config: SampleConfig = session.config
    model = session.model(config.model)
    if hasattr(model, "encode"):
        base = getattr(model, "denoiser", None)
        hint = f"sample its base: diffrep sample {base.source}" if base else "make images from codes: diffrep decode"
        raise UsageError(f'"{config.model}" is an autoencoder without a prior of codes', hint)
    model = model.for_sampling() if config.sampler == "ddim" else model
    denoise, vae = session.labelled(model), session.vae_of(model)
    model.schedule.path(config.steps, rule=config.rule)  # a rule or a number of steps that cannot be is refused first
    session.start()
    if model.input.latent and vae is None:
        session.reporter.say("latents are written, without pictures: no VAE was named (--vae)")
    ids = [str(i) for i in range(config.num)]
    images: list[Tensor] = []
    latents: list[Tensor] = []
    for start in range(0, config.num, config.batch_size):
        part = ids[start : start + config.batch_size]
        drawn = draw(
            denoise,
            part,
            config.seed,
            steps=config.steps,
            sampler=config.sampler,
            rule=config.rule,
            progress=session.reporter.steps(f"images {start + 1} to {start + len(part)}"),
        )
        if model.input.latent:
            latents.append(drawn.cpu())
        if vae or not model.input.latent:
            images.append((vae.decode(drawn, model.input) if vae else drawn).cpu())
    arrays: dict[str, Any] = {"ids": np.array(ids)}
    wrote = ["samples.npz"]
    if latents:
        arrays["latents"] = torch.cat(latents).numpy()
    if images:
        write_sheet(session.folder / "samples.png", torch.cat(images))
        arrays["images"], wrote = to_uint8(torch.cat(images)), ["samples.png", *wrote]
    with atomic_path(session.folder / "samples.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    session.wrote(*wrote)
    return {"images": config.num, "steps": config.steps, "sampler": config.sampler, "model": model.identity}


def draw(
    denoiser: Denoiser | Any,  # noqa: ANN401 (a denoiser or a wrapper around one)
    ids: Sequence[str],
    seed: int,
    *,
    steps: int,
    sampler: str = "ddim",
    rule: str | None = None,
    progress: Callable[..., Any] | None = None,
) -> Tensor:
    """Images (B, C, H, W) from noise that belongs to (seed, id)."""
    from diffrep.randomness import noise_for
    from diffrep.sampling import SAMPLERS
    from diffrep.taps import base_of

    base = base_of(denoiser)
    spec, noise = base.input, noise_for(seed, ids)
    path = base.schedule.path(steps, rule=rule or base.sampling.path_rule(sampler))
    start = noise(0, (len(ids), spec.channels, spec.size, spec.size)).to(base.device)
    if base.schedule.convention != "vp":
        start = start * float(path[0].sigma)
    return SAMPLERS[sampler](denoiser, start, path, noise=noise, progress=progress)
