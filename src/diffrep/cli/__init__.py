"""The command line: thin, no mathematics; it composes what the library does and says what happened.

Nothing here imports torch or numpy before a command really works, so that `--help` and a wrong flag answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        words: what follows `diffrep`; None takes them from sys.argv.

    Returns:
        0 done, 1 failure, 2 wrong usage or input, 3 too much bad data, 75 stopped and resumable.
    """
    from diffrep.cli.app import run

    return run(words)
