"""What belongs to one call of a command, and to no result: it is not written to config.yaml."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

GROUP = Group("This call", sort_key=100)
WORDS: ContextVar[tuple[str, ...]] = ContextVar("WORDS", default=())
"""The words of the command line, as environment.json records them."""

Flag = Parameter(negative=(), show_default=False)


@Parameter(name="*", group=GROUP)
@dataclass(frozen=True, kw_only=True)
class Shown:
    """Options of every command."""

    json: Annotated[bool, Flag, Parameter(help="print exactly one JSON object on stdout")] = False
    verbose: Annotated[bool, Flag, Parameter(alias="-v", help="show the traceback of an error")] = False


@Parameter(name="*", group=GROUP)
@dataclass(frozen=True, kw_only=True)
class Options(Shown):
    """Options of commands with settings."""

    config: Annotated[Path | None, Parameter(help="YAML file of settings; flags win over it")] = None
    print_config: Annotated[bool, Flag, Parameter(help="print the settings as YAML and stop")] = False
    dry_run: Annotated[bool, Flag, Parameter(help="say what would be done, and touch nothing")] = False
    overwrite: Annotated[bool, Flag, Parameter(help="clear an earlier run in the output folder")] = False
    resume: Annotated[
        Literal["auto", "never"], Parameter(help="auto goes on with an earlier run in the output folder")
    ] = "never"
