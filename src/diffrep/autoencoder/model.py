"""The semantic autoencoder made of a frozen denoiser (PDAE, Zhang et al. 2022).

An encoder turns an image into a short code z; a shift estimator adds to the frozen prediction what the code knows.
`at(z)` is again a denoiser, so decoding is sampling it, and x_T, found by inversion, is the rest of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffrep.autoencoder.encoder import SemanticEncoder
from diffrep.autoencoder.kappa import check_scale
from diffrep.autoencoder.shift import Shift
from diffrep.autoencoder.shifted import ShiftedDenoiser, Weight, frozen
from diffrep.autoencoder.tokens import shift_for, shift_from_config
from diffrep.autoencoder.walks import SampledAutoencoder
from diffrep.denoiser import Denoiser, InputSpec, SamplingSpec
from diffrep.errors import UsageError, nearest
from diffrep.randomness import seed_of
from diffrep.schedules import Schedule

SAMPLING_SCALES = ("paper", "exact")


class ShiftAutoencoder(SampledAutoencoder):
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

    beside = ("denoiser", "prior", "classifier")
    carries_base: bool
    """Whether it is saved with its base: where the base came in the same file and has no source of its own."""
    encoder: SemanticEncoder

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
        self.carries_base = False
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


def time_width(denoiser: Denoiser) -> int:
    """Width of the network's tap "time"."""
    width = getattr(denoiser.network, "time_width", None)
    if not isinstance(width, int):
        raise UsageError(
            f"{type(denoiser.network).__name__} names no time_width", "the shift needs a network with a time tap"
        )
    return width
