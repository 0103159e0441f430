"""`diffrep report`: the report of a run folder, drawn again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from diffrep.cli.common import print_results
from diffrep.cli.configs import ReportConfig
from diffrep.cli.options import Shown
from diffrep.cli.session import there


def report(config: Annotated[ReportConfig, Parameter(name="*")], options: Shown = Shown()) -> int:  # noqa: B008
    """Draw RUN/report.html from what lies in the run folder; nothing is computed."""
    from diffrep.reports import write_report

    folder = there(config.run, "run folder", "give the folder that a command wrote")
    return print_results({"report": str(write_report(folder))}, options.json)
