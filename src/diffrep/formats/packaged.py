"""The models that come with the package: small, trained on the embedded digits, loaded offline by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

from diffrep.errors import UsageError, nearest


def folder_of(name: str) -> Path | None:
    """The folder of a packaged model, or None where the name is none of theirs."""
    return Path(str(files("diffrep"))) / "weights" / name if name in models() else None


def models(pattern: str = "*") -> list[str]:
    """Names of the packaged models.

    Example:
        >>> models("*digits*")
        ['ddpm-digits', 'pdae-digits']
    """
    root = Path(str(files("diffrep"))) / "weights"
    names = sorted(path.parent.name for path in root.glob("*/config.json"))
    return [name for name in names if fnmatchcase(name, pattern)]


def card(name: str) -> str:
    """The model card, as Markdown.

    Errors:
        UsageError: no packaged model has this name.
    """
    folder = folder_of(name)
    if folder is None:
        raise UsageError(f'unknown model "{name}"', nearest(name, models()))
    return (folder / "README.md").read_text(encoding="utf-8")
