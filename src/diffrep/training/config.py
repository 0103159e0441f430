"""What a training run depends on, in one frozen value that is stored in every checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from diffrep.errors import UsageError, nearest
from diffrep.runs import plain

CHOICES = {
    "optimizer": ("adamw", "adam"),
    "ema": ("constant", "ramp", "half-life", None),
    "precision": ("auto", "float32", "bf16"),
}
"""The words that a setting may have."""

FREE = ("checkpoint_every", "keep_last", "log_every", "max_skipped", "device")
"""Settings that may differ when a run is resumed; `steps` may grow."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop.

    Args:
        steps: optimizer steps in all.
        batch_size: images per step; information for the reader, the loader decides.
        learning_rate: the rate after warm-up.
        optimizer: "adamw" or "adam".
        weight_decay: decoupled for "adamw", a penalty for "adam".
        betas: Adam's two decays.
        warmup_steps: the rate rises linearly over so many steps.
        cosine_to: fraction of the rate at the last step, reached along half a cosine; 1 keeps it constant.
        clip_norm: largest global norm of the gradient; None does not clip.
        accumulate: micro-batches that one step is split into, to save memory; the same result, to rounding.
        ema: rule of the averaged weights: "constant", "ramp" (DDAE 1.4), "half-life" (EDM) or None.
        ema_decay: the decay of "constant", and the highest of "ramp".
        ema_half_life: images; for "half-life".
        precision: "float32", "bf16" for autocast with float32 weights, or "auto": what the device is fast at, and
            for a run that is resumed what it was started with.
        seed: address of all randomness.
        checkpoint_every: steps between checkpoints; 0 writes one at the end only.
        validate_every: steps between calls of `validate`; 0 calls it at the end only.
        keep_last: newest checkpoints to keep, besides the best.
        log_every: steps between lines of metrics.jsonl.
        max_skipped: steps in a row that may be skipped because loss or gradient is not finite.
        device: where batches go; None is where the parameters are.

    Errors:
        UsageError: naming the setting, its value and what was expected.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-4
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 0
    cosine_to: float = 1.0
    clip_norm: float | None = 1.0
    accumulate: int = 1
    ema: str | None = "ramp"
    ema_decay: float = 0.9999
    ema_half_life: int = 500_000
    precision: str = "float32"
    seed: int = 0
    checkpoint_every: int = 1000
    validate_every: int = 0
    keep_last: int = 2
    log_every: int = 50
    max_skipped: int = 10
    device: str | None = None

    def __post_init__(self) -> None:
        for name, words in CHOICES.items():
            if (word := getattr(self, name)) not in words:
                raise UsageError(f'{name} = "{word}"', nearest(str(word), map(str, words)))
        for name in ("steps", "batch_size", "accumulate", "ema_half_life", "keep_last", "log_every"):
            self._expect(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "checkpoint_every", "validate_every", "weight_decay", "max_skipped"):
            self._expect(name, getattr(self, name) >= 0, "at least 0")
        self._expect("learning_rate", self.learning_rate > 0, "above 0")
        self._expect("cosine_to", 0 <= self.cosine_to <= 1, "0 to 1")
        self._expect("ema_decay", 0 <= self.ema_decay < 1, "0 to below 1")
        good = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        self._expect("betas", good, "two decays below 1")
        self._expect("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")
        object.__setattr__(self, "betas", tuple(self.betas))

    def _expect(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise UsageError(f"{name} = {getattr(self, name)!r}", f"expected {expected}")

    def as_dict(self) -> dict[str, Any]:
        """All settings as JSON can hold them."""
        return dict(plain(asdict(self)))

    def check_resumes(self, before: dict[str, Any], step: int) -> None:
        """Refuse to continue a run that had other settings.

        Args:
            before: the settings of the run, as `as_dict` gave them.
            step: the step that the run has reached.

        Errors:
            UsageError: naming the setting that differs; `steps` may grow, those in `FREE` may change.
        """
        for name, value in self.as_dict().items():
            was = before.get(name)
            if name == "steps" and value < (was or 0):
                raise UsageError(
                    f"the run has steps = {was} and is at step {step}, now steps = {value}",
                    "steps may only grow",
                )
            if name not in (*FREE, "steps") and value != was:
                raise UsageError(
                    f"the run to resume was started with {name} = {was!r}, now it is {value!r}",
                    f"use {name} = {was!r}, or another run folder",
                )
