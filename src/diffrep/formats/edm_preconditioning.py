"""EDM's four preconditionings (Karras et al. 2022, table 1) as schedules, parameterizations and times of a `Denoiser`.

`EDMPrecond` is our "edm". The other three wrap networks of older programs, which predict noise: behind `VPPrecond` and
`iDDPMPrecond` the network gives eps of the variance-preserving x_t; behind `VEPrecond` it gives -eps, and the sign of
its last layer is turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from diffrep.continuous import EDMSchedule, VESchedule, VPSchedule
from diffrep.denoiser import Conditioning, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats.inert import Inert
from diffrep.formats.state_dicts import module_tensors
from diffrep.networks.edm_unet import EDMUNet
from diffrep.paths import HIGHEST, LOWEST
from diffrep.schedules import DiscreteSchedule

Settings = dict[str, Any]


def edm_settings(precond: Inert, loss: Any, network: Any = None) -> Settings:  # noqa: ANN401 (what the file says)
    """`EDMPrecond`, and EDM2's: sigma_data, how training drew ln sigma, and what the network says of sigma's range.

    The sampler walks from 80 to 0.002, or as far as the network goes; one that names no range takes any sigma.
    """
    drawn = {ours: number(loss, official) for ours, official in (("p_mean", "P_mean"), ("p_std", "P_std"))}
    low, high = number(precond, "sigma_min", 0.0), number(precond, "sigma_max", math.inf)
    schedule = EDMSchedule(
        max(LOWEST, low),
        min(HIGHEST, high),
        bounded=low > 0 or high < math.inf,
        **{name: value for name, value in drawn.items() if value is not None},
    )
    return {
        "parameterization": "edm",
        "sigma_data": number(precond, "sigma_data", 0.5),
        "schedule": schedule,
        "conditioning": Conditioning("log-sigma", scale=0.25),
        "sampling": SamplingSpec(clip=False, rule="karras"),
    }


def _vp(precond: Inert, loss: Any, network: EDMUNet) -> Settings:  # noqa: ANN401 (what the file says)
    schedule = VPSchedule(
        number(precond, "beta_d", 19.9), number(precond, "beta_min", 0.1), number(precond, "epsilon_t", 1e-5)
    )
    return {
        "schedule": schedule,
        "conditioning": Conditioning("vp", scale=number(precond, "M", 1000) - 1),
        "sampling": SamplingSpec(clip=False, rule="edm"),
    }


def _ve(precond: Inert, loss: Any, network: EDMUNet) -> Settings:  # noqa: ANN401 (what the file says)
    head = network.head.get_submodule("conv")
    with torch.no_grad():
        for tensor in head.parameters():
            tensor.neg_()
    return {
        "schedule": VESchedule(number(precond, "sigma_min", 0.02), number(precond, "sigma_max", 100.0)),
        "conditioning": Conditioning("log-sigma", offset=-math.log(2)),
        "sampling": SamplingSpec(clip=False, rule="edm"),
    }


def _iddpm(precond: Inert, loss: Any, network: EDMUNet) -> Settings:  # noqa: ANN401 (what the file says)
    sigmas = module_tensors(precond).get("u")
    if sigmas is None or sigmas.ndim != 1:
        raise FormatError("an iDDPMPrecond without its table of sigma (u)", "copy the file again")
    falling = sigmas[:-1].double()  # u_j for j = 0..M-1, and 0; t = M - 1 - j
    return {
        "schedule": DiscreteSchedule(1 / (1 + falling.flip(0) ** 2)),
        "conditioning": Conditioning("nearest"),
        "sampling": SamplingSpec(clip=False, rule="edm"),
    }


def number(record: Any, name: str, default: Any = None) -> Any:  # noqa: ANN401 (what the file says)
    """An attribute of a pickled object as a float, `default` where it is missing or no number."""
    value = record.get(name) if isinstance(record, Inert) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else default


PRECONDITIONINGS: dict[str, Callable[[Inert, Any, Any], Settings]] = {
    "EDMPrecond": edm_settings,
    "VPPrecond": _vp,
    "VEPrecond": _ve,
    "iDDPMPrecond": _iddpm,
}
"""Official class -> arguments of our `Denoiser`."""
