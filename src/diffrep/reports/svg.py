"""Curves as a few lines of inline SVG, coloured by CSS variables: they follow the light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 44
MAX_POINTS = 200
DASHES = ("", "6 4", "2 3", "9 3 2 3")


def curves(block: dict[str, Any]) -> str:
    """Draw a "curves" block as an SVG element with a title for screen readers.

    Args:
        block: as `diffrep.experiments.document.curves` makes it; points that are not finite (or not
            positive, where `log_y`) are left out.
    """
    log_y = bool(block.get("log_y"))
    lines = [thin(_usable(s["x"], s["y"], log_y)) for s in block["series"]]
    points = [p for line in lines for p in line]
    if not points:
        return ""
    x_ticks = ticks(min(p[0] for p in points), max(p[0] for p in points), 6)
    y_ticks = _y_ticks([p[1] for p in points], log_y)
    x_range = (min(x_ticks[0], min(p[0] for p in points)), max(x_ticks[-1], max(p[0] for p in points)))
    y_range = (y_ticks[0], y_ticks[-1])
    body = [*_grid(x_ticks, y_ticks, x_range, y_range, log_y), *_labels(block)]
    for k, line in enumerate(lines):
        path = " ".join(f"{_x(x, x_range):.1f},{_y(y, y_range, log_y):.1f}" for x, y in line)
        dash = f' stroke-dasharray="{DASHES[k % 4]}"' if k % 4 else ""
        body.append(f'<polyline class="line line-{k % 4}" points="{path}"{dash}/>')
    title = f"<title>{escape(str(block.get('alt', '')))}</title>"
    return f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{title}{"".join(body)}</svg>'


def thin(points: Sequence[tuple[float, float]], most: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Average neighbouring points until at most `most` are left."""
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // most)
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that span low..high in at most `most` intervals.

    Example:
        >>> ticks(0.0, 999.0, 6)
        [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10, 20) if power * f >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def _usable(x: Sequence[float | None], y: Sequence[float | None], log_y: bool) -> list[tuple[float, float]]:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b) and (b > 0 or not log_y)]


def _y_ticks(values: Sequence[float], log_y: bool) -> list[float]:
    if not log_y:
        return ticks(min(0.0, *values), max(values), 5)
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    stride = -(-(high - low) // 6)
    exponents = list(range(low, high + 1, stride))
    if exponents[-1] < high:
        exponents.append(exponents[-1] + stride)
    return [10.0**k for k in exponents]


def _x(value: float, span: tuple[float, float]) -> float:
    return LEFT + (value - span[0]) / (span[1] - span[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, span: tuple[float, float], log_y: bool) -> float:
    low, high = (math.log10(span[0]), math.log10(span[1])) if log_y else span
    here = math.log10(value) if log_y else value
    return HEIGHT - BOTTOM - (here - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def _grid(
    x_ticks: list[float],
    y_ticks: list[float],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    log_y: bool,
) -> list[str]:
    drawn = []
    for value in y_ticks:
        y = _y(value, y_range, log_y)
        drawn.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(value, log_y)}</text>')
    for value in x_ticks:
        x = _x(value, x_range)
        drawn.append(f'<path class="tick" d="M{x:.1f} {HEIGHT - BOTTOM}v5"/>')
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        at = min(x, WIDTH - 2) if anchor == "end" else x
        drawn.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="{anchor}">{_number(value)}</text>')
    drawn.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return drawn


def _labels(block: dict[str, Any]) -> list[str]:
    x, y = escape(str(block["x_label"])), escape(str(block["y_label"]))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    center = (LEFT + WIDTH - RIGHT) / 2
    return [
        f'<text class="name" x="{center}" y="{HEIGHT - 5}" text-anchor="middle">{x}</text>',
        f'<text class="name" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{y}</text>',
    ]


def _number(value: float, power: bool = False) -> str:
    exponent = round(math.log10(value)) if value > 0 else 0
    if power and not -3 <= exponent <= 3:
        return f'10<tspan dy="-5" font-size="9">{exponent}</tspan>'
    return f"{value:,.6g}".replace(",", "\N{NARROW NO-BREAK SPACE}")
