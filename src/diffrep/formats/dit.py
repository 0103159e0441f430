"""Files of DiT, SiT and REPA: one network, three meanings of its time and of its output (DDAE 2.4 and 5.6).

DiT predicts noise and a variance at integer times. SiT and REPA predict a velocity at times in [0, 1], SiT with the
image at t = 1, REPA with noise there. Their files have the same names and shapes, so what is beside the tensors
decides: REPA's projectors, the arguments of the program, at last the file's name. Where nothing speaks, a file with
variances is taken for DiT, and that is said; one without could be DiT's or REPA's, and is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from torch import Tensor

from diffrep.denoiser import Denoiser, InputSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats.content import Content
from diffrep.formats.dit_tensors import (
    fact,
    filled,
    flow,
    has_any,
    is_adaptive,
    is_lightning,
    labels_of,
    learns_variance,
    outline,
    source_of,
    tensors_of,
    velocity,
)
from diffrep.formats.families import Family
from diffrep.schedules import DiscreteSchedule

LOG = logging.getLogger("diffrep.formats")


def load_dit(content: Content) -> Denoiser:
    """The denoiser of a DiT file: noise, linear betas, t = 0..999, null class where the table has a row for it.

    Errors:
        FormatError: facts that the file cannot tell, or tensors that do not fit.
    """
    tensors = tensors_of(content)
    recipe = {"layout": "dit", **outline(content, tensors, "DiT")}
    recipe["learns_variance"] = learns_variance(content, tensors, recipe)
    if fact(content, "model") is None and "dit" not in content.path.stem.lower():
        LOG.warning('%s is taken for DiT; if SiT wrote it: architecture={"model": "SiT-XL/2"}', content.path.name)
    made = Denoiser(
        filled(recipe, tensors, content),
        schedule=DiscreteSchedule.linear(),
        input=InputSpec(recipe["image_channels"], recipe["size"], latent=True),
        sampling=SamplingSpec(clip=False, rule="guided-diffusion"),
        labels=labels_of(content, tensors),
        source=source_of(content),
    )
    return made.eval()


def load_sit(content: Content) -> Denoiser:
    """The denoiser of a SiT file: a velocity towards the image, at t = 1 - s of our flow schedule.

    Errors:
        FormatError: as for DiT, or a path that is no straight line.
    """
    return _velocity_model(content, "SiT", data_at_one=True)


def load_repa(content: Content) -> Denoiser:
    """The denoiser of a REPA file: a velocity towards the noise, at t = s; the projectors are left out and said.

    Errors:
        FormatError: as for SiT.
    """
    return _velocity_model(content, "REPA", data_at_one=False)


def _velocity_model(content: Content, program: str, data_at_one: bool) -> Denoiser:
    check_path(content)
    tensors = without_projectors(tensors_of(content))
    recipe = {"layout": "dit", **outline(content, tensors, program)}
    tensors = velocity(content, tensors, recipe, turned=data_at_one)
    labels = labels_of(content, tensors)
    return flow(filled(recipe, tensors, content), recipe, labels, content, data_at_one=data_at_one)


def program_of(content: Content) -> str | None:
    """Which program wrote the file: "REPA", "SiT" or "DiT", or None where it is none of theirs."""
    tensors = tensors_of(content)
    if not is_adaptive(tensors) or is_lightning(content, tensors):
        return None
    if has_any(content, "encoder_depth", "proj_coeff", "enc_type") or any(n.startswith("projectors.") for n in tensors):
        return "REPA"
    model = str(fact(content, "model", "")).lower()
    if model.startswith("sit") or has_any(content, "path_type"):
        return "SiT"
    if model.startswith("dit"):
        return "DiT"
    return "SiT" if re.search(r"(^|[^a-z])sit([^a-z]|$)", content.path.stem.lower()) else "DiT"


def _written_by(program: str) -> Callable[[Content], bool]:
    return lambda content: program_of(content) == program


def without_projectors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trunk; REPA's heads for alignment, which no prediction passes, are left out and said."""
    dropped = [name for name in tensors if name.startswith("projectors.")]
    if dropped:
        LOG.warning("REPA's projectors are left out: %d tensors, %s and so on", len(dropped), dropped[0])
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}


def check_path(content: Content) -> None:
    """Only velocities on the straight line between image and noise are read.

    Errors:
        FormatError: another path or prediction.
    """
    path, prediction = (
        str(fact(content, name, default)).lower() for name, default in (("path_type", "linear"), ("prediction", "v"))
    )
    if path != "linear" or prediction not in ("v", "velocity"):
        raise FormatError(
            f'{content.path} has path_type "{path}" and prediction "{prediction}"',
            "expected a linear path and a velocity",
        )


FAMILIES = (
    Family("DiT", _written_by("DiT"), load_dit, license="CC BY-NC 4.0", compared=True),
    Family("SiT", _written_by("SiT"), load_sit, license="MIT", compared=False),
    Family("REPA", _written_by("REPA"), load_repa, license="MIT", compared=False),
)
