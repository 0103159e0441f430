"""Checkpoints by name: cards that were downloaded, and repositories of the Hugging Face hub.

Only data is fetched: JSON, tokenizer files and weights, safetensors where a repository has them; never Python files.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import getproxies

from diffrep.errors import InputError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DATA = (".json", ".txt", ".model")
WEIGHTS = (".safetensors", ".bin")
FOLDERS = ("", "unet", "transformer", "prior", "scheduler", "vae")
SECONDS = 4
"""How long the hub may take to answer."""


def local(name: str) -> Path | None:
    """The file or folder of a downloaded card or of a hub id, which is downloaded where that is allowed.

    Args:
        name: a card's name or `org/name`.

    Returns:
        None where the name is neither.

    Errors:
        InputError: known, but not there; naming the missing file and how to get it.
    """
    from diffrep.formats.cards import find_card
    from diffrep.formats.downloads import downloaded

    card = find_card(name)
    if card is not None and not card.on_hub:
        return downloaded(card)
    if card is not None:
        return repository(card.location.removeprefix("hub:"), revision=card.values["revision"])
    return repository(name) if HUB_ID.fullmatch(name) else None


def is_offline() -> bool:
    """Whether the environment forbids downloads (HF_HUB_OFFLINE or DIFFREP_OFFLINE)."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes") for name in ("HF_HUB_OFFLINE", "DIFFREP_OFFLINE")
    )


def repository(repo: str, revision: str | None = None, offline: bool | None = None) -> Path:
    """The folder of a hub repository in the hub's own cache; missing files are downloaded, unless offline.

    Errors:
        InputError: it cannot be had; naming the file.
    """
    from huggingface_hub import HfApi, snapshot_download

    missing = f"model_index.json or config.json of {repo}"
    if is_offline() if offline is None else offline:
        try:
            return Path(snapshot_download(repo, revision=revision, local_files_only=True))
        except Exception as error:
            raise InputError(f"{missing} is not in the cache", "download it: diffrep models download NAME") from error
    check_reachable("https://huggingface.co", missing)
    try:
        names = HfApi().model_info(repo, revision=revision, timeout=SECONDS).siblings or []
        wanted = wanted_files([sibling.rfilename for sibling in names])
        if not wanted:
            raise InputError(f"{repo} holds no {missing}", "expected a diffusers repository")
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, etag_timeout=SECONDS))
    except InputError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise InputError(f"{missing} cannot be downloaded ({text})", "check the name and the network") from error


def check_reachable(url: str, missing: str) -> None:
    """Say within a few seconds that a server cannot be reached; behind a proxy, leave that to the download.

    Errors:
        InputError: naming what is missing.
    """
    if getproxies():
        return
    parts, answer = urlsplit(url), []

    def connect() -> None:
        with suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 443), SECONDS):
            answer.append(True)

    worker = threading.Thread(target=connect, daemon=True)
    worker.start()
    worker.join(SECONDS)
    if not answer:
        raise InputError(f"{missing} cannot be downloaded: {parts.hostname} cannot be reached", "check the network")


def wanted_files(names: Iterable[str]) -> list[str]:
    """What is needed of a repository: settings, and one form of the weights per component.

    Example:
        >>> wanted_files(["unet/config.json", "unet/a.fp16.safetensors", "unet/a.safetensors", "unet/a.bin", "run.py"])
        ['unet/a.safetensors', 'unet/config.json']
    """
    paths = [PurePosixPath(name) for name in names]
    text = [p for p in paths if p.parent.name.startswith(("text_encoder", "tokenizer"))]
    inside = [p for p in paths if str(p.parent).removeprefix(".") in FOLDERS] + text
    settings = [p for p in inside if p.suffix in DATA]
    plain = [p for p in inside if p.suffix in WEIGHTS and not re.search(r"\.(fp16|bf16|non_ema)\.|-non_ema", p.name)]
    plain = [p for p in plain if p.parent != PurePosixPath(".") or p.name.startswith("diffusion_pytorch_model")]
    safe = {p.parent for p in plain if p.suffix == ".safetensors"}
    return sorted(
        str(p) for p in [*settings, *(p for p in plain if p.suffix == ".safetensors" or p.parent not in safe)]
    )
