"""Being asked to stop: SIGTERM and SIGINT are noted, so that a step can be finished and saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While open, the first SIGTERM or SIGINT is noted in `name`; a second one acts as if nobody listened.

    Args:
        listen: False changes nothing; nor does any other thread than the main one.

    Example:
        >>> with StopRequest() as stop:
        ...     stop.name is None
        True
    """

    def __init__(self, listen: bool = True) -> None:
        self.listen = listen
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if self.listen and threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
        self.name = signal.Signals(number).name
