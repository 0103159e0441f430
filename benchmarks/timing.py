"""How speed is measured: CPU time, one thread, the variants in turn in one process, the median of per-round ratios.

Wall time on a shared machine says nothing about the software; the CPU time of two variants measured a moment apart
drifts together, so that their ratio holds.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

import diffrep


@dataclass(frozen=True)
class Row:
    """One claim: how many times less CPU time `ours` takes than `plain`."""

    name: str
    plain: str
    ours: str
    ratio: float
    low: float
    high: float
    bar: float
    at_most: bool = False
    rounds: int = 0
    cpu_ms: dict[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the ratio is on the right side of the bar."""
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar


def compare(
    name: str, plain: tuple[str, Callable[[], Any]], ours: tuple[str, Callable[[], Any]], bar: float, rounds: int = 5
) -> Row:
    """Run the two in turn, after one round that does not count; the ratio is plain / ours."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        times.append((_cpu(plain[1]), _cpu(ours[1])))
    ratios = [a / b for a, b in times[1:]]
    cpu = {plain[0]: 1e3 * median(a for a, _ in times[1:]), ours[0]: 1e3 * median(b for _, b in times[1:])}
    return Row(name, plain[0], ours[0], median(ratios), min(ratios), max(ratios), bar, rounds=rounds, cpu_ms=cpu)


def compare_cost(
    name: str, less: tuple[str, Callable[[], Any]], more: tuple[str, Callable[[], Any]], bar: float, rounds: int = 5
) -> Row:
    """The same for a cost that should be small: the ratio is more / less, and should be at most the bar."""
    row = compare(name, more, less, bar, rounds)
    return Row(**{**asdict(row), "at_most": True})


def conditions() -> dict[str, str]:
    """Commit, CPU and versions: what a ratio belongs to."""
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "commit": git.stdout.strip() or "unknown",
        "cpu": f"{cpu} ({capability})",
        "torch": torch.__version__,
        "diffrep": diffrep.__version__,
        "threads": str(torch.get_num_threads()),
    }


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | compared with | ratio | min, max | bar | holds |", "|---|---|---|---|---|---|"]
    for row in rows:
        sign = "<=" if row.at_most else ">="
        spread = f"{row.low:.2f}, {row.high:.2f}"
        what, other = (row.plain, row.ours) if row.at_most else (row.ours, row.plain)
        lines.append(
            f"| {row.name}: {what} | {other} | **{row.ratio:.2f}** | {spread} | {sign} {row.bar:g} | "
            f"{'yes' if row.holds else 'NO'} |"
        )
    return "\n".join(lines)


def write(rows: list[Row], path: Path) -> None:
    """JSON with the conditions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({**conditions(), "rows": [asdict(r) | {"holds": r.holds} for r in rows]}, indent=1) + "\n"
    )


def _cpu(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start
