"""Reconstruction from codes, beside everything that it should be compared with (PDAE 3.6 and 4.1).

"z only" starts from random x_T that belongs to the image, "z + inverted x_T" from the noise that inversion found.
Controls: the code of another image, no code at all, inverted x_T without a code, the mean image, and PCA with as many
numbers as the code. Every number names its steps: with fewer steps z-only stays near the posterior mean, which is
nearer to the image in the mean square than a sample is; it is not a better sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffrep.data import to_uint8
from diffrep.experiments.controls import derangement, mean_image, pca_reconstruction
from diffrep.experiments.document import Column, Outcome, Row, section, strip, table
from diffrep.metrics import mse, psnr, ssim
from diffrep.randomness import noise_for
from diffrep.sampling import ddim, invert

Progress = Callable[[str, int, int], None]
View = Callable[[Tensor], Tensor]
STRIP = ("input", "z only", "z + inverted x_T", "shuffled z", "unconditional", "mean image")
TEXT = (
    "Each image is encoded and decoded again. With z alone, everything that the code does not hold is drawn at "
    "random (x_T); with inverted x_T, the decoder also gets the noise that belongs to this very image. Inverted x_T "
    "rebuilds most of an image even without a code, so it stands here as a control. More steps make z-only numbers "
    "larger, not the samples worse: few steps stay near the mean of all images that fit the code."
)


@dataclass(frozen=True)
class Method:
    """One way to rebuild images: what it is called, which row it stands against, and its keys in the results."""

    name: str
    key: str
    against: str = ""
    note: str = ""
    shown: str = ""


@dataclass
class Walk:
    """Images on their way through an autoencoder; codes and inversions are computed once.

    Attributes:
        autoencoder: any `Autoencoder`.
        images: clean images (N, C, H, W) in [-1, 1].
        ids: one id per image; the random x_T belongs to (seed, id).
        seed: the run's seed.
        batch_size: images per pass.
    """

    autoencoder: Any
    images: Tensor
    ids: Sequence[str]
    seed: int = 0
    batch_size: int = 512
    _inverted: dict[tuple[int, bool], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.codes = self._batched(lambda rows: self.autoencoder.encode(self.images[rows]))
        self.start = noise_for(self.seed, self.ids)(0, tuple(self.images.shape)).to(self.images)

    def decode(self, codes: Tensor, start: Tensor, steps: int) -> Tensor:
        """Images that these codes and this x_T make."""
        return self._batched(lambda rows: self.autoencoder.decode(codes[rows], start[rows], steps=steps))

    def unconditional(self, start: Tensor, steps: int) -> Tensor:
        """What the frozen model makes of x_T without a code."""
        base = self.autoencoder.denoiser
        path = base.schedule.path(steps, rule=base.sampling.rule)
        return self._batched(lambda rows: ddim(base, start[rows], path))

    def inverted(self, steps: int, *, with_code: bool) -> Tensor:
        """The x_T of the images, found with their codes or by the frozen model alone."""
        key = (steps, with_code)
        if key not in self._inverted:
            self._inverted[key] = self._batched(lambda rows: self._invert(rows, steps, with_code))
        return self._inverted[key]

    def _invert(self, rows: slice, steps: int, with_code: bool) -> Tensor:
        if with_code:
            found: Tensor = self.autoencoder.invert(self.images[rows], self.codes[rows], steps=steps)
            return found
        base = self.autoencoder.denoiser
        path = base.schedule.path(steps, rule=base.sampling.rule, direction="up")
        return invert(base, self.images[rows], path)

    def seen(self, images: Tensor, view: View | None) -> Tensor:
        """Images as pictures."""
        return images if view is None else self._batched(lambda rows: view(images[rows]))

    def _batched(self, work: Callable[[slice], Tensor]) -> Tensor:
        starts = range(0, len(self.images), self.batch_size)
        return torch.cat([work(slice(k, k + self.batch_size)) for k in starts])


@torch.inference_mode()
def reconstruct(
    autoencoder: Any,  # noqa: ANN401 (the Autoencoder protocol, either class)
    images: Tensor,
    ids: Sequence[str],
    *,
    train: Tensor | None = None,
    steps: Sequence[int] = (5, 10, 50),
    headline_steps: int = 10,
    inversion_steps: Sequence[int] = (10, 50),
    shown: int = 12,
    seed: int = 0,
    batch_size: int = 512,
    view: View | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Rebuild images in every way, measure MSE, SSIM and PSNR on [0, 1], and make the table and the strip.

    Latents are measured and shown as pixels, by `view`, also those that are rebuilt: the VAE's own error is in no row.

    Args:
        autoencoder: any `Autoencoder`; without a frozen `.denoiser` the rows without a code are left out.
        images: clean images (N, C, H, W) in [-1, 1], at least 2.
        ids: one id per image; the random x_T belongs to (seed, id).
        train: training images (M, C, H, W) in [-1, 1], for the mean image and PCA; None leaves both out.
        steps: DDIM steps of the z-only rows; `headline_steps` is added if it is missing.
        headline_steps: steps of the numbers that are named without steps, and of the strip.
        inversion_steps: steps of each inverted row, for the way up and for the way down.
        shown: how many images the strip shows.
        seed: the run's seed.
        batch_size: images per pass.
        view: makes pictures of latents; None where images are pictures.
        progress: called with ("reconstruction", rows done, rows in all).

    Returns:
        results `z_only_mse`, `inverted_mse`, `shuffled_z_mse`, ...; one section with table and strip.

    Errors:
        UsageError: fewer than 2 images, among which codes cannot be shuffled.
    """
    walk = Walk(autoencoder, images, ids, seed, batch_size)
    plans = list(_plans(walk, train, sorted({*steps, headline_steps}), headline_steps, list(inversion_steps)))
    seen = walk.seen(images, view)
    truth = _unit(seen)
    results: dict[str, Any] = {"z_only_steps": headline_steps, "code_dim": walk.codes.shape[1], "images": len(images)}
    rows, pictures = [], {"input": seen}
    for done, (method, make) in enumerate(plans, start=1):
        rebuilt = walk.seen(make(), view)
        unit = _unit(rebuilt)
        values = [float(metric(unit, truth).double().mean()) for metric in (mse, ssim, psnr)]
        results |= {f"{method.key}_{name}": v for name, v in zip(("mse", "ssim", "psnr"), values, strict=True)}
        rows.append(Row(method.name, values, against=method.against, note=method.note))
        if method.shown:
            pictures[method.shown] = rebuilt
        if progress:
            progress("reconstruction", done, len(plans))
    drawn = [name for name in STRIP if name in pictures]
    arrays = {"reconstruction": torch.stack([_bytes(pictures[name][:shown]) for name in drawn]).numpy()}
    blocks = [
        strip(
            "reconstruction",
            drawn,
            caption=f"The first {min(shown, len(images))} images; z only and its controls with {headline_steps} steps.",
        ),
        table(COLUMNS, _order(rows), caption=_caption(len(images), view is not None), first="Reconstruction"),
    ]
    return Outcome(results, [section("Reconstruction", *blocks, text=TEXT)], arrays)


COLUMNS = (Column("MSE", ".4f", "lower"), Column("SSIM", ".3f", "higher"), Column("PSNR, dB", ".2f", "higher"))


def _plans(
    walk: Walk, train: Tensor | None, steps: list[int], headline: int, inversion: list[int]
) -> Iterator[tuple[Method, Callable[[], Tensor]]]:
    """Every row of the table with the work that makes it; controls name the row that they stand against."""
    best = f"z only, {headline} steps"
    for n in steps:
        key = "z_only" if n == headline else f"z_only_{n}_steps"
        method = Method(f"z only, {n} steps", key, note="random x_T", shown="z only" if n == headline else "")
        yield method, lambda n=n: walk.decode(walk.codes, walk.start, n)  # type: ignore[misc]
    shuffled = walk.codes[derangement(len(walk.images), walk.seed).to(walk.codes.device)]
    method = Method(f"shuffled z, {headline} steps", "shuffled_z", best, "same x_T", "shuffled z")
    yield method, lambda: walk.decode(shuffled, walk.start, headline)
    frozen = hasattr(walk.autoencoder, "denoiser")
    if frozen:
        method = Method(f"unconditional, {headline} steps", "unconditional", best, "no code, same x_T", "unconditional")
        yield method, lambda: walk.unconditional(walk.start, headline)
    if train is not None:
        yield from _fitted(walk, train, best)
    for k, n in enumerate(inversion):
        suffix = "" if k == 0 else f"_{n}_steps"
        name = f"z + inverted x_T, {n} + {n} steps"
        method = Method(name, f"inverted{suffix}", shown="" if k else "z + inverted x_T")
        yield method, lambda n=n: walk.decode(walk.codes, walk.inverted(n, with_code=True), n)  # type: ignore[misc]
        if frozen:
            bare = Method(f"inverted x_T without code, {n} + {n} steps", f"inverted_without_code{suffix}", name)
            yield bare, lambda n=n: walk.unconditional(walk.inverted(n, with_code=False), n)  # type: ignore[misc]


def _fitted(walk: Walk, train: Tensor, best: str) -> Iterator[tuple[Method, Callable[[], Tensor]]]:
    """Controls that are fitted on training images: their mean, and PCA with as many numbers as the code."""
    mean = mean_image(train)
    method = Method("mean image", "mean_image", best, "of train", "mean image")
    yield method, lambda: mean.expand_as(walk.images)
    count = min(walk.codes.shape[1], len(train), train[0].numel())
    method = Method(f"PCA, {count} numbers", "pca", best, "fitted on train; as many numbers as the code")
    yield method, lambda: pca_reconstruction(train, walk.images, count)


def _order(rows: list[Row]) -> list[Row]:
    """Results first among those they stand with: each result row, then its controls."""
    ordered: list[Row] = []
    for row in rows:
        if not row.against:
            ordered += [row, *(other for other in rows if other.against == row.name)]
    return ordered


def _caption(count: int, decoded: bool) -> str:
    kind = "latents, all decoded by the VAE, also the input" if decoded else "images"
    return (
        f"{count} {kind}, values clamped to [0, 1]. Indented rows are controls of the row above; a control that is "
        "better than its result is marked."
    )


def _unit(images: Tensor) -> Tensor:
    return (images / 2 + 0.5).clamp(0, 1)


def _bytes(images: Tensor) -> Tensor:
    return torch.as_tensor(to_uint8(images))
