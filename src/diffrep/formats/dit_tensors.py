"""What the tensors of DiT and its descendants tell: names, shapes, classes, and the network that takes them.

Shared by the readers of DiT, SiT, REPA and LightningDiT (DDAE 2.4 and 5.6). Heads and classes are not in the tensors:
they are facts, or the published sizes; a fact that the tensors contradict is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffrep import networks
from diffrep.continuous import FlowSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats.content import Content, ask
from diffrep.formats.dit_program import doubled, fact, halves
from diffrep.formats.official_names import load_official
from diffrep.formats.told import positive
from diffrep.input_spec import LatentScaling

HEADS = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16, (1536, 24): 24, (1792, 28): 28}
"""The published sizes S, B, L and XL, and LightningDiT's 1p0B and 1p6B: (width, depth) -> heads."""

IMAGENET = 1000
"""Classes of the published models: their tables have one row more for "no class", or were trained without."""
TABLE = "y_embedder.embedding_table.weight"

OFFICIAL = (
    (r"^positions$", "pos_embed"),
    (r"^patch\.", "x_embedder."),
    (r"^time\.linear1\.", "t_embedder.mlp.0."),
    (r"^time\.linear2\.", "t_embedder.mlp.2."),
    (r"^time\.classes\.", "y_embedder.embedding_table."),
    (r"^head\.norm\.", "final_layer.norm_final."),
    (r"^head\.", "final_layer."),
    (r"^rotary\.", "feat_rope.freqs_"),
    (r"\.modulation\.", ".adaLN_modulation.1."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
)
"""From our names of tensors to the programs', in this order."""
LAYERS = {False: ("fc1", "fc2"), True: ("w12", "w3")}
"""The feed-forward layers of plain and of gated blocks."""


def official(ours: str, gated: bool = False) -> str:
    """The name that DiT, SiT, REPA and LightningDiT give to a tensor of our network.

    Example:
        >>> official("blocks.3.attention.out.weight")
        'blocks.3.attn.proj.weight'
    """
    for pattern, theirs in OFFICIAL:
        ours = re.sub(pattern, theirs, ours)
    return re.sub(r"\.feed_forward\.linear([12])\.", lambda found: f".mlp.{LAYERS[gated][int(found[1]) - 1]}.", ours)


def outline(
    content: Content, tensors: Mapping[str, Tensor], program: str, also_missing: Sequence[str] = ()
) -> dict[str, Any]:
    """What the tensors' shapes tell of the network, in the builder's words, and the heads, which they do not.

    Args:
        content: whose facts are asked.
        tensors: by official name.
        program: who wrote them; "" where that is not known, which is then asked for with whatever else is missing.
        also_missing: facts of which the caller knows that they are missing.

    Errors:
        FormatError: shapes that are none of this family's, shapes that contradict the facts, missing facts.
    """
    inner = next((name for name in ("w3", "fc1") if f"blocks.0.mlp.{name}.weight" in tensors), "fc1")
    needed = ("pos_embed", "x_embedder.proj.weight", f"blocks.0.mlp.{inner}.weight", TABLE, "final_layer.linear.weight")
    if missing := [name for name in needed if name not in tensors]:
        raise FormatError(
            f"{content.path} has tensors of DiT's family, but lacks {', '.join(missing)}, without which its shape is "
            "not known",
            "is the file whole?",
        )
    try:
        tokens, width = tensors["pos_embed"].shape[1:]
        _, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
        hidden = tensors[f"blocks.0.mlp.{inner}.weight"].numel() // width
    except (ValueError, ZeroDivisionError) as error:
        raise FormatError(f"{content.path} has no {program} network's tensors: {error}") from error
    side, depth = math.isqrt(tokens), depth_of(tensors, "blocks")
    normed = "blocks.0.attn.q_norm.weight" in tensors
    if side * side != tokens:
        raise FormatError(f"{content.path} has {tokens} positions", f"{program} has square images: a square number")
    check_facts(
        content,
        {
            **{"in_channels": channels, "in_chans": channels, "input_size": side * patch, "patch_size": patch},
            **{"hidden_size": width, "depth": depth, "qk_norm": normed},
        },
    )
    check_ratio(content, width, hidden, gated=inner == "w3")
    return {
        "image_channels": channels,
        "size": side * patch,
        "patch": patch,
        "width": width,
        "depth": depth,
        "mlp_ratio": ratio(hidden, width),
        "classes": len(tensors[TABLE]),
        "qk_norm": normed,
        "heads": heads_of(content, program, width, depth, len(tensors[TABLE]), also_missing),
    }


def ratio(inner: int, width: int) -> float:
    """The `mlp_ratio` of which a builder makes `inner` again, by int(width * mlp_ratio)."""
    exact = inner / width
    return exact if int(width * exact) == inner else (inner + 0.5) / width


def depth_of(tensors: Mapping[str, Tensor], blocks: str) -> int:
    """How many blocks there are: how many numbers stand in the names `blocks.N.`."""
    return len({m[1] for name in tensors if (m := re.match(rf"{blocks}\.(\d+)\.", name))})


def check_facts(content: Content, found: Mapping[str, object]) -> None:
    """Refuse facts that the tensors contradict.

    Errors:
        FormatError: naming the fact, its source and what the file has.
    """
    for name, value in found.items():
        said = fact(content, name)
        if said is not None and said != value:
            raise FormatError(
                f"{content.path} has {name} = {value}, but {content.origin_of(name)} says {said}",
                "is it another model's config?",
            )


def check_ratio(content: Content, width: int, hidden: int, *, gated: bool) -> None:
    """Refuse an `mlp_ratio` that does not make this many hidden features; gated layers have two thirds of them."""
    inner = hidden if fact(content, "mlp_ratio") is None else int(width * positive(content, "mlp_ratio"))
    if hidden not in (inner, int(2 / 3 * inner) if gated else inner):
        check_facts(content, {"mlp_ratio": hidden / width})


def heads_of(
    content: Content, program: str, width: int, depth: int, rows: int, also_missing: Sequence[str] = ()
) -> int:
    """Attention heads: a fact, or the published size of this width and depth.

    Errors:
        FormatError: neither is known (all that is unknown is named at once), or the width cannot be divided so.
    """
    said = fact(content, "num_heads", HEADS.get((width, depth)))
    unknown = {"num_heads": said is None, "num_classes": classes_of(content, rows) is None, "model": not program}
    family = f"a {program} checkpoint" if program else "of a form that DiT, SiT, REPA and LightningDiT share"
    if missing := [*(name for name, is_unknown in unknown.items() if is_unknown), *also_missing]:
        ask(content, family, missing)
    if isinstance(said, bool) or not isinstance(said, int) or said < 1 or width % said:
        raise FormatError(
            f"num_heads is {said!r:.80}, but {content.path} has a width of {width}",
            "expected a whole number that divides it",
        )
    return said


def learns_variance(content: Content, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> bool:
    """Whether the output has twice the image's channels."""
    rows, double = len(tensors["final_layer.linear.weight"]), doubled(tensors)
    single = recipe["patch"] ** 2 * recipe["image_channels"]
    if rows not in (single, 2 * single):
        raise FormatError(
            f"{content.path} has an output of {rows} numbers per patch", f"expected {single} or {2 * single}"
        )
    check_facts(content, {"learn_sigma": double})
    return double


def classes_of(content: Content, rows: int) -> int | None:
    """The number of classes of a table of labels: a fact, or ImageNet's; None where it is not known.

    Errors:
        FormatError: a fact that is no whole number, or that the table contradicts.
    """
    classes = fact(content, "num_classes")
    dropout = fact(content, "class_dropout_prob", fact(content, "cfg_prob"))
    if not isinstance(dropout, int | float | None):
        raise FormatError(f"class_dropout_prob is {dropout!r:.80}", "expected a number from 0 to 1")
    extra = None if dropout is None else int(dropout > 0)
    if classes is None:
        known = rows - extra if extra is not None else None
        return IMAGENET if known is None and rows in (IMAGENET, IMAGENET + 1) else known
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise FormatError(f"num_classes is {classes!r:.80}", "expected a whole number")
    if rows - classes not in ((0, 1) if extra is None else (extra,)):
        also = "" if extra is None else f" and class_dropout_prob {dropout:g}"
        raise FormatError(
            f"{content.path} has a table of {rows} labels, but num_classes is {classes}{also}",
            "there is one row more than classes where labels were dropped in training, and only there",
        )
    return classes


def labels_of(content: Content, tensors: Mapping[str, Tensor]) -> LabelSpec | None:
    """The classes; the last row of the table means "no class" only where there is one row more than classes.

    Errors:
        FormatError: the number of classes does not fit the table.
    """
    rows = len(tensors[TABLE])
    classes = classes_of(content, rows)
    return None if classes is None else LabelSpec(classes, null=classes if rows == classes + 1 else None)


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
        if name in tensors:
            rows, _ = halves(tensors[name], tensors)
            out[name] = -rows if turned else rows
    return out


def flow(
    network: nn.Module,
    recipe: Mapping[str, Any],
    labels: LabelSpec | None,
    content: Content,
    *,
    data_at_one: bool,
    schedule: FlowSchedule | None = None,
    scaling: LatentScaling | None = None,
) -> Denoiser:
    """A flow's denoiser, in eval mode; `data_at_one`: the program's t is 1 - s. It is never multiplied by 1000."""
    made = Denoiser(
        network,
        schedule=schedule or FlowSchedule(),
        input=InputSpec(recipe["image_channels"], recipe["size"], latent=True, scaling=scaling),
        parameterization="flow",
        conditioning=Conditioning(scale=-1.0, offset=-1.0) if data_at_one else Conditioning(),
        sampling=SamplingSpec(clip=False, rule="flow"),
        labels=labels,
        source=source_of(content),
    )
    return made.eval()


def filled(
    recipe: Mapping[str, Any], tensors: Mapping[str, Tensor], content: Content, theirs: Callable[[str], str] = official
) -> networks.Network:
    """The network of this recipe with these weights; nothing is drawn for it before.

    Args:
        recipe: arguments of `networks.build`.
        tensors: by official name.
        content: for messages.
        theirs: our name of a tensor -> the official one.

    Errors:
        FormatError: the recipe cannot be built, or the tensors do not fit it.
    """
    try:
        with torch.device("meta"):
            network = networks.build(recipe)
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"{content.path}: {error}", "is it another model's config?") from error
    names = [(theirs(name), name) for name in network.state_dict()]
    load_official(network, tensors, names, content.path)
    return network


def source_of(content: Content) -> str:
    """What an autoencoder writes down to find this model again."""
    return str(content.path.resolve())
