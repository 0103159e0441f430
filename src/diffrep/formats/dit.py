"""Files of DiT, SiT and REPA: one network, three meanings of its time and of its output (DDAE 2.4 and 5.6).

DiT predicts noise and a variance at integer times. SiT and REPA predict a velocity at times in [0, 1], SiT with the
image at t = 1, REPA with noise there. `dit_program` says who wrote a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from diffrep.denoiser import Denoiser, InputSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats.content import Content
from diffrep.formats.dit_program import fact, path_in_names, program_of
from diffrep.formats.dit_tensors import filled, flow, labels_of, learns_variance, outline, source_of, velocity
from diffrep.formats.families import Family
from diffrep.formats.guided_diffusion import named_schedule
from diffrep.formats.state_dicts import state_dict
from diffrep.formats.told import truth, whole

LOG = logging.getLogger("diffrep.formats")
COSINE = "squaredcos_cap_v2"
"""What DiT's program calls the cosine schedule."""


def load_dit(content: Content) -> Denoiser:
    """The denoiser of a DiT file: noise, linear betas, t = 0..999, null class where the table has a row for it.

    What the program's `create_diffusion` was told may be among the facts: `noise_schedule`, `diffusion_steps`,
    `predict_xstart` and `sigma_small`.

    Errors:
        FormatError: facts that the file cannot tell (also who wrote it), or tensors that do not fit.
    """
    tensors = state_dict(content.data)
    recipe = {"layout": "dit", **outline(content, tensors, program_of(content) or "")}
    recipe["learns_variance"] = learns_variance(content, tensors, recipe)
    kind = str(fact(content, "noise_schedule", "linear"))
    steps = whole(content, "diffusion_steps") if fact(content, "diffusion_steps") is not None else 1000
    fixed = "posterior" if truth(content, "sigma_small") else "upper"
    made = Denoiser(
        filled(recipe, tensors, content),
        schedule=named_schedule("cosine" if kind == COSINE else kind, steps),
        input=InputSpec(recipe["image_channels"], recipe["size"], latent=True),
        parameterization="x0" if truth(content, "predict_xstart") else "eps",
        sampling=SamplingSpec(
            clip=False,
            rule="guided-diffusion",
            variance=None if recipe["learns_variance"] else fixed,
            ancestral_rule="linspace",
        ),
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
    check_path(content, unused=("edm",) if program == "REPA" else ())
    tensors = without_projectors(state_dict(content.data))
    recipe = {"layout": "dit", **outline(content, tensors, program)}
    tensors = velocity(content, tensors, recipe, turned=data_at_one)
    labels = labels_of(content, tensors)
    return flow(filled(recipe, tensors, content), recipe, labels, content, data_at_one=data_at_one)


def _written_by(*programs: str) -> Callable[[Content], bool]:
    return lambda content: program_of(content) in programs


def without_projectors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trunk; REPA's heads for alignment, which no prediction passes, are left out and said."""
    dropped = [name for name in tensors if name.startswith("projectors.")]
    if dropped:
        LOG.warning("REPA's projectors are left out: %d tensors, %s and so on", len(dropped), dropped[0])
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}


def check_path(content: Content, unused: tuple[str, ...] = ()) -> None:
    """Only velocities on the straight line between image and noise are read.

    Args:
        content: whose facts are asked.
        unused: a path that the network's constructor is told and never uses (REPA's default, "edm").

    Errors:
        FormatError: another path or prediction.
    """
    usual = {"path_type": "linear", "prediction": "v", **path_in_names(content)}
    path, prediction = (str(fact(content, name, default)).lower() for name, default in usual.items())
    if path not in ("linear", *unused) or prediction not in ("v", "velocity"):
        raise FormatError(
            f'{content.path} has path_type "{path}" and prediction "{prediction}"',
            "expected a linear path and a velocity",
        )


FAMILIES = (
    Family("DiT", _written_by("DiT", ""), load_dit, license="CC BY-NC 4.0", compared=True),
    Family("SiT", _written_by("SiT"), load_sit, license="MIT", compared=False),
    Family("REPA", _written_by("REPA"), load_repa, license="MIT", compared=False),
)
