"""What the tensors of DiT and its descendants tell: names, shapes, classes, and the network that takes them.

Shared by the readers of DiT, SiT, REPA and LightningDiT (DDAE 2.4 and 5.6). Heads and classes are not in the tensors:
they are facts, or the published sizes; a fact that the tensors contradict is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffrep import networks
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats.content import Content, require, state_dict
from diffrep.formats.facts import lookup
from diffrep.formats.folder import load_strictly
from diffrep.input_spec import LatentScaling
from diffrep.schedules import FlowSchedule

HEADS = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16}
"""The published sizes S, B, L and XL: (width, depth) -> heads."""

IMAGENET = 1000
"""Classes of the published models: their tables have one row more for "no class", or were trained without."""

RENAMED = (
    (r"^pos_embed$", "positions"),
    (r"^x_embedder\.", "patch."),
    (r"^t_embedder\.mlp\.0\.", "time.linear1."),
    (r"^t_embedder\.mlp\.2\.", "time.linear2."),
    (r"^y_embedder\.embedding_table\.", "time.classes."),
    (r"^final_layer\.norm_final\.", "head.norm."),
    (r"^final_layer\.", "head."),
    (r"^feat_rope\.freqs_", "rotary."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.(fc1|w12)\.", ".feed_forward.linear1."),
    (r"\.mlp\.(fc2|w3)\.", ".feed_forward.linear2."),
)
"""From the programs' names of tensors to ours, in this order."""


def renamed(official: str) -> str:
    """Our name of a tensor of DiT, SiT, REPA or LightningDiT.

    Example:
        >>> renamed("blocks.3.attn.proj.weight")
        'blocks.3.attention.out.weight'
    """
    for pattern, ours in RENAMED:
        official = re.sub(pattern, ours, official)
    return official


def tensors_of(content: Content) -> dict[str, Tensor]:
    """The weights that count, by official name: `ema`, else `model`, else the file itself; {} where there are none."""
    tensors = state_dict(content.data, ("ema", "model"))
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def fact(content: Content, name: str, default: Any = None) -> Any:  # noqa: ANN401 (whatever the config says)
    """A fact from the caller or a config, else from the arguments that a training checkpoint carries in itself."""
    known = content.fact(name, None)
    if known is not None or not isinstance(content.data, Mapping):
        return default if known is None else known
    for section in ("args", "config"):
        arguments = content.data.get(section)
        if isinstance(arguments, Mapping):
            try:
                return lookup(arguments, name)
            except KeyError:
                continue
    return default


def is_adaptive(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of DiT or one of its descendants."""
    marks = {"x_embedder.proj.weight", "t_embedder.mlp.0.weight", "blocks.0.adaLN_modulation.1.weight"}
    return marks <= tensors.keys()


def is_lightning(content: Content, tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are LightningDiT's: by its gated layers, rotary tables or scales, or by what the config says."""
    marks = {"blocks.0.mlp.w12.weight", "blocks.0.norm1.weight", "feat_rope.freqs_cos"}
    named = f"{fact(content, 'model_type', '')} {fact(content, 'model', '')}".lower()
    return bool(marks & tensors.keys()) or "lightningdit" in named


def has_any(content: Content, *names: str) -> bool:
    """Whether one of these facts is known."""
    return any(fact(content, name) is not None for name in names)


def outline(content: Content, tensors: Mapping[str, Tensor], program: str) -> dict[str, Any]:
    """What the tensors' shapes tell of the network, in the builder's words, and the heads, which they do not.

    Errors:
        FormatError: shapes that are none of this family's, shapes that contradict the facts, unknown heads.
    """
    if "pos_embed" not in tensors:
        raise FormatError(
            f"{content.path} has {program}'s tensors without its positions (1 missing: pos_embed)", "is the file whole?"
        )
    try:
        tokens, width = tensors["pos_embed"].shape[1:]
        _, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
        hidden = tensors[f"blocks.0.mlp.{'fc1' if 'blocks.0.mlp.fc1.weight' in tensors else 'w3'}.weight"]
    except (ValueError, KeyError) as error:
        raise FormatError(f"{content.path} has no {program} network's tensors: {error}") from error
    side, depth = math.isqrt(tokens), depth_of(tensors, "blocks")
    if side * side != tokens:
        raise FormatError(f"{content.path} has {tokens} positions", f"{program} has square images: a square number")
    recipe: dict[str, Any] = {
        "image_channels": channels,
        "size": side * patch,
        "patch": patch,
        "width": width,
        "depth": depth,
        "mlp_ratio": ratio(hidden.numel() // width, width),
        "classes": rows_of(tensors),
        "qk_norm": "blocks.0.attn.q_norm.weight" in tensors,
    }
    official = {
        **{"in_channels": channels, "in_chans": channels, "input_size": side * patch, "patch_size": patch},
        **{"hidden_size": width, "depth": depth},
    }
    check_facts(content, official)
    recipe["heads"] = heads_of(content, program, width, depth, tensors)
    return recipe


def ratio(inner: int, width: int) -> float:
    """The `mlp_ratio` of which a builder makes `inner` again, by int(width * mlp_ratio)."""
    exact = inner / width
    return exact if int(width * exact) == inner else (inner + 0.5) / width


def depth_of(tensors: Mapping[str, Tensor], blocks: str) -> int:
    """How many blocks there are: how many numbers stand in the names `blocks.N.`."""
    return len({m[1] for name in tensors if (m := re.match(rf"{blocks}\.(\d+)\.", name))})


def rows_of(tensors: Mapping[str, Tensor]) -> int | None:
    """Rows of the label table, or None where there is none."""
    table = tensors.get("y_embedder.embedding_table.weight")
    return None if table is None else len(table)


def check_facts(content: Content, found: Mapping[str, object]) -> None:
    """Refuse facts that the tensors contradict.

    Errors:
        FormatError: naming the fact, its source and what the file has.
    """
    for name, value in found.items():
        said = fact(content, name)
        if said is not None and said != value:
            raise FormatError(
                f"{content.path} has {name} = {value}, but {content.origin} says {said}",
                "is it another model's config?",
            )


def heads_of(content: Content, program: str, width: int, depth: int, tensors: Mapping[str, Tensor]) -> int:
    """Attention heads: a fact, or the published size of this width and depth.

    Errors:
        FormatError: neither is known (all that is unknown is named at once), or the width cannot be divided so.
    """
    said = fact(content, "num_heads", HEADS.get((width, depth)))
    missing = [] if said is not None else ["num_heads"]
    if (rows := rows_of(tensors)) is not None and classes_of(content, rows) is None:
        missing.append("num_classes")
    if program == "DiT" and is_undecided(content, tensors):
        missing.append("model")
    require(content, f"a {program} checkpoint", missing)
    if not isinstance(said, int) or said < 1 or width % said:
        raise FormatError(f"num_heads is {said}, but {content.path} has a width of {width}", "it must divide the width")
    return said


def is_undecided(content: Content, tensors: Mapping[str, Tensor]) -> bool:
    """Whether nothing tells DiT from REPA: no learned variance, as no published DiT is, and nobody names the program.

    REPA's trunk without its projectors has the same names and shapes, but predicts another thing.
    """
    head, patches = tensors.get("final_layer.linear.weight"), tensors["x_embedder.proj.weight"]
    single = head is not None and len(head) == patches[0].numel()
    named = fact(content, "model") is not None or "dit" in content.path.stem.lower()
    return single and not named and fact(content, "learn_sigma") is None


def learns_variance(content: Content, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> bool:
    """Whether the output has twice the image's channels."""
    rows = tensors["final_layer.linear.weight"].shape[0] if "final_layer.linear.weight" in tensors else 0
    single = recipe["patch"] ** 2 * recipe["image_channels"]
    if rows not in (single, 2 * single):
        raise FormatError(
            f"{content.path} has an output of {rows} numbers per patch", f"expected {single} or {2 * single}"
        )
    check_facts(content, {"learn_sigma": rows == 2 * single})
    return bool(rows == 2 * single)


def classes_of(content: Content, rows: int) -> int | None:
    """The number of classes of a table of labels: a fact, or ImageNet's; None where it is not known."""
    classes = fact(content, "num_classes")
    dropout = fact(content, "class_dropout_prob", fact(content, "cfg_prob"))
    if classes is None and isinstance(dropout, int | float):
        classes = rows - 1 if dropout > 0 else rows
    if classes is None and rows in (IMAGENET, IMAGENET + 1):
        classes = IMAGENET
    return classes if isinstance(classes, int) else None


def labels_of(content: Content, tensors: Mapping[str, Tensor]) -> LabelSpec | None:
    """The classes; the last row of the table means "no class" only where there is one row more than classes.

    Errors:
        FormatError: the number of classes does not fit the table.
    """
    rows = rows_of(tensors)
    classes = None if rows is None else classes_of(content, rows)
    if rows is None or classes is None:
        return None
    if rows - classes not in (0, 1):
        raise FormatError(
            f"{content.path} has a table of {rows} labels, but num_classes is {classes}",
            f"expected {rows} or {rows - 1}",
        )
    return LabelSpec(classes, null=classes if rows == classes + 1 else None)


def velocity(
    content: Content, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any], *, turned: bool
) -> dict[str, Tensor]:
    """The tensors with the last layer's rows of the velocity alone, in our direction.

    Args:
        content: for messages.
        tensors: by official name. A second half of the output (`learn_sigma`) is dropped, as the programs drop it.
        recipe: of the network.
        turned: the program's velocity points to the image, ours to the noise: the layer changes its sign, exactly.
    """
    learns_variance(content, tensors, recipe)
    out = dict(tensors)
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        per_pixel = out[name].reshape(recipe["patch"] ** 2, -1, *out[name].shape[1:])
        rows = per_pixel[:, : recipe["image_channels"]].flatten(0, 1)
        out[name] = -rows if turned else rows
    return out


def flow(
    network: nn.Module,
    recipe: Mapping[str, Any],
    labels: LabelSpec | None,
    content: Content,
    *,
    data_at_one: bool,
    times: str = "uniform",
    scaling: LatentScaling | None = None,
) -> Denoiser:
    """A flow's denoiser, in eval mode; `data_at_one`: the program's t is 1 - s. It is never multiplied by 1000."""
    made = Denoiser(
        network,
        schedule=FlowSchedule(times),
        input=InputSpec(recipe["image_channels"], recipe["size"], latent=True, scaling=scaling),
        parameterization="flow",
        conditioning=Conditioning(scale=-1.0, offset=-1.0) if data_at_one else Conditioning(),
        sampling=SamplingSpec(clip=False),
        labels=labels,
        source=source_of(content),
    )
    return made.eval()


def filled(
    recipe: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    content: Content,
    rename: Callable[[str], str] = renamed,
) -> networks.Network:
    """The network of this recipe with these weights, by official name; nothing is drawn for it before.

    Errors:
        FormatError: the recipe cannot be built, or the tensors do not fit it.
    """
    try:
        with torch.device("meta"):
            network = networks.build(recipe)
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"{content.path}: {error}", "is it another model's config?") from error
    weights = {rename(name): tensor for name, tensor in tensors.items()}
    if {n: t.shape for n, t in network.state_dict().items()} == {n: t.shape for n, t in weights.items()}:
        network.to_empty(device="cpu")  # otherwise nothing is allocated, and the next line says what differs
    load_strictly(network, weights, content.path)
    return network


def source_of(content: Content) -> str:
    """What an autoencoder writes down to find this model again."""
    return str(content.path.resolve())
