"""Run all benchmarks, print a table, write benchmarks/results/latest.json.

python -m benchmarks            all rows
python -m benchmarks extraction taps
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.timing import conditions, table, write

ALL = ("extraction", "taps", "ddpm_step", "pdae_step", "probe_grid")


def main() -> None:
    """Run the rows that are named, or all."""
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ALL
    if unknown := [name for name in wanted if name not in ALL]:
        sys.exit(f"unknown benchmark {unknown[0]}; there are: {', '.join(ALL)}")
    print("  ".join(f"{key}: {value}" for key, value in conditions().items()), flush=True)
    rows = []
    for name in wanted:
        rows += import_module(f"benchmarks.{name}").rows()
        print(f"{name}: {', '.join(f'{row.ratio:.2f}' for row in rows[-2:])}", flush=True)
    print("\n" + table(rows))
    write(rows, Path(__file__).parent / "results" / "latest.json")


if __name__ == "__main__":
    main()
