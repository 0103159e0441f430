"""What no other tool checks: file lengths, and that no package is installed that breaks others beside a CPU torch."""

import sys
from importlib.util import find_spec
from pathlib import Path

LONGEST = 350
ROOTS = ("src", "tests", "benchmarks", "examples", "scripts")
UNWANTED = ("torchvision", "torchaudio")


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    problems = [f"{name} is installed; diffrep must work without it" for name in UNWANTED if find_spec(name)]
    for path in sorted(p for folder in ROOTS for p in (root / folder).rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST:
            problems.append(f"{path.relative_to(root)}: {lines} lines, at most {LONGEST}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
