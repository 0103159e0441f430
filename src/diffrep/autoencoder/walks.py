"""What semantic autoencoders share: their decoder is a denoiser `at(z)`, and all they do with it is to sample it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from diffrep.autoencoder.edit import CodeStats, lerp, slerp
from diffrep.denoiser import Denoise, InputSpec, SamplingSpec, check_images
from diffrep.errors import InputError, UsageError
from diffrep.randomness import Noise, as_noise
from diffrep.sampling import Progress, Sampler, ddim, invert
from diffrep.schedules import Schedule
from diffrep.taps import evaluating


class SampledAutoencoder(nn.Module):
    """An autoencoder whose decoder is a diffusion sampler; a subclass says what its denoiser for a code is.

    A subclass has `encoder`, `schedule`, `input` and `sampling`, and implements `at`, and `blend` where it can.

    Attributes:
        code_stats: mean and spread of codes over a training set, or None.
        prior: draws codes, or None.
        classifier: attributes from standardized codes, or None.
        beside: attributes that stand beside the module registry: in no parameters() and no state_dict(), but moved
            by `.to`.
    """

    beside: ClassVar[tuple[str, ...]] = ("prior", "classifier")
    encoder: nn.Module
    code_stats: CodeStats | None
    prior: nn.Module | None
    classifier: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.code_stats = None
        self.prior = None
        self.classifier = None

    @property
    def schedule(self) -> Schedule:
        """The noise levels that the decoder knows."""
        raise NotImplementedError

    @property
    def input(self) -> InputSpec:
        """Channels, size and range of its images."""
        raise NotImplementedError

    @property
    def sampling(self) -> SamplingSpec:
        """Its habits when it is sampled."""
        raise NotImplementedError

    def at(self, z: Tensor) -> nn.Module:
        """The denoiser that codes make: (B, D), one per image, or (1, D), one for all."""
        raise NotImplementedError

    def blend(self, codes: Sequence[Tensor], weights: Sequence[Tensor | float]) -> nn.Module:
        """A denoiser between those of several codes, in each prediction.

        Errors:
            UsageError: this kind of autoencoder has none.
        """
        raise UsageError(f"a {type(self).__name__} cannot blend shifts", 'take mix="code"')

    @torch.no_grad()
    def encode(self, x0: Tensor) -> Tensor:
        """Images (B, C, H, W) to codes (B, D) of their type. Without gradients; `.encoder` has them.

        Errors:
            InputError: no floating-point numbers, or another shape.
        """
        check_images(x0)
        if x0.ndim != 4 or x0.shape[1] != self.input.channels:
            raise InputError(f"images of shape {tuple(x0.shape)}", f"expected (B, {self.input.channels}, H, W)")
        with evaluating(self):
            code: Tensor = self.encoder(x0.to(next(self.encoder.parameters(), x0).dtype))
        return code.to(x0.dtype)

    def forward(self, *args: object, **named: object) -> Tensor:
        """An autoencoder is no denoiser by itself. Errors: UsageError, naming what is."""
        raise UsageError(
            "an autoencoder predicts nothing without a code",
            "take autoencoder.at(z), or its frozen autoencoder.denoiser",
        )

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
            UsageError: neither x_T nor noise nor generator is given, or both of the last two.
        """
        if noise is not None and generator is not None:
            raise UsageError("both noise= and generator= were given", "leave one out")
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

    def _start(self, noise: Noise, steps: int, z: Tensor) -> Tensor:
        """x_T at the noisy end of a path: standard normal, times sigma where the image is not scaled down."""
        spec, level = self.input, self.schedule.path(steps, rule=self.sampling.rule)[0]
        drawn = noise(0, (len(z), spec.channels, spec.size, spec.size)).to(z)
        return drawn if self.schedule.convention == "vp" else drawn * float(level.sigma)

    def _walk(
        self,
        denoise: Denoise,
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
        if name in self.beside:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> SampledAutoencoder:
        for module in (super(), *(self.__dict__[name] for name in self.beside)):
            if module is not None:
                module._apply(fn, recurse)
        return self
