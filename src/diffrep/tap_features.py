"""Features: pooled taps at noise levels, as one callable that maps images to named vectors.

One pass per level serves all taps and ends at the deepest of them. The noise of an image belongs to the image: it is
derived from (noise_seed, id), so that a feature does not depend on the batch, its order or the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffrep.denoiser import check_images, check_level
from diffrep.errors import InputError, UsageError
from diffrep.guidance import wrappers
from diffrep.noise import NoiseLevel, stack
from diffrep.randomness import normal
from diffrep.taps import base_of, evaluating, read, resolve

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


class TapFeatures:
    """Map images to features `{"dec.4@log_snr=6.12": (B, D)}`.

    Args:
        denoiser: a `Denoiser`, or a wrapper around one.
        taps: names, globs or official names; None: the decoder's blocks (`dec.*`), a transformer's blocks (`block.*`).
        levels: one level, or K; a list of levels is accepted.
        pool: "mean" over positions; "2x2" (or "4x4", ...) averages over that many cells; "none" flattens the map.
        noise_seed: seed of the noise that belongs to ids.
        y: label for class-conditional models; None takes the model's null class.
        precision: "float32", or "bf16" autocast.

    Errors:
        UsageError: unknown tap, pool or precision, or a level outside the model's schedule.

    Example:
        >>> import diffrep as dr
        >>> denoiser = dr.load("ddpm-digits")
        >>> features = TapFeatures(denoiser, taps="dec.*", levels=denoiser.schedule.at([1, 10, 30]))
        >>> features.names[0]
        'dec.1@log_snr=8.42'
    """

    def __init__(
        self,
        denoiser: nn.Module,
        taps: str | Iterable[str] | None = None,
        levels: NoiseLevel | Sequence[NoiseLevel] | None = None,
        pool: str = "mean",
        noise_seed: int = 0,
        y: int | str | None = None,
        precision: str = "float32",
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f'unknown precision "{precision}"', f"expected one of {', '.join(PRECISIONS)}")
        self.denoiser, self.pool, self.noise_seed, self.y, self.precision = denoiser, pool, noise_seed, y, precision
        self.base = base_of(denoiser)
        self.taps = resolve(denoiser, default_taps(self.base) if taps is None else taps)
        self.levels = _rows(levels if levels is not None else default_levels(self.base))
        for level in self.levels:
            self.base.schedule.check(level)
        self._cells = _cells(pool)
        self._suffixes = level_names(self.levels)

    @property
    def names(self) -> list[str]:
        """The features that a call returns, level by level, taps in the network's order."""
        return [f"{tap}@{suffix}" for suffix in self._suffixes for tap in self.taps]

    @torch.inference_mode()
    def __call__(
        self, x0: Tensor, *, noise: Tensor | None = None, ids: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Noise the images, run the denoiser once per level in evaluation mode, and pool its taps.

        Args:
            x0: clean images in the model's range, (B, C, H, W).
            noise: the noise itself, like x0; used at every level.
            ids: one id per image; the noise is derived from (noise_seed, id). With neither, the image's own bytes
                are its id, so that an image has the same features in any batch.

        Returns:
            {name: (B, D)} in float32, on the device of x0.

        Errors:
            InputError: images of a shape that the model does not take, or that are no floats; noise of another
                shape; not one id per image.
        """
        check_images(x0)
        eps = self._noise(x0, noise, ids)
        out: dict[str, Tensor] = {}
        dtype = PRECISIONS[self.precision]
        for level, suffix in zip(self.levels, self._suffixes, strict=True):
            alpha, sigma = level.like(x0)
            with evaluating(self.denoiser), torch.autocast(x0.device.type, dtype=dtype, enabled=dtype is not None):
                maps = read(self.denoiser, alpha * x0 + sigma * eps, level, self.taps, y=self.y)
            out.update({f"{tap}@{suffix}": self._pooled(maps[tap]) for tap in self.taps})
        return out

    def _noise(self, x0: Tensor, noise: Tensor | None, ids: Sequence[str] | None) -> Tensor:
        if noise is not None:
            if not isinstance(noise, Tensor):
                raise InputError(f"noise of type {type(noise).__name__}", "give a tensor like the images, or ids=")
            if noise.shape != x0.shape:
                raise InputError(f"noise of shape {tuple(noise.shape)} for images of {tuple(x0.shape)}")
            return noise.to(x0)
        if ids is None:
            rows = x0.detach().float().cpu().contiguous()
            ids = [blake2b(row.numpy().tobytes(), digest_size=16).hexdigest() for row in rows]
        if len(ids) != len(x0):
            raise InputError(f"{len(ids)} ids for {len(x0)} images", "give one id per image")
        return normal(self.noise_seed, "features", [str(i) for i in ids], tuple(x0.shape[1:])).to(x0)

    def _pooled(self, tap: Tensor) -> Tensor:
        tap = tap.float()
        if tap.ndim == 2:
            return tap
        if self._cells is None:
            return tap.flatten(1)
        if self._cells == 1:
            return tap.mean(dim=(2, 3))
        return F.adaptive_avg_pool2d(tap, self._cells).flatten(1)

    def protocol(self) -> dict[str, object]:
        """Everything that these features depend on, apart from the images."""
        return {
            "model": self.base.identity,
            "model_source": self.base.source,
            "taps": self.taps,
            "log_snr": [float(level.log_snr) for level in self.levels],
            "pool": self.pool,
            "noise_seed": self.noise_seed,
            "y": self.y,
            "precision": self.precision,
            **({"wrappers": around} if (around := wrappers(self.denoiser)) else {}),
        }

    def __repr__(self) -> str:
        return f"TapFeatures(taps={self.taps}, levels={self._suffixes}, pool={self.pool!r})"


def default_taps(denoiser: nn.Module) -> str:
    """Where both papers look for features: `dec.*` of a U-Net, `block.*` of a transformer, else every tap."""
    names = [tap.name for tap in base_of(denoiser).taps]
    return next((f"{part}.*" for part in ("dec", "block") if any(n.startswith(f"{part}.") for n in names)), "*")


def default_levels(denoiser: nn.Module) -> NoiseLevel:
    """Three low noise levels inside the model's range: log-SNR 8, 6 and 4, where both papers find the best features."""
    schedule = base_of(denoiser).schedule
    low, high = schedule.log_snr_range
    return stack([schedule.convert(NoiseLevel.from_log_snr(min(max(v, low), high))) for v in (8.0, 6.0, 4.0)])


def level_names(levels: Sequence[NoiseLevel]) -> list[str]:
    """Names by log-SNR with the shortest decimals, at least two, that keep them apart.

    Example:
        >>> level_names([NoiseLevel.from_log_snr(6.1201), NoiseLevel.from_log_snr(3.0)])
        ['log_snr=6.12', 'log_snr=3.00']
    """
    values = [float(level.log_snr) for level in levels]
    for decimals in range(2, 12):
        names = [f"log_snr={value:.{decimals}f}" for value in values]
        if len(set(names)) == len(set(values)):
            break
    if len(set(values)) < len(values):
        raise UsageError(f"a noise level is given twice: log-SNR {values}", "give each level once")
    return names


def _rows(levels: NoiseLevel | Sequence[NoiseLevel]) -> list[NoiseLevel]:
    if isinstance(levels, NoiseLevel):
        return list(levels) if levels.shape else [levels]
    for level in levels:
        check_level(level)
    return [row for level in levels for row in _rows(level)]


def _cells(pool: str) -> int | None:
    if pool == "none":
        return None
    if pool == "mean":
        return 1
    rows, _, columns = pool.partition("x")
    if rows.isdigit() and rows == columns and int(rows) > 0:
        return int(rows)
    raise UsageError(f'unknown pool "{pool}"', 'expected "mean", "none" or a grid such as "2x2"')
