"""Which program wrote a file of DiT's shape: DiT, SiT, REPA or LightningDiT (DDAE 2.4 and 5.6).

Their files have the same names and shapes, but mean different things by time and by the output. What tells them apart,
in this order: tensors that only one program has; settings that only one program has, or its name among them; the name
of the file or of its folders; and the second half of the output, which DiT trains as a variance, while SiT has it, but
never uses it, so that it stays at the zeros where both programs start. What none of these decides is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from diffrep.formats.content import Content
from diffrep.formats.facts import lookup
from diffrep.formats.state_dicts import state_dict

MARKS = {"x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight"}
"""Tensors of all of them."""
LIGHTNING_MARKS = {"blocks.0.mlp.w12.weight", "blocks.0.norm1.weight", "feat_rope.freqs_cos"}
STATISTICS = "latents_stats.pt"
"""LightningDiT's file of latents' statistics."""
SETTINGS = {
    "LightningDiT": ("use_qknorm", "use_swiglu", "use_rope", "use_rmsnorm", "wo_shift"),
    "REPA": ("encoder_depth", "enc_type", "proj_coeff", "projector_dim", "z_dims", "decoder_hidden_size"),
    "DiT": ("diffusion_steps", "noise_schedule", "predict_xstart"),
}
"""Arguments that one program has and the others have not; SiT has none of its own but `SPELLED`."""
SPELLED: dict[str, dict[str, tuple[str, ...]]] = {
    "SiT": {"path_type": ("Linear", "GVP", "VP"), "prediction": ("velocity", "noise", "score")},
    "REPA": {"path_type": ("linear", "cosine"), "prediction": ("v",)},
}
"""The same arguments, which SiT and REPA spell in different ways."""
PROGRAMS = {"lightningdit": "LightningDiT", "repa": "REPA", "sit": "SiT", "dit": "DiT"}
"""How a program is written in names of models, files and folders."""


def fact(content: Content, name: str, default: Any = None) -> Any:  # noqa: ANN401 (whatever the config says)
    """A fact; one that is said to be None is not known."""
    known = content.fact(name, None)
    return default if known is None else known


def program_of(content: Content) -> str | None:
    """Who wrote the file: "DiT", "SiT", "REPA" or "LightningDiT"; "" where it is one of them and nothing tells which.

    Returns:
        None where it is none of theirs.
    """
    tensors = state_dict(content.data)
    if not tensors.keys() >= MARKS:
        return None
    if tensors.keys() & LIGHTNING_MARKS:
        return "LightningDiT"
    if any(name.startswith("projectors.") for name in tensors):
        return "REPA"
    possible = ("DiT", "SiT", "LightningDiT") if doubled(tensors) else ("DiT", "SiT", "REPA", "LightningDiT")
    found = by_settings(content) or by_names(content) or by_variance(tensors)
    if found == "SiT" and not doubled(tensors) and fact(content, "learn_sigma") is None and not is_spelled(content):
        found = "REPA" if by_names(content) == "REPA" else ""  # REPA calls its models SiT-XL/2 too
    return found if found in possible else ""


def by_settings(content: Content) -> str:
    """Whose settings are known: the caller's, else those in the file, else those beside it; "" where none tell."""
    layers = (content.told, content.own, content.facts)
    content.asked.update(("model_type", "model"), *SETTINGS.values(), *SPELLED.values())
    return next((program for layer in layers if (program := _in_settings(layer))), "")


def is_spelled(content: Content) -> bool:
    """Whether path or prediction are spelled as SiT does."""
    return any(fact(content, name) in values for name, values in SPELLED["SiT"].items())


def _in_settings(layer: Mapping[str, Any]) -> str:
    def known(name: str) -> Any:  # noqa: ANN401 (whatever the config says)
        with suppress(KeyError):
            return lookup(layer, name)
        return None

    for program, names in SETTINGS.items():
        if any(known(name) is not None for name in names):
            return program
    for program, spelled in SPELLED.items():
        if any(known(name) in values for name, values in spelled.items()):
            return program
    named = (known(name) for name in ("model_type", "model"))
    return next((found for name in named if isinstance(name, str) and (found := _in(name))), "")


def by_names(content: Content) -> str:
    """Whose name the file has, or one of the two folders above it; "" where they name none, or several."""
    if (content.path.resolve().parent / STATISTICS).is_file():
        return "LightningDiT"
    for name in (content.path.stem, *(parent.name for parent in list(content.path.resolve().parents)[:2])):
        if program := _in(name):
            return program
    return ""


def path_in_names(content: Content) -> dict[str, str]:
    """Path and prediction, where a folder has a name of SiT's train.py, such as 000-SiT-XL-2-Linear-velocity-None."""
    pattern = rf"-({'|'.join(SPELLED['SiT']['path_type'])})-({'|'.join(SPELLED['SiT']['prediction'])})-"
    for parent in list(content.path.resolve().parents)[:2]:
        if found := re.search(pattern, parent.name):
            return {"path_type": found[1], "prediction": found[2]}
    return {}


def by_variance(tensors: Mapping[str, Tensor]) -> str:
    """DiT where the second half of the output was trained, SiT where it still is zero; "" where there is none."""
    if not doubled(tensors):
        return ""
    first, second = (half.abs().sum().item() for half in halves(tensors["final_layer.linear.weight"], tensors))
    return "" if not first else "DiT" if second else "SiT"


def doubled(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the output has twice the channels of the input."""
    head, patch = tensors.get("final_layer.linear.weight"), tensors["x_embedder.proj.weight"]
    return head is not None and patch.ndim == 4 and len(head) == 2 * patch[0].numel()


def halves(rows: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of the last layer (patch^2 * 2C, ...) for the image's channels, and for the others."""
    _, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    per_pixel = rows.reshape(patch**2, -1, *rows.shape[1:])
    return per_pixel[:, :channels].flatten(0, 1), per_pixel[:, channels:].flatten(0, 1)


def _in(name: str) -> str:
    """The program that a name names as a word, such as "000-SiT-XL-2-Linear"; "" where it names none, or several.

    REPA's models are called SiT too, so that "REPA-SiT-XL-2" is REPA's.
    """
    words = re.findall(r"[a-z]+", name.lower())
    found = [program for word, program in PROGRAMS.items() if word in words]
    found = ["REPA"] if found == ["REPA", "SiT"] else found
    return found[0] if len(found) == 1 else ""
