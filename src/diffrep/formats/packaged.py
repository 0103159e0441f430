"""The models that come with the package: small, trained on the embedded digits, loaded offline by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

from diffrep.errors import UsageError, nearest


def folder_of(name: str) -> Path | None:
    """The folder of a packaged model, or None where the name is none of theirs."""
    return Path(str(files("diffrep"))) / "weights" / name if name in models() else None


def models(pattern: str = "*", *, public: bool = False) -> list[str]:
    """Names of the packaged models, and of public checkpoints that diffrep has a card of, where they are asked for.

    Args:
        pattern: shell pattern, such as "*digits*".
        public: also checkpoints that must be downloaded.

    Example:
        >>> models("*digits*")
        ['ddpm-digits', 'pdae-digits']
    """
    root = Path(str(files("diffrep"))) / "weights"
    names = sorted(path.parent.name for path in root.glob("*/config.json"))
    if public:
        from diffrep.formats.cards import cards

        names += sorted(cards())
    return [name for name in names if fnmatchcase(name, pattern)]


def card(name: str) -> str:
    """The card of a packaged model or of a public checkpoint, as Markdown.

    Errors:
        UsageError: no card has this name.
    """
    from diffrep.formats.cards import find_card

    folder = folder_of(name)
    if folder is None:
        public = find_card(name)
        if public is None:
            raise UsageError(f'unknown model "{name}"', nearest(name, models(public=True)))
        return public.text()
    return (folder / "README.md").read_text(encoding="utf-8")
