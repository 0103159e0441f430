"""Progress: bars on a terminal, lines elsewhere, and never on stdout."""

from io import StringIO

import pytest
from rich.console import Console

from diffrep.cli import reporter
from diffrep.cli.reporter import Reporter


def test_lines_say_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 6.0, 6.5, 12.0])
    monkeypatch.setattr(reporter.time, "monotonic", lambda: next(now))
    out = StringIO()
    with Reporter(Console(file=out, width=200)) as shown:
        for done in (1, 2, 4):
            shown.update("work", done, 8)
    assert out.getvalue().splitlines() == ["work: 1 of 8", "work: 4 of 8, about 6 s left"]


def test_a_terminal_gets_bars() -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with Reporter(console) as shown:
        steps = list(shown.steps("walk")([1, 2, 3]))
        shown.counter("count")(5, 10)
    assert steps == [1, 2, 3]
    assert "walk" in out.getvalue()
    assert "3/3" in out.getvalue()
    assert "5/10" in out.getvalue()
