"""What all diffusers folders share: class names, schedulers, input, and the error where the extra is missing.

A scheduler's config tells the table of alpha-bar (rounded to float32, as diffusers computes it), what the network
predicts, and how it is sampled. Where there is none, the schedule is asked for when it is needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from diffrep.continuous import FlowSchedule
from diffrep.denoiser import InputSpec, SamplingSpec
from diffrep.errors import FormatError, UsageError, nearest
from diffrep.formats import facts
from diffrep.formats.content import Content, LazyWeights, require
from diffrep.networks.diffusers_hosted import NEEDS
from diffrep.noise import NoiseLevel
from diffrep.schedules import DiscreteSchedule, Schedule, Time

LICENSE = "Apache-2.0 for the program; of the weights, what their card states"
LOG = logging.getLogger("diffrep.formats")
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
VARIANCES = {
    "fixed_small": "posterior",
    "fixed_small_log": "posterior",
    "fixed_large": "upper",
    "learned_range": "learned",
}
LEADING = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
"""Schedulers that had the "leading" grid before `timestep_spacing` was written into configs."""
VAES = ("AutoencoderKL", "VQModel")
"""Classes of VAEs, which `diffrep.formats.vae` reads."""
ALMOST_ZERO = 2.0**-24
"""Alpha-bar of pure noise where a table ends there: the network cannot be evaluated at 0; diffusers takes this too."""


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
            "load it with dr.load(PATH, schedule=dr.DiscreteSchedule.linear()), or the schedule it was trained with",
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


def class_name(content: Content) -> str:
    """The class that the config of a diffusers folder names; "" for anything else."""
    data = content.data
    if not isinstance(data, Mapping) or not isinstance(data.get("weights"), LazyWeights):
        return ""
    return str(data["config"].get("_class_name", ""))


def written_by(*names: str) -> Callable[[Content], bool]:
    """Recognizes a diffusers folder by the class that its config names."""
    return lambda content: class_name(content) in names


def choice(content: Content, name: str, neutral: Any = None, known: Iterable[Any] = ()) -> Any:  # noqa: ANN401
    """A setting that was added to diffusers later: where a config lacks it, `neutral` is what the program did.

    Errors:
        FormatError: the value is none of `known` (where those are given).
    """
    value = content.fact(name, neutral)
    values = list(known)
    if values and value not in values:
        raise FormatError(f'{content.name} has {name} = "{value}"', nearest(str(value), [str(v) for v in values]))
    return value


def square(content: Content, family: str) -> int:
    """The size of the images.

    Errors:
        FormatError: it is not told, or images are not square.
    """
    require(content, family, ["sample_size"])
    size = content.fact("sample_size")
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int) or sides[0] < 1:
        raise FormatError(
            f"{content.name} has sample_size {size}", 'pass the size of its images: architecture={"sample_size": 64}'
        )
    return sides[0]


def input_of(content: Content, channels: int, size: int) -> InputSpec:
    """What it takes: latents where a pipeline has an autoencoder, or where the channels are those of no picture."""
    index = content.data.get("model_index") or {}
    folder = content.data["folder"]
    inside = any(name in index for name in ("vae", "vqvae")) or (folder.parent / "vae").is_dir()
    return InputSpec(channels, size, latent=inside or channels not in (1, 3))


def learned_variance(content: Content, channels: int, out: int) -> bool:
    """Whether the output has twice the channels of the input.

    Errors:
        FormatError: it has neither as many nor twice as many.
    """
    if out not in (channels, 2 * channels):
        raise FormatError(
            f"{content.name} takes {channels} channels and gives {out}",
            "it sees more than a noisy image (a mask, a small image), which diffrep cannot give it",
        )
    return out == 2 * channels


def scheduling(content: Content, default: str = "epsilon") -> dict[str, Any]:
    """`schedule`, `parameterization` and `sampling` of a Denoiser, from the scheduler's config.

    Without one the network predicts `default`, unless `architecture={"prediction_type": ...}` says otherwise.

    Errors:
        FormatError: an unknown kind of prediction.
    """
    scheduler: Mapping[str, Any] = content.data["scheduler"] or {}
    kind = content.fact("prediction_type", None) or scheduler.get("prediction_type") or default
    if "FlowMatch" in str(scheduler.get("_class_name")):
        kind = "flow_prediction"
    if kind not in PREDICTIONS:
        raise FormatError(f'{content.name} has prediction_type "{kind}"', nearest(str(kind), PREDICTIONS))
    return {
        "schedule": schedule_of(scheduler, content.name),
        "parameterization": PREDICTIONS[kind],
        "sampling": sampling_of(scheduler, content.name),
    }


def schedule_of(scheduler: Mapping[str, Any], name: str) -> Schedule:
    """The levels of a scheduler's config, or what asks for them where it tells none."""
    if not scheduler:
        return UnknownSchedule(name)
    kind = str(scheduler.get("_class_name"))
    if "FlowMatch" in kind:
        return FlowSchedule()
    if "beta_schedule" not in scheduler and not scheduler.get("trained_betas"):
        return UnknownSchedule(name, f"its scheduler is a {kind}")
    rows = table(scheduler, name)
    before = 1.0 if scheduler.get("set_alpha_to_one", True) else float(rows[0])
    return DiscreteSchedule(rows.double(), clean=before)


def table(scheduler: Mapping[str, Any], name: str = "") -> Tensor:
    """Alpha-bar at t = 0..T-1, float32, rounded as diffusers rounds it (`DDPMScheduler.__init__`).

    Errors:
        FormatError: an unknown beta_schedule, or numbers that are missing.
    """
    given = scheduler.get("trained_betas")
    needs = () if given else ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")
    if missing := [key for key in needs if key not in scheduler]:
        raise FormatError(f"the scheduler of {name} does not tell {', '.join(missing)}", "pass schedule=")
    betas = torch.tensor(given, dtype=torch.float32) if given else _betas(scheduler, name)
    abar = torch.cumprod(1.0 - betas, dim=0)
    return _down_to_noise(abar) if scheduler.get("rescale_betas_zero_snr") else abar


def _betas(scheduler: Mapping[str, Any], name: str) -> Tensor:
    kind, steps = scheduler["beta_schedule"], int(scheduler["num_train_timesteps"])
    start, end = float(scheduler["beta_start"]), float(scheduler["beta_end"])
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float32)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    if kind == "squaredcos_cap_v2":
        f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(1 - f[i + 1] / f[i], 0.999) for i in range(steps)], dtype=torch.float32)
    if kind == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, steps)) * (end - start) + start
    known = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    raise FormatError(f'the scheduler of {name} has beta_schedule "{kind}"', nearest(str(kind), known))


def _down_to_noise(abar: Tensor) -> Tensor:
    """`rescale_betas_zero_snr` (Lin et al. 2023, algorithm 1): the last level is pure noise."""
    root = abar.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    abar = ((root - last) * (first / (first - last))) ** 2
    betas = 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])
    out = torch.cumprod(1 - betas, dim=0)
    out[-1] = ALMOST_ZERO
    return out


def sampling_of(scheduler: Mapping[str, Any], name: str) -> SamplingSpec | None:
    """How the scheduler samples: clamping, grid and variance; None where there is no scheduler."""
    if not scheduler:
        return None
    kind = str(scheduler.get("_class_name"))
    if "FlowMatch" in kind:
        return SamplingSpec(clip=False)
    clip = bool(scheduler.get("clip_sample", kind in ("DDPMScheduler", "DDIMScheduler")))
    limit = scheduler.get("clip_sample_range", 1.0)
    if clip and limit != 1.0:
        LOG.warning("%s clamps x0 to %s; diffrep would clamp to 1, so it is not clamped", name, limit)
    if scheduler.get("thresholding"):
        LOG.warning("%s is sampled with dynamic thresholding; diffrep has none", name)
    spacing = scheduler.get("timestep_spacing", "leading" if kind in LEADING else "linspace")
    rule = {"trailing": "trailing", "linspace": "linspace"}.get(spacing, "leading")
    if rule == "leading" and scheduler.get("steps_offset") == 1:
        rule = "leading-1"
    variance = VARIANCES.get(str(scheduler.get("variance_type", "")))
    return SamplingSpec(clip=clip and limit == 1.0, rule=rule, variance=variance, keep_eps=True)


def extra_missing(error: ImportError) -> UsageError:
    """The error where diffusers or transformers is not installed."""
    raised = UsageError(NEEDS)
    raised.__cause__ = error
    return raised


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; {} where there is none.

    Errors:
        FormatError: broken or too large.
    """
    return facts.read_config(path) if path.is_file() else {}


def source_of(content: Content) -> str:
    """What an autoencoder writes down to find this model again."""
    return str(content.path.resolve())
