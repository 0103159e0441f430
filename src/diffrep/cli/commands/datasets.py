"""`diffrep datasets`: where images can come from."""

from __future__ import annotations

from diffrep.cli.common import print_results
from diffrep.cli.options import Shown


def datasets(options: Shown = Shown()) -> int:  # noqa: B008
    """List the sources of images that commands take as DATA."""
    from diffrep.data import sources

    return print_results(sources(), options.json)
