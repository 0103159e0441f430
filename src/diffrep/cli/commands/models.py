"""`diffrep models`: packaged models, cards of public checkpoints, and their downloads."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from diffrep.cli.common import print_results
from diffrep.cli.options import Flag, Shown

app = App(name="models", help="List models, show a card, or download a public checkpoint.", help_format="plaintext")


@app.command(name="list")
def list_models(options: Shown = Shown()) -> int:  # noqa: B008
    """List the packaged models, which load offline by name, and the public checkpoints that have a card."""
    from diffrep.formats import models
    from diffrep.formats.cards import cards

    found = {name: _title(name) for name in models()} | {name: card.summary() for name, card in cards().items()}
    return print_results(found, options.json)


@app.command
def show(name: str, options: Shown = Shown()) -> int:  # noqa: B008
    """Show a model's card: data, command, numbers with their sources, license.

    Args:
        name: a packaged model or a public checkpoint
        options: what belongs to this call
    """
    from diffrep.formats import card

    text = card(name)
    if options.json:
        return print_results({"name": name, "card": text}, True)
    print(text)
    return 0


@app.command
def download(
    name: str,
    *,
    offline: Annotated[bool, Flag, Parameter(help="never use the network; verify what is there")] = False,
    options: Shown = Shown(),  # noqa: B008
) -> int:
    """Download a public checkpoint into the cache, going on where it stopped, and verify it.

    Args:
        name: a card's name or a hub id
        offline: never use the network
        options: what belongs to this call
    """
    from diffrep.cli.reporter import Reporter
    from diffrep.errors import UsageError, nearest
    from diffrep.formats import models
    from diffrep.formats.cards import find_card
    from diffrep.formats.downloads import download as fetch
    from diffrep.formats.hub import HUB_ID, repository

    if name in models():
        raise UsageError(f"{name} comes with diffrep", "it loads by its name, without a download")
    found = find_card(name)
    if found is None and not HUB_ID.fullmatch(name):
        raise UsageError(f'there is no card "{name}"', nearest(name, models(public=True)))
    refused = True if offline else None
    with Reporter() as reporter:
        if found is not None:
            reporter.say(f"license: {found.values['license'] or 'unknown'}")
        path = repository(name, offline=refused) if found is None else fetch(found, offline=refused)
    return print_results({"model": name, "path": str(path)}, options.json)


def _title(name: str) -> str:
    """What a packaged model is: the data and the training that its card names first."""
    from diffrep.formats import card

    lines = (line.strip() for line in card(name).splitlines())
    return next((line.removeprefix("- Data: ") for line in lines if line.startswith("- Data: ")), "")
