"""`diffrep convert`: another program's checkpoint as a model folder."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from diffrep.cli.common import print_results
from diffrep.cli.configs import ConvertConfig
from diffrep.cli.options import Shown
from diffrep.cli.session import architecture_in


def convert(config: Annotated[ConvertConfig, Parameter(name="*")], options: Shown = Shown()) -> int:  # noqa: B008
    """Write OUT: safetensors, config.json and a card with source, hash, license, schedule and taps.

    Nothing that lies in the checkpoint is executed; every tensor is used or the command refuses.
    """
    from diffrep.formats.converting import SCHEDULES
    from diffrep.formats.converting import convert as write

    schedule = SCHEDULES[config.schedule]() if config.schedule else None
    facts = architecture_in(config.architecture)
    out = write(config.source, config.out, facts, schedule=schedule, overwrite=config.overwrite)
    return print_results({"model": str(out), "card": str(out / "README.md")}, options.json)
