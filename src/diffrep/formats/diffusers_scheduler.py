"""What a diffusers scheduler's config tells: the table of alpha-bar, what the network predicts, how it is sampled.

The table is rounded to float32, as diffusers computes it. A config can hold settings that its class does not read:
they come along when one scheduler is made of another's config, and are not read here either. Where no scheduler lies
with a network, the schedule is asked for when it is needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from diffrep.continuous import FlowSchedule, VESchedule
from diffrep.denoiser import Conditioning, SamplingSpec
from diffrep.errors import FormatError, UsageError, nearest
from diffrep.formats.content import Content
from diffrep.formats.told import MOST
from diffrep.noise import NoiseLevel
from diffrep.schedules import DiscreteSchedule, Schedule, Time

LOG = logging.getLogger("diffrep.formats")
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow", "score": "score"}
SCORE = "ScoreSdeVeScheduler"
VARIANCES = {
    "fixed_small": "posterior",
    "fixed_small_log": "posterior",
    "fixed_large": "upper",
    "learned_range": "learned",
}
LEADING = ("DDPM", "DDIM", "PNDM", "LCM", "TCD")
"""Schedulers whose grid is "leading" where their config does not tell."""
CLIP = {"DDPM": True, "DDIM": True, "UnCLIP": True, "RePaint": True, "LCM": False, "TCD": False, "Heun": False}
"""Schedulers that can clamp x0, and whether they do where their config does not tell."""
AT_FIRST = {"PNDM": False, "DDIM": True, "LCM": True, "TCD": True}
"""Schedulers that read `set_alpha_to_one`, and its default; the others end at the image."""
SIGMA = ("EulerDiscrete", "EulerAncestral", "DPMSolverMultistep", "UniPC")
"""Schedulers that work in sigma, where pure noise has none: they take alpha-bar `ALMOST_ZERO` for it."""
ALMOST_ZERO = 2.0**-24


class UnknownSchedule(Schedule):
    """Stands where no scheduler came with a network: every question to it says how to give one.

    Args:
        name: the checkpoint.
        why: what is missing.
    """

    convention = "unknown"

    def __init__(self, name: str, why: str = "no scheduler lies beside it") -> None:
        self.name, self.why = name, why

    def _ask(self) -> NoReturn:
        raise UsageError(
            f"the noise schedule of {self.name} is unknown: {self.why}",
            "load it with dr.load(PATH, schedule=dr.DiscreteSchedule.linear()), or the schedule it was trained with; "
            "for the command line: diffrep convert PATH OUT --schedule linear",
        )

    def at(self, t: Time) -> NoiseLevel:
        """Errors: UsageError, always."""
        self._ask()

    def time_of(self, level: NoiseLevel) -> Tensor:
        """Errors: UsageError, always."""
        self._ask()

    def config(self) -> dict[str, Any]:
        """Errors: UsageError, always."""
        self._ask()

    def sample(self, n: int, draw: object) -> NoiseLevel:
        """Errors: UsageError, always."""
        self._ask()

    def convert(self, level: NoiseLevel) -> NoiseLevel:
        """Errors: UsageError, always."""
        self._ask()

    def path(self, steps: int, rule: str | None = None, direction: str = "down") -> NoiseLevel:
        """Errors: UsageError, always."""
        self._ask()

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """Errors: UsageError, always."""
        self._ask()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def scheduling(content: Content, default: str = "epsilon", time_scale: float = 1000.0) -> dict[str, Any]:
    """`schedule`, `parameterization`, `sampling` and `conditioning` of a Denoiser, from the scheduler's config.

    Args:
        content: a component of diffusers.
        default: what the network predicts where neither a scheduler nor `architecture={"prediction_type": ...}` tells.
        time_scale: what a flow's network sees at pure noise.

    Errors:
        FormatError: an unknown kind of prediction.
    """
    scheduler: Mapping[str, Any] = content.data.scheduler
    kind = content.told.get("prediction_type") or scheduler.get("prediction_type") or default
    if is_flow(scheduler):
        kind = "flow_prediction"
    if scheduler.get("_class_name") == SCORE:
        kind = "score"
    if kind not in PREDICTIONS:
        raise FormatError(f'{content.name} has prediction_type "{kind}"', nearest(str(kind), PREDICTIONS))
    schedule = schedule_of(scheduler, content.name)
    conditioning = Conditioning(rounded=True)
    if kind == "score":
        conditioning = Conditioning("sigma")
    elif kind == "flow_prediction":
        schedule = schedule if isinstance(schedule, FlowSchedule) else FlowSchedule()
        conditioning = Conditioning(scale=time_scale)
    return {
        "schedule": schedule,
        "parameterization": PREDICTIONS[kind],
        "sampling": sampling_of(scheduler, content.name),
        "conditioning": conditioning,
    }


def is_flow(scheduler: Mapping[str, Any]) -> bool:
    """Whether a scheduler walks a straight line from noise to image."""
    return (
        "FlowMatch" in str(scheduler.get("_class_name"))
        or bool(scheduler.get("use_flow_sigmas"))
        or scheduler.get("prediction_type") == "flow_prediction"
    )


def schedule_of(scheduler: Mapping[str, Any], name: str) -> Schedule:
    """The levels of a scheduler's config, or what asks for them where it tells none that are known here."""
    if not scheduler:
        return UnknownSchedule(name)
    kind = str(scheduler.get("_class_name"))
    if is_flow(scheduler):
        return FlowSchedule(shift=float(scheduler.get("shift") or scheduler.get("flow_shift") or 1.0))
    if kind == SCORE:
        return VESchedule(float(scheduler.get("sigma_min", 0.01)), float(scheduler.get("sigma_max", 1348.0)))
    rows = table(scheduler)
    if rows is None:
        return UnknownSchedule(name, f"its scheduler is a {kind} with beta_schedule {scheduler.get('beta_schedule')}")
    at_first = next((default for start, default in AT_FIRST.items() if kind.startswith(start)), None)
    clean = at_first is None or bool(scheduler.get("set_alpha_to_one", at_first))
    try:
        return DiscreteSchedule(rows.double(), clean=1.0 if clean else float(rows[0]))
    except UsageError as error:
        raise FormatError(f"the scheduler of {name} has no falling table: {error}", "copy its folder again") from error


def table(scheduler: Mapping[str, Any]) -> Tensor | None:
    """Alpha-bar at t = 0..T-1, float32, rounded as diffusers rounds it; None where the config tells no known table."""
    if "snr_shift_scale" in scheduler:  # CogVideoX, which changes its table once more
        return None
    given = scheduler.get("trained_betas")
    betas = torch.tensor(given, dtype=torch.float32) if given else _betas(scheduler)
    if betas is None:
        return None
    abar = torch.cumprod(1.0 - betas, dim=0)
    if not scheduler.get("rescale_betas_zero_snr"):
        return abar
    return _down_to_noise(abar, str(scheduler.get("_class_name")).startswith(SIGMA))


def _betas(scheduler: Mapping[str, Any]) -> Tensor | None:
    kind, steps = scheduler.get("beta_schedule"), scheduler.get("num_train_timesteps")
    if not isinstance(steps, int):
        return None
    if not 1 <= steps <= MOST:
        raise FormatError(f"num_train_timesteps is {steps}", f"expected a whole number from 1 to {MOST}")
    if kind == "squaredcos_cap_v2":
        f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(1 - f[i + 1] / f[i], 0.999) for i in range(steps)], dtype=torch.float32)
    if "beta_start" not in scheduler or "beta_end" not in scheduler:
        return None
    start, end = float(scheduler["beta_start"]), float(scheduler["beta_end"])
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float32)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    if kind == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, steps)) * (end - start) + start
    return None


def _down_to_noise(abar: Tensor, almost: bool) -> Tensor:
    """`rescale_betas_zero_snr` (Lin et al. 2023, algorithm 1): the last level is pure noise, or almost."""
    root = abar.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    abar = ((root - last) * (first / (first - last))) ** 2
    betas = 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])
    out = torch.cumprod(1 - betas, dim=0)
    if almost and out[-2] > ALMOST_ZERO:  # where it is not, the program's last two levels change places
        out[-1] = ALMOST_ZERO
    return out


def sampling_of(scheduler: Mapping[str, Any], name: str) -> SamplingSpec | None:
    """How the scheduler samples: clamping, grid and variance; None where there is no scheduler."""
    if not scheduler:
        return None
    kind = str(scheduler.get("_class_name"))
    if is_flow(scheduler):
        return SamplingSpec(clip=False, rule="flow-match" if "FlowMatch" in kind else "flow")
    if kind == SCORE:
        return SamplingSpec(clip=False, rule="uniform-log-snr")
    can_clip = next((default for start, default in CLIP.items() if kind.startswith(start)), None)
    clip = can_clip is not None and bool(scheduler.get("clip_sample", can_clip))
    if scheduler.get("thresholding"):
        LOG.warning("%s is sampled with dynamic thresholding; diffrep has none", name)
    spacing = scheduler.get("timestep_spacing", "leading" if kind.startswith(LEADING) else "linspace")
    rule = spacing if spacing in ("trailing", "linspace") else "leading"
    offset = int(scheduler.get("steps_offset", 0))
    if rule == "leading" and offset:
        rule = f"leading-{offset}"
    return SamplingSpec(
        clip=clip,
        limit=float(scheduler.get("clip_sample_range", 1.0)) if clip else 1.0,
        rule=rule,
        variance=VARIANCES.get(str(scheduler.get("variance_type", ""))),
        keep_eps=True,
    )
