"""How far a prediction misses the true posterior mean, over time: what a code has to make up for (PDAE 1.11).

For x_t with normal noise, the gap is the mean over images and pixels of (mu(x_0, x_t) - mu(x0_hat, x_t))^2,
where mu is the mean of q(x_{t-1} | x_t, x_0). The published curve used uniform noise, which no model was
trained on, so it is no reference (PDAE 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffrep.denoiser import Denoise
from diffrep.errors import UsageError
from diffrep.experiments.document import Outcome, curves, section
from diffrep.randomness import normal
from diffrep.schedules import DiscreteSchedule, Schedule

Progress = Callable[[str, int, int], None]
TEXT = (
    "At every noise level the frozen model misses the true posterior mean, because the noise has destroyed "
    "part of the image. A code brings some of it back: the same frozen model, told the image's code, misses less "
    "wherever the code knows what the noise hides."
)


def gap_times(schedule: Schedule, points: int = 21) -> list[int]:
    """Whole times from the first to the last of a discrete schedule, evenly spaced, without repeats."""
    table = _discrete(schedule)
    return sorted({int(t) for t in torch.linspace(0, len(table) - 1, points).round().tolist()})


@torch.inference_mode()
def posterior_gap(
    denoise: Denoise,
    schedule: Schedule,
    images: Tensor,
    ids: Sequence[str],
    times: Sequence[int],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[float]:
    """The gap at each time, for images in [-1, 1]; fresh normal noise per time and image, x0_hat not clamped.

    Args:
        denoise: a denoiser, also one that is told codes by `autoencoder.at(z)`; called once per time.
        schedule: its discrete schedule.
        images: clean images (N, C, H, W) in [-1, 1].
        ids: one id per image; the noise belongs to (seed, time, id).
        times: whole times of the schedule.
        seed: the run's seed.
        progress: called with ("gap", times done, times in all).

    Errors:
        UsageError: a continuous schedule, which has no step from t to t-1.
    """
    factors = mean_factors(schedule)
    gaps = []
    for done, time in enumerate(times, start=1):
        level = schedule.at(time)
        alpha, sigma = level.like(images)
        noise = normal(seed, "gap", ids, tuple(images.shape[1:]), step=int(time)).to(images)
        missed = denoise(alpha * images + sigma * noise, level).x0 - images
        gaps.append(float(factors[time] ** 2 * missed.double().square().mean()))
        if progress:
            progress("gap", done, len(times))
    return gaps


def mean_factors(schedule: Schedule) -> Tensor:
    """Weight of x_0 in the posterior mean, beta_t sqrt(abar_{t-1}) / (1 - abar_t): (T,), 1 at t = 0."""
    now = _discrete(schedule).alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=now.dtype), now[:-1]])
    return (1 - now / before) * before.sqrt() / (1 - now)


def gap_outcome(times: Sequence[int], gaps: dict[str, list[float]]) -> Outcome:
    """The curves {name: gaps at `times`} as a section of a report, and their numbers."""
    middle = len(times) // 2
    words = ", ".join(f"{name} {values[middle]:.2e}" for name, values in gaps.items())
    block = curves(
        {name: (times, values) for name, values in gaps.items()},
        x_label="t",
        y_label="gap (mean squared)",
        log_y=True,
        alt=f"Posterior-mean gap by time, logarithmic; at t = {times[middle]}: {words}",
        caption="Lower is better. Normal noise, images in [-1, 1], no clipping.",
    )
    results = {f"gap_{name.replace(' ', '_')}": values for name, values in gaps.items()}
    return Outcome({"gap_times": list(times), **results}, [section("Posterior-mean gap", block, text=TEXT)])


def _discrete(schedule: Schedule) -> DiscreteSchedule:
    if not isinstance(schedule, DiscreteSchedule):
        raise UsageError(
            f"a posterior-mean gap on {type(schedule).__name__}",
            "it needs a discrete schedule, which has single steps",
        )
    return schedule
