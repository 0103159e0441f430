"""`diffrep doctor`: what this machine has, and whether the packaged weights are whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffrep
from diffrep.cli.common import print_results
from diffrep.cli.options import Shown


def doctor(options: Shown = Shown()) -> int:  # noqa: B008
    """Say what this machine has, and verify the packaged weights by their sha256."""
    from diffrep.extraction import cache_folder
    from diffrep.formats import models
    from diffrep.runs import environment

    found = environment()
    cache = cache_folder()
    facts: dict[str, Any] = {
        "python": found["python"],
        **found["versions"],
        "diffrep": diffrep.__version__,
        "system": found["system"],
        "processor": found["processor"],
        "processors": found["processors"],
        "threads": found["threads"],
        "devices": ", ".join(["cpu", *(f"cuda:{i} ({name})" for i, name in enumerate(found["gpus"]))]),
        **bf16(),
        "cache": str(cache),
        "cache_megabytes": round(_size(cache) / 1e6, 1),
        "cache_free_gigabytes": round(_free(cache) / 1e9, 1),
        "output_free_gigabytes": round(_free(Path.cwd()) / 1e9, 1),
    }
    facts |= {f"weights {name}": state_of(name) for name in models()}
    return print_results({name: "none" if value is None else value for name, value in facts.items()}, options.json)


def bf16() -> dict[str, str]:
    """Whether each kind of device computes in bf16 itself."""
    import torch

    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    facts = {"bf16 on the processor": "yes" if native else "no (emulated: slower than float32)"}
    if torch.cuda.is_available():
        facts["bf16 on the GPU"] = "yes" if torch.cuda.is_bf16_supported() else "no"
    return facts


def state_of(name: str) -> str:
    """`whole`, or what is wrong with a packaged model's files."""
    from diffrep.errors import DiffrepError
    from diffrep.formats.folder import check_manifest
    from diffrep.formats.packaged import folder_of

    folder = folder_of(name)
    try:
        check_manifest(folder if folder is not None else Path(name))
    except DiffrepError as error:
        return f"broken: {error}"
    return "whole"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _free(folder: Path) -> int:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
