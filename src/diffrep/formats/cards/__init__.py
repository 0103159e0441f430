"""Cards of public checkpoints: what named sources say about them, as data; one YAML file per family.

Each value is `unknown`, or [value, source], where the file's `sources` says what was read. Nothing is filled in
from memory: what no named source states stays unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from diffrep.files import sha256_of

UNKNOWN = "unknown"
FIELDS = ("location", "file", "revision", "sha256", "md5", "license", "preprocessing", "reference")
"""What every card tells, each with its source, or says that it does not know."""
MOST_HASHED = 2 << 30
"""Larger files are not hashed to look for a card."""


@dataclass(frozen=True)
class Card:
    """One public checkpoint.

    Args:
        name: how the command line calls it.
        family: the program.
        kind: "denoiser", "autoencoder" or "vae".
        values: FIELDS -> text, None where unknown.
        sources: FIELDS and "architecture" -> which source says so; None where unknown.
        architecture: what the file cannot tell, under official constructor names.
        compared: whether this kind of file was compared with its official program's numbers.
        tested_here: whether this very checkpoint was loaded and checked by diffrep's authors.
        note: anything else.
    """

    name: str
    family: str
    kind: str
    values: Mapping[str, str | None]
    sources: Mapping[str, str | None]
    architecture: Mapping[str, Any] = field(default_factory=dict)
    compared: bool = False
    tested_here: bool = False
    note: str = ""

    @property
    def on_hub(self) -> bool:
        """Whether its location is a repository of the Hugging Face hub, `hub:org/name`."""
        return self.location.startswith("hub:")

    @property
    def location(self) -> str:
        """A URL, `hub:org/name`, or "" where it is unknown."""
        return self.values["location"] or ""

    def summary(self) -> str:
        """One line for lists."""
        compared = "" if self.compared else "; not compared with the official program"
        tested = "yes" if self.tested_here else "no"
        return f"{self.family}; license: {self.values['license'] or UNKNOWN}; tested here: {tested}{compared}"

    def text(self) -> str:
        """The card as Markdown."""
        lines = [f"# {self.name}", "", f"{self.summary()}.", ""]
        for name in FIELDS:
            value, source = self.values[name], self.sources[name]
            lines.append(f"- {name}: {value or UNKNOWN}" + (f" ({source})" if source else ""))
        if self.architecture:
            lines.append(f"- architecture: {dict(self.architecture)} ({self.sources['architecture']})")
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])


@cache
def cards() -> dict[str, Card]:
    """All cards by name."""
    found: dict[str, Card] = {}
    for path in sorted(Path(str(files("diffrep.formats.cards"))).glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, own in document["cards"].items():
            found[name] = _card(name, document, {**document.get("defaults", {}), **(own or {})})
    return found


def _card(name: str, document: dict[str, Any], told: dict[str, Any]) -> Card:
    values: dict[str, str | None] = {}
    sources: dict[str, str | None] = {}
    for key in FIELDS:
        value = told.get(key, UNKNOWN)
        known = value != UNKNOWN
        values[key] = str(value[0]).replace("{name}", name) if known else None
        sources[key] = document["sources"][value[1]] if known else None
    if "architecture" in told:
        sources["architecture"] = document["sources"][told["architecture_from"]]
    return Card(
        name,
        document["family"],
        told.get("kind", "denoiser"),
        values,
        sources,
        told.get("architecture", {}),
        bool(told["compared"]),
        bool(told["tested_here"]),
        told.get("note", ""),
    )


def find_card(name: str) -> Card | None:
    """The card of this name, or of this hub id."""
    known = cards()
    return known.get(name) or next((card for card in known.values() if card.location == f"hub:{name}"), None)


def facts_by_hash(path: Path) -> tuple[dict[str, Any], str, str | None]:
    """(architecture, where from, sha256) of the card whose hash a file has; ({}, "", None) where there is none."""
    known = [card for card in cards().values() if card.architecture]
    wanted = {name: {c.values[name]: c for c in known if c.values[name]} for name in ("sha256", "md5")}
    if path.stat().st_size > MOST_HASHED:
        return {}, "", None
    for name, by_hash in wanted.items():
        if by_hash:
            found = sha256_of(path) if name == "sha256" else md5_of(path)
            if card := by_hash.get(found):
                return dict(card.architecture), f"the card {card.name}", found if name == "sha256" else None
    return {}, "", None


def md5_of(path: Path) -> str:
    """The md5 of a file's bytes; some programs publish nothing better."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
