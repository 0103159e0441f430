"""Checkpoints by name: cards that were downloaded, and repositories of the Hugging Face hub.

Only data is fetched: JSON, tokenizer files and weights, safetensors where a repository has them; never Python files.
"""

from __future__ import annotations

import logging
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
from diffrep.formats.components import settings

LOG = logging.getLogger("diffrep.formats")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DATA = (".json", ".txt", ".model")
WEIGHTS = (".safetensors", ".bin")
VARIANTS = ("ema", "", "fp32", "bf16", "fp16")
"""Forms of weights in the order in which they are wanted, as `components.weight_files` takes them; others, such as
non_ema, only where nothing else is there."""
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
    missing = f"model_index.json or config.json of {repo}"
    if is_offline() if offline is None else offline:
        return cached(repo, revision, missing)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import ENDPOINT

    check_reachable(ENDPOINT, missing)
    try:
        siblings = HfApi().model_info(repo, revision=revision, timeout=SECONDS).siblings or []
        names = wanted_files([sibling.rfilename for sibling in siblings])
        if not names:
            raise InputError(f"{repo} holds no {missing}", "expected a diffusers repository")

        def fetch(wanted: list[str]) -> Path:
            return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, etag_timeout=SECONDS))

        unread = unread_encoders(fetch([name for name in names if name.endswith(DATA)]))
        return fetch([name for name in names if name.endswith(DATA) or name.split("/")[0] not in unread])
    except InputError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise InputError(f"{missing} cannot be downloaded ({text})", "check the name and the network") from error


def cached(repo: str, revision: str | None, missing: str) -> Path:
    """The folder of a repository in the hub's own cache; another revision, with a warning, where it is the only one.

    Errors:
        InputError: it is not there, or several other revisions are.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception as error:
        snapshots = sorted(Path(HF_HUB_CACHE).glob(f"models--{repo.replace('/', '--')}/snapshots/*"))
        if len(snapshots) == 1:
            LOG.warning("%s: revision %s is not in the cache, %s is read", repo, revision or "main", snapshots[0].name)
            return snapshots[0]
        if snapshots:
            there = ", ".join(str(path) for path in snapshots[:5])
            raise InputError(f"{repo} is in the cache in other revisions", f"name the folder: {there}") from error
        raise InputError(f"{missing} is not in the cache", f"download it: diffrep models download {repo}") from error


def unread_encoders(folder: Path) -> set[str]:
    """Text encoders of a pipeline that are no CLIP: diffrep does not read them, and T5 alone has gigabytes."""
    index = settings(folder / "model_index.json")
    return {
        name
        for name, named in index.items()
        if name.startswith("text_encoder") and not str(list(named or [None])[-1]).startswith("CLIP")
    }


def check_reachable(url: str, missing: str) -> None:
    """Say within a few seconds that a server cannot be reached; behind a proxy, leave that to the download.

    Errors:
        InputError: naming what is missing.
    """
    if getproxies():
        return
    parts, answer = urlsplit(url), []

    def connect() -> None:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with suppress(OSError), socket.create_connection((parts.hostname or "", port), SECONDS):
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
    chosen = [p for p in inside if p.suffix in DATA]
    weights = [p for p in inside if p.suffix in WEIGHTS]
    weights = [p for p in weights if p.parent != PurePosixPath(".") or p.name.startswith("diffusion_pytorch_model")]
    for folder in {p.parent for p in weights}:
        forms: dict[tuple[str, str], list[PurePosixPath]] = {}
        for p in sorted(weights):
            if p.parent == folder:
                variant = re.search(r"\.([a-z]\w*)(?:-\d+-of-\d+)?\.\w+$|-(non_ema)\.", p.name)
                forms.setdefault((p.suffix, (variant[1] or variant[2]) if variant else ""), []).append(p)
        chosen += forms[min(forms, key=_rank)]
    return sorted(map(str, chosen))


def _rank(form: tuple[str, str]) -> tuple[int, int]:
    """Order of (suffix, variant): by `VARIANTS`, then safetensors before .bin."""
    suffix, variant = form
    return VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), WEIGHTS.index(suffix)
