"""Folders of diffusers' DiTTransformer2DModel, by DDAE 5.7.

diffusers' class is not the official DiT: its sinusoid's frequencies are shifted (they end at 1e-4), the second
normalization has a larger epsilon, and every block embeds time and label by itself. Which of the two a file is can be
seen: a converted official model has the same embedding in every block, and was trained with the official frequencies,
k / half, and epsilon 1e-6: that is what it gets here, on purpose not what diffusers computes. Where the blocks'
embeddings differ, diffusers trained it, and it keeps diffusers' mathematics. `architecture={"downscale_freq_shift": 0}`
(or 1) says it otherwise, and must where there is one block only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffrep.denoiser import Denoiser, LabelSpec
from diffrep.errors import FormatError
from diffrep.formats import diffusers_common as common
from diffrep.formats.content import Content, ask, require
from diffrep.formats.diffusers_scheduler import scheduling
from diffrep.formats.families import Family
from diffrep.formats.folder import build_network, load_strictly
from diffrep.formats.told import positive, whole
from diffrep.networks.dit_blocks import position_table

FACTS = (
    *("num_attention_heads", "attention_head_dim", "in_channels", "num_layers", "sample_size", "patch_size"),
    *("num_embeds_ada_norm", "activation_fn", "norm_type", "norm_elementwise_affine"),
)
GELU = {"gelu-approximate": "tanh", "gelu": "none"}
EMBEDDING = (
    ("timestep_embedder.linear_1", "linear1"),
    ("timestep_embedder.linear_2", "linear2"),
    ("class_embedder.embedding_table", "classes"),
)
BLOCK = (
    *(("norm1.linear", "modulation"), ("attn1.to_out.0", "attention.out")),
    *(("ff.net.0.proj", "feed_forward.linear1"), ("ff.net.2", "feed_forward.linear2")),
)
OUTER = (("pos_embed.proj", "patch.proj"), ("proj_out_1", "head.modulation"), ("proj_out_2", "head.linear"))
OFFICIAL_EPS, DEFAULT_EPS = 1e-6, 1e-5
"""Of the official program; and what diffusers took before its configs told it."""


def load(content: Content) -> Denoiser:
    """The denoiser of a DiTTransformer2DModel.

    Errors:
        FormatError: a fact is missing, a variant that is no DiT, or tensors that do not fit.
    """
    require(content, "a DiTTransformer2DModel", FACTS)
    weights: Mapping[str, Tensor] = content.data.weights
    recipe = outline(content, weights)
    network = build_network(recipe)
    blockwise = recipe["layout"] == "diffusers_dit"
    load_strictly(network, converted(weights, recipe, blockwise), content.path, official_name)
    classes = whole(content, "num_embeds_ada_norm")
    made = Denoiser(
        network,
        input=common.input_of(content, recipe["image_channels"], recipe["size"]),
        labels=LabelSpec(classes, null=classes),
        source=common.source_of(content),
        **scheduling(content),
    )
    return made.eval()


def outline(content: Content, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The recipe of the network: layout `dit` for the official mathematics, `diffusers_dit` for diffusers'.

    Errors:
        FormatError: a variant that is no DiT.
    """
    name, channels = content.name, whole(content, "in_channels")
    known = {"norm_type": "ada_norm_zero", "norm_elementwise_affine": False}
    for key, value in known.items():
        if content.fact(key) != value:
            raise FormatError(f"{name} has {key} = {content.fact(key)}", f"a DiT has {value}")
    activation = common.choice(content, "activation_fn", known=GELU)
    heads = whole(content, "num_attention_heads")
    width = heads * whole(content, "attention_head_dim")
    inner = weights.get("transformer_blocks.0.ff.net.0.proj.weight", torch.empty(4 * width, 0)).shape[0]
    shift = content.fact("downscale_freq_shift", None)
    if shift is None and sum(name.endswith("norm1.emb.timestep_embedder.linear_1.weight") for name in weights) == 1:
        ask(content, "a DiTTransformer2DModel of one block", ["downscale_freq_shift"])
    if shift is None:
        shift = 0 if is_official(weights) else 1
    recipe: dict[str, Any] = {
        "image_channels": channels,
        "size": common.square(content, "a DiTTransformer2DModel"),
        "patch": whole(content, "patch_size"),
        "width": width,
        "depth": whole(content, "num_layers"),
        "heads": heads,
        "mlp_ratio": inner / width,
        "classes": whole(content, "num_embeds_ada_norm") + 1,
        "learns_variance": common.learned_variance(content, channels, int(content.fact("out_channels") or channels)),
        "zero_init": False,
    }
    if shift == 0 and is_official(weights) and GELU[activation] == "tanh":
        return {"layout": "dit", **recipe}
    eps = OFFICIAL_EPS if shift == 0 else positive(content, "norm_eps", DEFAULT_EPS)
    return {"layout": "diffusers_dit", **recipe, "endpoint": shift == 1, "eps": eps, "approximate": GELU[activation]}


def is_official(weights: Mapping[str, Tensor]) -> bool:
    """Whether every block embeds time and label alike, as in a file that was made from an official one."""
    embedding = re.compile(r"transformer_blocks\.\d+\.(norm1\.emb\..+)")
    first: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        found = embedding.fullmatch(name)
        if found and not torch.equal(tensor, first.setdefault(found[1], tensor)):
            return False
    return bool(first)


def converted(weights: Mapping[str, Tensor], recipe: Mapping[str, Any], blockwise: bool) -> dict[str, Tensor]:
    """The tensors under our names; unknown ones keep theirs.

    Args:
        weights: by diffusers' names.
        recipe: of the network, for the fixed table of positions, which the file does not hold.
        blockwise: every block keeps its own embedding; otherwise the first block's is the network's.
    """
    grid = recipe["size"] // recipe["patch"]
    out = {"positions": position_table(recipe["width"], (grid, grid))}
    for name, tensor in weights.items():
        if (ours := _renamed(name, blockwise)) is not None:
            out[ours] = tensor
    for k in range(recipe["depth"]):
        _join(out, weights, f"transformer_blocks.{k}.attn1", f"blocks.{k}.attention.qkv")
    return out


def _renamed(name: str, blockwise: bool) -> str | None:
    """Our name; None for what is taken elsewhere (q, k, v) or is a copy. Old files hold the table of positions."""
    if name == "pos_embed.pos_embed":
        return "positions"
    for theirs, ours in OUTER:
        if name.startswith(f"{theirs}."):
            return name.replace(theirs, ours, 1)
    found = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if found is None:
        return name
    k, part, last = int(found[1]), found[2], found[3]
    if part in ("attn1.to_q", "attn1.to_k", "attn1.to_v"):
        return None
    for theirs, ours in EMBEDDING:
        if part == f"norm1.emb.{theirs}":
            if k == 0:
                return f"time.{ours}.{last}"
            return f"times.{k - 1}.{ours}.{last}" if blockwise else None
    for theirs, ours in BLOCK:
        if part == theirs:
            return f"blocks.{k}.{ours}.{last}"
    return name


def official_name(ours: str) -> str:
    """What diffusers calls a tensor of ours."""
    for theirs, prefix in OUTER:
        if ours.startswith(f"{prefix}."):
            return ours.replace(prefix, theirs, 1)
    if found := re.fullmatch(r"time(?:s\.(\d+))?\.(.+)\.(\w+)", ours):
        k = 0 if found[1] is None else int(found[1]) + 1
        part = next(theirs for theirs, name in EMBEDDING if name == found[2])
        return f"transformer_blocks.{k}.norm1.emb.{part}.{found[3]}"
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", ours):
        parts = {"attention.qkv": "attn1.to_q, to_k or to_v", **{part: theirs for theirs, part in BLOCK}}
        return f"transformer_blocks.{found[1]}.{parts[found[2]]}.{found[3]}"
    return ours


def _join(out: dict[str, Tensor], weights: Mapping[str, Tensor], theirs: str, ours: str) -> None:
    """q, k and v as one; `attention_bias` False is a bias of 0."""
    for last in ("weight", "bias"):
        rows = [weights[n] for letter in "qkv" if (n := f"{theirs}.to_{letter}.{last}") in weights]
        if len(rows) == 3:
            out[f"{ours}.{last}"] = torch.cat(rows)
    if f"{ours}.bias" not in out and f"{ours}.weight" in out:
        out[f"{ours}.bias"] = out[f"{ours}.weight"].new_zeros(len(out[f"{ours}.weight"]))


LICENSE = f"{common.LICENSE} (DiT: CC BY-NC 4.0)"
FAMILY = Family("diffusers DiT", common.written_by("DiTTransformer2DModel"), load, LICENSE, compared=True)
