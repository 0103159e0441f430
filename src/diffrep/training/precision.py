"""Which precision a device is fast at."""

from __future__ import annotations

from typing import Any

import torch

AUTO = "auto"
"""The precision that is chosen when a run starts, and kept when it is resumed."""


def fast_precision(device: str | torch.device = "cpu") -> str:
    """bf16 autocast where the device computes in it, else float32: emulated bf16 is slower than float32.

    Example:
        >>> fast_precision("cpu") in ("bf16", "float32")
        True
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if kind != "cpu":
        return "float32"
    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"
