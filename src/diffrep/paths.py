"""Path rules: which levels a sampler walks, by the name of the program or paper that uses them.

A rule gives the levels from high to low noise. Rules that end at the image itself append the clean end, where the
network is not evaluated. Walking up, the image stands at the first level of the path, as in the official programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffrep.errors import UsageError, nearest
from diffrep.noise import NoiseLevel, stack

LOWEST, HIGHEST = 0.002, 80.0
"""Between these sigmas EDM's program samples, as far as a network goes so far."""

if TYPE_CHECKING:
    from diffrep.continuous import FlowSchedule
    from diffrep.schedules import DiscreteSchedule, Schedule


def make(schedule: Schedule, steps: int, rule: str | None, direction: str) -> NoiseLevel:
    """The path of `steps` network evaluations by a named rule; see `Schedule.path`."""
    discrete = hasattr(schedule, "alphas_cumprod")
    name = rule or ("pdae" if discrete else "karras")
    name, _, offset = name.partition("-") if re.fullmatch(r"leading-\d+", name) else (name, "", "")
    if name not in RULES:
        raise UsageError(f'unknown path rule "{name}"', nearest(name, RULES))
    if direction not in ("down", "up"):
        raise UsageError(f'unknown direction "{direction}"', 'expected "down" for samplers or "up" for invert')
    if steps < 1:
        raise UsageError(f"a path of {steps} steps", "expected at least 1")
    if name in TABLE_RULES and not discrete:
        raise UsageError(f'path rule "{name}" needs a discrete schedule', 'take "karras" or "uniform-log-snr"')
    if name in FLOW_RULES and schedule.convention != "flow":
        raise UsageError(f'path rule "{name}" needs the schedule of a flow', 'take "karras" or "uniform-log-snr"')
    return RULES[name](schedule, steps, direction, **({"offset": int(offset)} if offset else {}))


def karras_sigmas(position: Tensor, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Karras et al. 2022, eq. 5: sigma at `position` in [0, 1] from sigma_min to sigma_max, float64."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.pow(low + position.double() * (high - low), rho)


def pdae(schedule: DiscreteSchedule, steps: int, direction: str) -> NoiseLevel:
    """N+1 points, floor(linspace(0, T-1, N+1)), ending at the level of t = 0 (PDAE 1.10).

    NumPy's product is floored as the official program floors it. Duplicates go: with T = 1000, 1000 steps become 999.
    """
    points = np.unique(np.linspace(0, len(schedule) - 1, steps + 1).astype(np.int64))
    return schedule.at(torch.from_numpy(points if direction == "up" else points[::-1].copy()))


def guided_diffusion(schedule: DiscreteSchedule, steps: int, direction: str) -> NoiseLevel:
    """N points with an integer stride, then the image; where no stride gives N, evenly spaced and rounded.

    Walking up ends at pure noise, as Diff-AE's stochastic encoder does.
    """
    total = len(schedule)
    if steps > total:
        raise UsageError(f"{steps} steps on a schedule of {total}", f"expected at most {total}")
    strides = [s for s in range(1, total + 1) if len(range(0, total, s)) == steps]
    points = torch.arange(0, total, strides[0]) if strides else torch.linspace(0, total - 1, steps).round().long()
    if direction == "up":
        return stack([schedule.at(points), NoiseLevel(0.0, 1.0)])
    return stack([schedule.at(points.flip(0)), _clean(schedule)])


def ddae(schedule: DiscreteSchedule, steps: int, direction: str) -> NoiseLevel:
    """DDAE's grid: every (1000 // N)-th step from t = 0, then the entry before the table (DDAE 1.1.5).

    Where N does not divide the schedule, the real number of steps is larger, as in the official program.
    """
    points = torch.arange(0, len(schedule), max(1, len(schedule) // steps))
    if direction == "up":
        return schedule.at(_way_up(schedule, points))
    return stack([schedule.at(points.flip(0)), _clean(schedule)])


def leading(schedule: DiscreteSchedule, steps: int, direction: str, offset: int = 0) -> NoiseLevel:
    """Diffusers' "leading" grid: N points T // N apart from t = `offset` (`steps_offset`), then the entry before.

    Walking up, the path ends where the walk down starts; a single step goes from the table's first level to its last.
    """
    points = torch.arange(_few(schedule, steps)) * (len(schedule) // steps) + offset
    return _to_clean(schedule, points.clamp(max=len(schedule) - 1), direction)


def trailing(schedule: DiscreteSchedule, steps: int, direction: str) -> NoiseLevel:
    """Diffusers' "trailing" grid: downwards from t = T - 1 in steps of T / N, then the entry before the table.

    NumPy's range is rounded as diffusers rounds it; what it then has below t = 0 is left out.
    """
    points = np.arange(len(schedule), 0, -len(schedule) / _few(schedule, steps)).round().astype(np.int64) - 1
    return _to_clean(schedule, torch.from_numpy(points[points >= 0]), direction)


def linspace(schedule: DiscreteSchedule, steps: int, direction: str) -> NoiseLevel:
    """Points evenly spaced from t = 0 to T - 1, rounded, then the entry before the table (diffusers' "linspace")."""
    points = np.linspace(0, len(schedule) - 1, _few(schedule, steps)).round().astype(np.int64)
    return _to_clean(schedule, torch.from_numpy(points), direction)


def _few(schedule: DiscreteSchedule, steps: int) -> int:
    if steps > len(schedule):
        raise UsageError(f"{steps} steps on a schedule of {len(schedule)}", f"expected at most {len(schedule)}")
    return steps


def _to_clean(schedule: DiscreteSchedule, points: Tensor, direction: str) -> NoiseLevel:
    """Some points, walked; downwards to the level before the table, which may be the table's first itself."""
    points = torch.unique(points)
    if direction == "up":
        return schedule.at(_way_up(schedule, points))
    return stack([schedule.at(points.flip(0)), _clean(schedule)])


def _way_up(schedule: DiscreteSchedule, points: Tensor) -> Tensor:
    """Ascending points; where there is only one, the table's ends: a walk needs a start and an end."""
    return points if len(points) > 1 else torch.tensor([0, len(schedule) - 1])


def karras(schedule: Schedule, steps: int, direction: str) -> NoiseLevel:
    """N values of sigma/alpha by Karras' rule over the model's range, then the image; rho from the schedule or 7."""
    low, high = schedule.log_snr_range
    count = steps if direction == "down" else steps + 1
    position = torch.linspace(1, 0, count, dtype=torch.float64) if count > 1 else torch.ones(1, dtype=torch.float64)
    sigma = karras_sigmas(position, float(np.exp(-high / 2)), float(np.exp(-low / 2)), getattr(schedule, "rho", 7.0))
    levels = _clip(schedule, -2 * sigma.log())
    return stack([levels, NoiseLevel(1.0, 0.0)]) if direction == "down" else _reverse(levels)


def flow(schedule: FlowSchedule, steps: int, direction: str) -> NoiseLevel:
    """N+1 times evenly from pure noise (s = 1) to the image, shifted as the schedule says: SiT, REPA, LightningDiT."""
    levels = schedule.at(schedule.shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64)))
    return levels if direction == "down" else _reverse(levels)


def flow_match(schedule: FlowSchedule, steps: int, direction: str) -> NoiseLevel:
    """The grid of diffusers' FlowMatchEulerDiscreteScheduler: N times evenly from s = 1 to its table's last, the image.

    The last of the table is 1/1000, shifted; the times in between are shifted once more.
    """
    last = float(schedule.shifted(torch.tensor(1 / 1000, dtype=torch.float64)))
    s = torch.cat([schedule.shifted(torch.linspace(1, last, steps, dtype=torch.float64)), torch.zeros(1).double()])
    levels = schedule.at(s)
    return levels if direction == "down" else _reverse(levels)


def edm(schedule: Schedule, steps: int, direction: str) -> NoiseLevel:
    """What EDM's program walks with any network: Karras' rule from sigma 80 to 0.002, or as far as the network goes.

    Of a table the nearest sigmas are taken (`round_sigma`); those that are taken twice are walked once.
    """
    low, high = schedule.log_snr_range
    count = steps if direction == "down" else steps + 1
    position = torch.linspace(1, 0, count, dtype=torch.float64) if count > 1 else torch.ones(1, dtype=torch.float64)
    sigma_min, sigma_max = max(LOWEST, float(np.exp(-high / 2))), min(HIGHEST, float(np.exp(-low / 2)))
    sigma = karras_sigmas(position, sigma_min, sigma_max, 7.0)
    if hasattr(schedule, "alphas_cumprod"):
        table = schedule.at(torch.arange(len(schedule.alphas_cumprod)))
        nearest = (sigma[:, None] - table.sigma / table.alpha).abs().argmin(1)
        levels = table[torch.unique(nearest).flip(0)]
    else:
        levels = _clip(schedule, -2 * sigma.log())
    return stack([levels, NoiseLevel(1.0, 0.0)]) if direction == "down" else _reverse(levels)


def uniform_log_snr(schedule: Schedule, steps: int, direction: str) -> NoiseLevel:
    """N+1 levels evenly spaced in log-SNR over the model's range; ends at its lowest noise."""
    low, high = schedule.log_snr_range
    levels = _clip(schedule, torch.linspace(low, high, steps + 1, dtype=torch.float64))
    return levels if direction == "down" else _reverse(levels)


def _clip(schedule: Schedule, log_snr: Tensor) -> NoiseLevel:
    low, high = schedule.log_snr_range
    return NoiseLevel.of(log_snr.clamp(low, high), schedule.convention)


def _clean(schedule: DiscreteSchedule) -> NoiseLevel:
    return NoiseLevel(schedule.clean**0.5, (1 - schedule.clean) ** 0.5)


def _reverse(levels: NoiseLevel) -> NoiseLevel:
    return levels[torch.arange(len(levels) - 1, -1, -1)]


TABLE_RULES = ("pdae", "guided-diffusion", "ddae", "leading", "trailing", "linspace")
FLOW_RULES = ("flow", "flow-match")
RULES: dict[str, Callable[..., NoiseLevel]] = {
    "pdae": pdae,
    "guided-diffusion": guided_diffusion,
    "ddae": ddae,
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "flow": flow,
    "flow-match": flow_match,
    "karras": karras,
    "edm": edm,
    "uniform-log-snr": uniform_log_snr,
}
