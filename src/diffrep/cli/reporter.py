"""What a person sees while a command works: bars with the time left on a terminal, else a line every few seconds.

Everything goes to stderr; stdout belongs to results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 5.0


class Reporter:
    """Progress of named tasks, and lines of text.

    Args:
        console: where to write; None is stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def say(self, text: str) -> None:
        """Write a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, task: str, done: int, total: int) -> None:
        """Say that `done` of `total` parts of a task are done."""
        if self.console.is_terminal:
            self._draw(task, done, total)
        else:
            self._log(task, done, total)

    def counter(self, task: str) -> Callable[[int, int], None]:
        """`update` with the task's name filled in."""
        return lambda done, total: self.update(task, done, total)

    def steps(self, task: str) -> Callable[[Sequence[T]], Iterable[T]]:
        """A wrapper of a sampler's steps that reports each of them."""

        def wrap(steps: Sequence[T]) -> Iterator[T]:
            for done, step in enumerate(steps, start=1):
                yield step
                self.update(task, done, len(steps))

        return wrap

    def _draw(self, task: str, done: int, total: int) -> None:
        if self._bars is None:
            self._bars = _bars(self.console)
            self._bars.start()
        if task not in self._tasks:
            self._tasks[task] = self._bars.add_task(task, total=total)
        self._bars.update(self._tasks[task], completed=done, total=total)

    def _log(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        started = self._started.setdefault(task, now)
        if now < self._next_line:
            return
        self._next_line = now + SECONDS_BETWEEN_LINES
        left = (now - started) / done * (total - done) if done else 0.0
        self.say(f"{task}: {done} of {total}" + (f", about {left:.0f} s left" if left >= 1 else ""))


def _bars(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
