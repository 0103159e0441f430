"""Decode many files in worker processes.

The workers are plain interpreters that run `serve`, fed through pipes. They import this package and nothing of the
caller's script, so a script needs no main guard, and a notebook works too. A worker that dies (a decoder that
crashes, memory that runs out) costs the one file that killed it. Results come in the order of the files.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import BinaryIO, TypeVar, cast

from diffrep.data.decode import Unreadable

T = TypeVar("T")
Work = Callable[[str], T]

FEWEST_FILES = 256
"""Below this many files a loop is faster than starting processes."""
MOST_WORKERS = 16
CHUNK = 32
READY = "ready"


def read_all(work: Work[T], paths: Sequence[str], workers: int | None = None) -> Iterator[T | Unreadable]:
    """Yield work(path) for each path in order, or the `Unreadable` that it raised.

    Args:
        work: a function of a module (or a partial of one) that can be pickled.
        paths: the files.
        workers: processes; None takes one per CPU for many files and a plain loop for few, 1 is the plain loop.
    """
    count = _worker_count(len(paths), workers)
    if count == 1:
        yield from (_attempt(work, path) for path in paths)
        return
    try:
        pool = _Pool(count)
    except OSError:  # no process can be had: slower, but the same
        yield from (_attempt(work, path) for path in paths)
        return
    try:
        yield from pool.map(work, paths)
    finally:
        pool.close()


def _worker_count(files: int, workers: int | None) -> int:
    if not sys.executable or (workers is None and files < FEWEST_FILES):
        return 1
    wanted = workers or min(_cpus(), MOST_WORKERS)
    return max(1, min(wanted, -(-files // CHUNK)))


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _attempt(work: Work[T], path: str) -> T | Unreadable:
    try:
        return work(path)
    except Unreadable as error:
        return Unreadable(error.reason, error.transient)  # without the traceback, which would hold the image


class _Worker:
    """One interpreter that runs `serve`, and its pipes."""

    def __init__(self) -> None:
        modules = os.pathsep.join(path or os.getcwd() for path in sys.path)
        env = os.environ | {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from diffrep.data.workers import serve; serve()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self.started: bool | None = None

    def can_start(self) -> bool:
        """Wait until the worker is there; False if it could not come up at all."""
        if self.started is None:
            try:
                self.started = pickle.load(cast(BinaryIO, self.process.stdout)) == READY
            except (EOFError, pickle.UnpicklingError):
                self.started = False
        return self.started

    def ask(self, work: Work[T], paths: Sequence[str]) -> list[T | Unreadable]:
        pickle.dump((work, list(paths)), cast(BinaryIO, self.process.stdin))
        cast(BinaryIO, self.process.stdin).flush()
        answer = pickle.load(cast(BinaryIO, self.process.stdout))  # from our own process
        return cast("list[T | Unreadable]", answer)

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                cast(BinaryIO, pipe).close()
        self.process.wait()


class _Pool:
    """Some workers, each driven by a thread that waits for it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.idle: SimpleQueue[_Worker] = SimpleQueue()
        self.made: list[_Worker] = []
        for _ in range(count):
            self.idle.put(self._new())
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="diffrep-decode")

    def _new(self) -> _Worker:
        self.made.append(_Worker())
        return self.made[-1]

    def map(self, work: Work[T], paths: Sequence[str]) -> Iterator[T | Unreadable]:
        """Results in order; a few chunks at a time are under way, so memory stays bounded."""
        chunks = deque(paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))
        under_way: deque[Future[list[T | Unreadable]]] = deque()
        while chunks or under_way:
            while chunks and len(under_way) < 2 * self.count:
                under_way.append(self.threads.submit(self._chunk, work, chunks.popleft()))
            yield from under_way.popleft().result()

    def _chunk(self, work: Work[T], paths: Sequence[str]) -> list[T | Unreadable]:
        answer = self._ask(work, paths)
        if answer is not None:
            return answer
        rows: list[T | Unreadable] = []
        for path in paths:
            single = self._ask(work, [path])
            rows += single if single is not None else [Unreadable("the decoder crashed")]
        return rows

    def _ask(self, work: Work[T], paths: Sequence[str]) -> list[T | Unreadable] | None:
        """The worker's answer, or None if it died; then another takes its place.

        Where no worker can start, this thread does the work.
        """
        worker = self.idle.get()
        try:
            return worker.ask(work, paths) if worker.can_start() else [_attempt(work, path) for path in paths]
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            worker.close()
            worker = self._new()
            return None
        finally:
            self.idle.put(worker)

    def close(self) -> None:
        self.threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.made:
            worker.close()


def serve() -> None:
    """Answer (work, paths) read from standard input until it ends; what a worker process runs."""
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets the interrupt too, and closes the pipe
    answers = os.fdopen(os.dup(1), "wb")
    pickle.dump(READY, answers)
    answers.flush()
    os.dup2(2, 1)  # whatever a library prints goes to standard error, not between the answers
    while True:
        try:
            work, paths = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            pickle.dump([_attempt(work, path) for path in paths], answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            return
