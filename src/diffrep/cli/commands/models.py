"""`diffrep models`: the packaged models and their cards."""

from __future__ import annotations

from cyclopts import App

from diffrep.cli.common import print_results
from diffrep.cli.options import Shown

app = App(name="models", help="List the packaged models, or show a model's card.", help_format="plaintext")


@app.command(name="list")
def list_models(options: Shown = Shown()) -> int:  # noqa: B008
    """List the packaged models, which load offline by name."""
    return print_results({name: _title(name) for name in _names()}, options.json)


@app.command
def show(name: str, options: Shown = Shown()) -> int:  # noqa: B008
    """Show a model's card: data, command, numbers with controls, license.

    Args:
        name: a packaged model
        options: what belongs to this call
    """
    from diffrep.formats import card

    text = card(name)
    if options.json:
        return print_results({"name": name, "card": text}, True)
    print(text)
    return 0


def _names() -> list[str]:
    from diffrep.formats import models

    return models()


def _title(name: str) -> str:
    """The first sentence of a card, below its heading."""
    from diffrep.formats import card

    lines = (line.strip() for line in card(name).splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")
