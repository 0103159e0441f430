"""Downloads of cards' files: resumed, verified, and refused in a few seconds where they cannot be had."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from diffrep.errors import FormatError, InputError
from diffrep.files import sha256_of, write_atomic
from diffrep.formats.cards import Card, md5_of
from diffrep.formats.hub import check_reachable, is_offline, repository

SECONDS = 4
"""How long a server may be silent."""
BLOCK = 1 << 20
SCHEMES = ("https://",)
"""What is fetched; nothing over an open line."""
Progress = Callable[[int, int | None], None]


def models_folder() -> Path:
    """Where downloads lie: $DIFFREP_CACHE/models, or diffrep/models in the user's cache folder."""
    if own := os.environ.get("DIFFREP_CACHE"):
        return Path(own) / "models"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "diffrep" / "models"


def file_of(card: Card) -> Path:
    """Where a card's file lies once it is downloaded."""
    own = "" if is_page(card) else Path(urlparse(card.location).path).name
    name = card.values["file"] or own or f"{card.name}.bin"
    return models_folder() / card.name / Path(name).name


def downloaded(card: Card) -> Path:
    """A card's downloaded file.

    Errors:
        InputError: it is not there; naming the file and the command that fetches it.
    """
    path = file_of(card)
    if not path.is_file():
        raise InputError(f"{path.name} of {card.name} is not in the cache", how_to_get(card))
    return path


def how_to_get(card: Card) -> str:
    """What a user does to have the file."""
    if not card.location.startswith(SCHEMES) or is_page(card):
        where = card.location or "its authors' page"
        return f"get it by hand from {where} and load the file; no direct address is known"
    return f"download it: diffrep models download {card.name}"


def is_page(card: Card) -> bool:
    """Whether the location is a page or a folder for people, not a file."""
    return urlparse(card.location).netloc in ("drive.google.com", "github.com", "huggingface.co")


def download(card: Card, *, offline: bool | None = None, progress: Progress | None = None) -> Path:
    """Fetch a card's file or repository into the cache; what is there already is verified and kept.

    Args:
        card: which.
        offline: never use the network; None asks HF_HUB_OFFLINE and DIFFREP_OFFLINE.
        progress: called with (bytes so far, bytes in all or None).

    Returns:
        The file, or the folder of a hub repository.

    Errors:
        InputError: offline or unreachable, naming the missing file. FormatError: the file is not what was published.
    """
    offline = is_offline() if offline is None else offline
    if card.on_hub:
        return repository(card.location.removeprefix("hub:"), card.values["revision"], offline)
    path = file_of(card)
    if not path.is_file():
        if not card.location.startswith(SCHEMES) or is_page(card):
            raise InputError(f"{path.name} of {card.name} cannot be fetched by program", how_to_get(card))
        if offline:
            raise InputError(f"{path.name} of {card.name} is not in the cache", "leave out --offline to download it")
        part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        check_reachable(card.location, path.name)
        fetch(card.location, part, path.name, progress)
        verify(part, card)
        os.replace(part, path)
    else:
        verify(path, card)
    if card.architecture:
        write_atomic(path.parent / "args.json", json.dumps(dict(card.architecture), indent=1) + "\n")
    return path


def fetch(url: str, part: Path, name: str, progress: Progress | None = None) -> None:
    """Download into `part`, going on where an earlier download stopped.

    Errors:
        InputError: the server cannot be reached, does not have the file, or broke off; what came is kept.
    """
    have = part.stat().st_size if part.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            have = have if answer.status == 206 else 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            with open(part, "ab" if have else "wb") as file:
                while block := answer.read(BLOCK):
                    file.write(block)
                    have += len(block)
                    if progress is not None:
                        progress(have, total)
    except HTTPError as error:
        if error.code == 416:  # everything had come already
            return
        raise InputError(f"{name} cannot be downloaded: the server says {error.code}", f"from {url}") from error
    except (URLError, OSError) as error:
        raise InputError(f"{name} cannot be downloaded ({error})", f"from {url}; what came is kept") from error
    if total is not None and have < total:
        raise InputError(f"{name} broke off after {have} of {total} bytes", "the same command goes on from there")


def verify(path: Path, card: Card) -> None:
    """Compare a file with the published hash; without one, with the hash it had when it was first downloaded.

    Errors:
        FormatError: naming both hashes; the file is left for a look, under a name that is not loaded.
    """
    published = "sha256" if card.values["sha256"] else "md5" if card.values["md5"] else None
    record = path.with_name(path.name.removesuffix(".part") + ".sha256")
    if published:
        expected, found = card.values[published], sha256_of(path) if published == "sha256" else md5_of(path)
    else:
        found = sha256_of(path)
        expected = record.read_text(encoding="utf-8").strip() if record.is_file() else found
        write_atomic(record, expected + "\n")
    if found != expected:
        path.replace(path.with_name(path.name.removesuffix(".part") + ".wrong"))
        hashes = f"{published or 'sha256'} {found[:16]}..., expected {expected!s:.16}..."
        raise FormatError(f"{card.name} is not what was published: {hashes}", "download it again")
