"""Reports: a run folder in, one self-contained HTML file out. Nothing is computed here, only drawn."""

from __future__ import annotations

from diffrep.reports.html import write_report

__all__ = ["write_report"]
