"""The semantic autoencoder made of a frozen denoiser (PDAE, Zhang et al. 2022).

An encoder turns an image into a short code z; a shift estimator adds to the frozen prediction what the code knows.
`at(z)` is again a denoiser, so decoding is sampling it, and x_T, found by inversion, is the rest of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from diffrep.autoencoder.edit import CodeStats, lerp, slerp
from diffrep.autoencoder.encoder import SemanticEncoder
from diffrep.autoencoder.kappa import check_scale
from diffrep.autoencoder.shift import Shift
from diffrep.autoencoder.shifted import ShiftedDenoiser, Weight, frozen
from diffrep.autoencoder.tokens import shift_for, shift_from_config
from diffrep.denoiser import Denoiser, InputSpec, SamplingSpec
from diffrep.errors import InputError, UsageError, nearest
from diffrep.randomness import Noise, as_noise, seed_of
from diffrep.sampling import Progress, Sampler, ddim, invert
from diffrep.schedules import Schedule

SAMPLING_SCALES = ("paper", "exact")
BESIDE = ("denoiser", "prior", "classifier")
"""Attributes that stand beside the module registry: in no parameters() and no state_dict(), but moved by `.to`."""


class ShiftAutoencoder(nn.Module):
    """A frozen denoiser with an encoder and a shift estimator; at initialisation it is the denoiser, bit by bit.

    Parameters and state are those of encoder and shift only. The denoiser stands beside them: in eval mode, without
    gradients, in no optimizer and no checkpoint, moved along by `.to`.

    Args:
        denoiser: the base; its own flags and mode stay as they are, its weights are shared, not copied.
        encoder: image to code.
        shift: built from the base's taps.
        training_scale: "posterior" (kappa_t of a discrete schedule, official) or "score" (kappa = 1, any schedule).
        sampling_scale: "paper", which samples by the score form whatever was trained, as the official program does,
            or "exact", which samples by the training scale.

    Errors:
        UsageError: encoder, shift and denoiser do not fit, or a scale that the schedule does not have.

    Example:
        >>> model = ShiftAutoencoder.fresh(denoiser, code_dim=32)                        # doctest: +SKIP
        >>> z = model.encode(x0)                                                         # doctest: +SKIP
        >>> again = model.decode(z, model.invert(x0, z))                                 # doctest: +SKIP
    """

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: SemanticEncoder,
        shift: Shift,
        *,
        training_scale: str = "posterior",
        sampling_scale: str = "paper",
    ) -> None:
        super().__init__()
        check_scale(training_scale, denoiser.schedule)
        if sampling_scale not in SAMPLING_SCALES:
            raise UsageError(f'unknown sampling_scale "{sampling_scale}"', nearest(sampling_scale, SAMPLING_SCALES))
        if encoder.code_dim != shift.code_dim:
            raise UsageError(f"the encoder gives {encoder.code_dim} numbers, the shift takes {shift.code_dim}")
        known = {"time", *(tap.name for tap in denoiser.taps)}
        if missing := [name for name in shift.reads if name not in known]:
            raise UsageError(f"the shift reads {missing}, the denoiser has no such taps", "build it from denoiser.taps")
        self.denoiser = frozen(denoiser)
        self.encoder, self.shift = encoder, shift
        self.training_scale, self.sampling_scale = training_scale, sampling_scale
        self.code_stats: CodeStats | None = None
        self.prior: nn.Module | None = None
        self.classifier: nn.Module | None = None
        self.eval()

    @classmethod
    def fresh(
        cls, denoiser: Denoiser, code_dim: int = 32, *, seed: int = 0, training_scale: str | None = None
    ) -> ShiftAutoencoder:
        """An untrained autoencoder of a U-Net or transformer denoiser, with the presets for small images.

        Args:
            denoiser: the base.
            code_dim: D.
            seed: of the initial weights; the same on every machine, and no global state is touched.
            training_scale: None takes "posterior" where the schedule has it, else "score".
        """
        spec = denoiser.input
        scale = training_scale or ("posterior" if hasattr(denoiser.schedule, "alphas_cumprod") else "score")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(seed, "autoencoder"))  # torch.manual_seed seeds GPUs too
            encoder = SemanticEncoder.small(spec.channels, code_dim, spec.size)
            shift = shift_for(denoiser.taps, time_width(denoiser), spec, code_dim)
        return cls(denoiser, encoder, shift, training_scale=scale).to(denoiser.device)

    @property
    def schedule(self) -> Schedule:
        """The base's."""
        return self.denoiser.schedule

    @property
    def input(self) -> InputSpec:
        """The base's."""
        return self.denoiser.input

    @property
    def sampling(self) -> SamplingSpec:
        """The base's."""
        return self.denoiser.sampling

    @torch.no_grad()
    def encode(self, x0: Tensor) -> Tensor:
        """Images (B, C, H, W) to codes (B, D). Without gradients; `.encoder` has them."""
        if x0.ndim != 4 or x0.shape[1] != self.input.channels:
            raise InputError(f"images of shape {tuple(x0.shape)}", f"expected (B, {self.input.channels}, H, W)")
        with evaluating(self):
            code: Tensor = self.encoder(x0)
        return code

    def at(self, z: Tensor, *, scale: str | None = None) -> ShiftedDenoiser:
        """The denoiser that codes make of the base.

        Args:
            z: (B, D), one per image, or (1, D), one for all.
            scale: "posterior" or "score"; None is the model's own habit (`sampling_scale`).
        """
        return self.blend([z], [1.0], scale=scale)

    def blend(self, codes: Sequence[Tensor], weights: Sequence[Weight], *, scale: str | None = None) -> ShiftedDenoiser:
        """The denoiser whose G is the weighted sum of the G of several codes (PDAE 1.11, "trajectory").

        Args:
            codes: each (B, D) or (1, D).
            weights: a number or (B,) for each code.
            scale: as in `at`.
        """
        habit = "score" if self.sampling_scale == "paper" else self.training_scale
        return ShiftedDenoiser(self.denoiser, self.shift, codes, weights, scale or habit)

    def decode(
        self,
        z: Tensor,
        x_T: Tensor | None = None,
        *,
        steps: int = 50,
        noise: Noise | None = None,
        generator: Generator | None = None,
        sampler: Sampler = ddim,
        clip: bool | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Rebuild images from codes.

        Args:
            z: (B, D).
            x_T: where the sampler starts, (B, C, H, W); None draws it.
            steps: network evaluations.
            noise: source of x_T (its step 0) and of the sampler's noise, for example `dr.noise_for(seed, ids)`.
            generator: in its place.
            sampler: a function of `diffrep.sampling`.
            clip: clamp x0 to [-1, 1] in every step; None is the base's habit.
            progress: see the samplers.

        Returns:
            (B, C, H, W) at the end of the base's path, for PDAE's rule the level of t = 0.

        Errors:
            UsageError: neither x_T nor noise nor generator is given.
        """
        source = noise if noise is not None else generator
        if x_T is None:
            x_T = self._start(as_noise(source), steps, z)
        given = None if source is None else as_noise(source)
        return self._walk(self.at(z), x_T, steps, given, sampler, clip, progress)

    @torch.no_grad()
    def invert(
        self, x0: Tensor, z: Tensor, *, steps: int = 100, clip: bool | None = None, progress: Progress | None = None
    ) -> Tensor:
        """The x_T from which `decode(z, x_T)` rebuilds these images: DDIM walked upwards (PDAE 1.8).

        Args:
            x0: images, (B, C, H, W).
            z: their codes, (B, D).
            steps: network evaluations.
            clip: clamp x0 in every step; None is the base's habit. The official program does, so that saturated
                pixels come back a little changed.
            progress: see the samplers.
        """
        path = self.schedule.path(steps, rule=self.sampling.rule, direction="up")
        with evaluating(self):
            return invert(self.at(z), x0, path, clip=clip, progress=progress)

    @torch.no_grad()
    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        *,
        num_frames: int = 8,
        steps: int = 50,
        mix: str = "code",
        clip: bool | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """A way from images a to images b: codes on a line, inverted x_T on a great circle (PDAE 1.11).

        Args:
            a: (B, C, H, W).
            b: same shape.
            num_frames: at least 2; both ends are included.
            steps: of inversion and of decoding.
            mix: "code" decodes the mixed code; "shift" mixes the two G in every step (the paper's trajectory form).
            clip: as in `decode`.
            progress: see the samplers.

        Returns:
            (num_frames, C, H, W) for one pair, (num_frames, B, C, H, W) for several.
        """
        if num_frames < 2 or mix not in ("code", "shift"):
            raise UsageError(
                f'{num_frames} frames, mix "{mix}"', 'expected at least 2 frames and mix "code" or "shift"'
            )
        if a.shape != b.shape:
            raise InputError(f"images of shapes {tuple(a.shape)} and {tuple(b.shape)}", "expected equal shapes")
        z_a, z_b = self.encode(a), self.encode(b)
        ends = [self.invert(x, z, steps=steps, clip=clip) for x, z in ((a, z_a), (b, z_b))]
        position = torch.linspace(0, 1, num_frames, device=a.device).repeat_interleave(len(a))
        z_a, z_b, x_a, x_b = (t.repeat(num_frames, *[1] * (t.ndim - 1)) for t in (z_a, z_b, *ends))
        denoise = (
            self.at(lerp(z_a, z_b, position)) if mix == "code" else self.blend([z_a, z_b], [1 - position, position])
        )
        x_T = slerp(x_a, x_b, position)
        frames = self._walk(denoise, x_T, steps, None, ddim, clip, progress)
        return frames if len(a) == 1 else frames.reshape(num_frames, *a.shape)

    def config(self) -> dict[str, Any]:
        """Everything but the weights and the base, as JSON can hold it."""
        return {
            "kind": "shift",
            "encoder": self.encoder.config(),
            "shift": self.shift.config(),
            "training_scale": self.training_scale,
            "sampling_scale": self.sampling_scale,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], denoiser: Denoiser) -> ShiftAutoencoder:
        """The fresh autoencoder of this base that `config()` described."""
        encoder, shift = SemanticEncoder.from_config(config["encoder"]), shift_from_config(config["shift"])
        scales = {name: config[name] for name in ("training_scale", "sampling_scale")}
        return cls(denoiser, encoder, shift, **scales)

    def _start(self, noise: Noise, steps: int, z: Tensor) -> Tensor:
        """x_T at the noisy end of a path: standard normal, times sigma where the image is not scaled down."""
        spec, level = self.input, self.schedule.path(steps, rule=self.sampling.rule)[0]
        drawn = noise(0, (len(z), spec.channels, spec.size, spec.size)).to(z)
        return drawn if self.schedule.convention == "vp" else drawn * float(level.sigma)

    def _walk(
        self,
        denoise: ShiftedDenoiser,
        x_T: Tensor,
        steps: int,
        noise: Noise | None,
        sampler: Sampler,
        clip: bool | None,
        progress: Progress | None,
    ) -> Tensor:
        path = self.schedule.path(steps, rule=self.sampling.rule)
        with evaluating(self):
            return sampler(denoise, x_T, path, clip=clip, noise=noise, progress=progress)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 (attributes are any)
        if name in BESIDE:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> ShiftAutoencoder:
        for module in (super(), *(self.__dict__[name] for name in BESIDE)):
            if module is not None:
                module._apply(fn, recurse)
        return self


def time_width(denoiser: Denoiser) -> int:
    """Width of the network's tap "time"."""
    width = getattr(denoiser.network, "time_width", None)
    if not isinstance(width, int):
        raise UsageError(
            f"{type(denoiser.network).__name__} names no time_width", "the shift needs a network with a time tap"
        )
    return width


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, the former mode after."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
