"""A denoiser: network + parameterization + schedule + input convention, as one module.

It maps (x_t, level) to a `Prediction`. A level of another convention is converted by equal log-SNR: x_t is rescaled
on the way in, x0 and eps need nothing on the way out. It never clips, and it refuses levels that its network was not
trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.conditioning import Conditioning as Conditioning
from diffrep.errors import InputError, UsageError, nearest
from diffrep.input_spec import InputSpec as InputSpec
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.schedules import DiscreteSchedule, Schedule, schedule_from_config

Denoise = Callable[[Tensor, NoiseLevel], Prediction]
PARAMETERIZATIONS = ("eps", "x0", "v", "flow", "score", "edm")
AT_THE_ENDS = ("v", "flow")
"""What tells x0 and eps apart also in pure noise and in an image."""


@dataclass(frozen=True)
class SamplingSpec:
    """A model's own habits when it is sampled.

    Args:
        clip: clamp predicted x0 to [-limit, limit] in every step.
        limit: 1 for images in [-1, 1]; diffusers has models with another (`clip_sample_range`).
        keep_eps: DDIM and its inversion do not derive eps again from the clamped x0 (diffusers).
        rule: of its paths, see `Schedule.path`.
        variance: of ancestral steps, see `ddpm`; None: learned where it is learned, else the posterior's.
        ancestral_rule: of the paths of ancestral steps, where it is not `rule` (guided-diffusion).
        ancestral_clip: whether these clamp x0, where that is not `clip` (PDAE).
        churn_range: where `heun` adds noise, by sigma / alpha, if it is asked to (DDAE; EDM's S_min and S_max).
        churn_noise: scale of that noise (EDM's S_noise).
        quiet_end: DDIM adds no noise in a path's last step, also where that ends above the image (DDAE).
        table: config of the schedule that its deterministic sampler walks, where that is not the one it was trained
            on (DDAE); see `Denoiser.for_sampling`.
    """

    clip: bool = True
    rule: str | None = None
    variance: str | None = None
    table: dict[str, Any] | None = None
    keep_eps: bool = False
    limit: float = 1.0
    ancestral_rule: str | None = None
    ancestral_clip: bool | None = None
    churn_range: tuple[float, float] = (0.01, 1.0)
    churn_noise: float = 1.007
    quiet_end: bool = False

    def path_rule(self, sampler: str) -> str | None:
        """The rule of a sampler's paths, by its name in `diffrep.sampling.SAMPLERS`."""
        return (self.ancestral_rule if sampler == "ddpm" else None) or self.rule

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SamplingSpec:
        """The habits whose `dataclasses.asdict` this is, also read back from JSON."""
        arguments: dict[str, Any] = dict(config)
        if "churn_range" in arguments:
            arguments["churn_range"] = tuple(arguments["churn_range"])
        return cls(**arguments)


@dataclass(frozen=True)
class LabelSpec:
    """How a class-conditional network is called without a label.

    Args:
        num_classes: labels are 0..num_classes-1.
        null: the label that means "no class" (DiT's last row), or None.
        optional: the network itself takes y=None to mean a zero label (EDM).
    """

    num_classes: int
    null: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Tap:
    """A named place in a network: its output has shape (B, channels, resolution, resolution)."""

    name: str
    channels: int
    resolution: int
    attention: bool = False
    aliases: tuple[str, ...] = ()


class Denoiser(nn.Module):
    """Predict what is image and what is noise in x_t, at any noise level of any convention.

    Args:
        network: (x, time (B,), y) -> (B, C or 2C, H, W); carries `.config` and `.places(size)`.
        schedule: the levels it was trained on.
        input: channels, size and range of its images.
        parameterization: what the network's output is: "eps", "x0", "v", "flow", "score" or "edm" (preconditioned,
            sigma_data).
        conditioning: what the network sees as time.
        sampling: its own habits; wrappers pass them on.
        labels: for class-conditional networks.
        sigma_data: EDM's constant.
        source: where it was loaded from; an autoencoder records it to find its base again.

    Example:
        >>> import diffrep as dr
        >>> denoiser = dr.load("ddpm-digits")
        >>> level = denoiser.schedule.at(10)
        >>> denoiser(dr.noise_for(0, ["a"])(0, (1, 1, 8, 8)), level).x0.shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        schedule: Schedule,
        input: InputSpec,
        parameterization: str = "eps",
        conditioning: Conditioning | None = None,
        sampling: SamplingSpec | None = None,
        labels: LabelSpec | None = None,
        sigma_data: float = 0.5,
        source: str | None = None,
    ) -> None:
        super().__init__()
        if parameterization not in PARAMETERIZATIONS:
            raise UsageError(
                f'unknown parameterization "{parameterization}"', nearest(parameterization, PARAMETERIZATIONS)
            )
        self.network = network
        self.schedule = schedule
        self.input = input
        self.parameterization = parameterization
        self.conditioning = conditioning or Conditioning()
        self.sampling = sampling or SamplingSpec(clip=not input.latent)
        self.labels = labels
        self.sigma_data = sigma_data
        self.source = source
        table: Callable[[tuple[int, int]], Sequence[Any]] = getattr(network, "places", lambda size: ())
        places = table((input.size, input.size))
        self.places: dict[str, str] = {p.name: p.module for p in places}
        self.taps: tuple[Tap, ...] = tuple(
            Tap(p.name, p.channels, p.resolution[0], p.attention, tuple(p.aliases)) for p in places if p.resolution
        )

    def forward(self, x_t: Tensor, level: NoiseLevel, *, y: Tensor | int | str | None = None) -> Prediction:
        """Predict at a level of shape () or (B,), in any convention.

        Args:
            x_t: noisy images, (B, C, H, W).
            level: their noise level.
            y: class labels (B,) or one for all; "none" leaves the class embedding out.

        Errors:
            InputError: wrong number of channels, or no floating-point numbers. UsageError: no level, wrong level
                shape, level outside the schedule, wrong label.
        """
        self._check(x_t, level)
        x_own, own = as_trained(self.schedule, x_t, level)
        time = self.conditioning(self.schedule, own).to(x_t.device, torch.float32).expand(len(x_t))
        kind, value, log_variance = self._evaluate(x_own, own, time, self._label(y, x_t))
        prediction = Prediction(x_own, own, kind, value, log_variance=log_variance)
        return prediction if own is level else prediction.at(x_t, level)

    def _evaluate(
        self, x: Tensor, level: NoiseLevel, time: Tensor, y: Tensor | None
    ) -> tuple[str, Tensor, Tensor | None]:
        dtype = next(iter(self.network.parameters()), x).dtype
        if self.parameterization != "edm":
            value, log_variance = self._split(self.network(x.to(dtype), time, y).to(x.dtype))
            if self.parameterization == "score":
                return "eps", -level.like(x)[1] * value, log_variance
            return self.parameterization, value, log_variance
        _, sigma = level.like(x)
        spread = (sigma**2 + self.sigma_data**2).sqrt()
        value, log_variance = self._split(self.network((x / spread).to(dtype), time, y).to(x.dtype))
        x0 = (self.sigma_data / spread) ** 2 * x + sigma * self.sigma_data / spread * value
        return "x0", x0, log_variance

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        channels = self.input.channels
        return (out, None) if out.shape[1] == channels else (out[:, :channels], out[:, channels:])

    @property
    def _needs_label(self) -> bool:
        return bool(getattr(self.network, "needs_label", False))

    def _label(self, y: Tensor | int | str | None, x: Tensor) -> Tensor | None:
        spec = self.labels
        if isinstance(y, str):
            if y != "none":
                raise UsageError(f'y = "{y}"', 'expected labels, or "none" to leave the class embedding out')
            if self._needs_label:
                raise UsageError("this network has a place for the class and cannot leave it out", "pass y=labels")
            return None
        if spec is None:
            if y is not None:
                raise UsageError("labels were given to a model without classes", "leave y out")
            return None
        if y is None:
            if spec.null is None and not spec.optional:
                hint = "pass y=labels" if self._needs_label else 'pass y=labels, or y="none" (--label none)'
                raise UsageError(f"this model has {spec.num_classes} classes and no null class", hint)
            if spec.null is None:
                return None
            y = spec.null
        labels = torch.as_tensor(y, dtype=torch.long, device=x.device)
        if labels.shape not in ((), (1,), (len(x),)):
            raise UsageError(f"labels of shape {tuple(labels.shape)} for {len(x)} images", "give one, or one per image")
        labels = labels.expand(len(x))
        highest = max(spec.num_classes - 1, spec.null or 0)
        if bool((labels < 0).any()) or bool((labels > highest).any()):
            raise UsageError(f"labels run from {int(labels.min())} to {int(labels.max())}", f"expected 0..{highest}")
        return labels

    def _check(self, x_t: Tensor, level: NoiseLevel) -> None:
        takes = (self.input.channels, self.input.size, self.input.size)
        counted = 4 if getattr(self.network, "fixed_size", False) else 2  # others take any height and width
        if x_t.ndim != 4 or x_t.shape[1:counted] != takes[: counted - 1]:
            wanted = ", ".join(map(str, takes))
            raise InputError(f"images of shape {tuple(x_t.shape)}", f"this model takes (B, {wanted})")
        check_images(x_t)
        check_level(level)
        if level.shape not in ((), (len(x_t),)):
            raise UsageError(
                f"a level of shape {tuple(level.shape)} for {len(x_t)} images",
                "expected () or one per image; iterate over more",
            )
        self.schedule.check(level)
        if self.parameterization not in AT_THE_ENDS and not bool(torch.isfinite(level.log_snr).all()):
            raise UsageError(
                f'a level without noise or without image for a network that predicts "{self.parameterization}"',
                "take one between them",
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def with_schedule(self, table: Schedule | Tensor | Sequence[float]) -> Denoiser:
        """The same network and time index with other levels, for programs that sample by another table (DDAE 1.1.2)."""
        schedule = table if isinstance(table, Schedule) else DiscreteSchedule(table)
        settings = {
            name: getattr(self, name)
            for name in ("input", "parameterization", "conditioning", "sampling", "labels", "sigma_data", "source")
        }
        return Denoiser(self.network, schedule=schedule, **settings).train(self.training)

    def for_sampling(self) -> Denoiser:
        """This denoiser with the levels that its own program's DDIM sampler walks; the same where they are its own.

        DDAE trains on one table and samples by another (its DDIM ends at alpha-bar 0.9999, see DDAE 1.1.5).
        """
        return self if self.sampling.table is None else self.with_schedule(schedule_from_config(self.sampling.table))

    def config(self) -> dict[str, Any]:
        """Everything but the weights, as JSON; `from_config` makes an equal module."""
        network: dict[str, Any] = getattr(self.network, "config", {"layout": type(self.network).__name__})
        return {
            "network": network,
            "parameterization": self.parameterization,
            "schedule": self.schedule.config(),
            "conditioning": asdict(self.conditioning),
            "input": self.input.config(),
            "sampling": asdict(self.sampling),
            "labels": asdict(self.labels) if self.labels else None,
            "sigma_data": self.sigma_data,
        }

    @property
    def identity(self) -> str:
        """sha256 over config and weights (sorted name, shape, float32 bytes); a file's precision does not matter."""
        parts = {k: v for k, v in self.config().items() if k != "sampling"}
        digest = hashlib.sha256(json.dumps(_plain(parts), sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def as_trained(schedule: Schedule, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, NoiseLevel]:
    """x_t and its level in the schedule's own convention; the very same objects where nothing changes.

    Args:
        schedule: the network's.
        x_t: noisy images, (B, C, H, W).
        level: their level, () or (B,), in any convention; also of a clean image or of pure noise.
    """
    own = schedule.convert(level)
    rescale = (own.alpha + own.sigma) / (level.alpha + level.sigma)
    if bool(((rescale - 1).abs() < 1e-6).all()):
        return x_t, level
    factor = rescale.to(x_t.device, x_t.dtype)
    return x_t * factor.reshape(*factor.shape, *[1] * (x_t.ndim - factor.ndim)), own


def check_images(images: object) -> None:
    """Refuse what is no tensor of floating-point numbers, such as bytes.

    Errors:
        InputError: naming the type.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images of type {kind}", "expected floats in the model's range: dr.data.to_tensor(images)")


def check_level(level: object) -> None:
    """Refuse what is no noise level, such as a bare t.

    Errors:
        UsageError: naming what was given.
    """
    if not isinstance(level, NoiseLevel):
        raise UsageError(f"a noise level of type {type(level).__name__}", "t becomes one by denoiser.schedule.at(t)")


def _plain(value: Any) -> Any:  # noqa: ANN401 (JSON is any)
    return json.loads(json.dumps(value))
