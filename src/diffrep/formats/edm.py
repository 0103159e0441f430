"""Pickles of NVIDIA's EDM (Karras et al. 2022): DDPM++, NCSN++ and ADM behind four preconditionings.

The file tells everything: constructor arguments, weights (`ema`), and how they were trained. An argument that it does
not hold had the constructor's default; configs beside it are not asked, and facts from the caller must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffrep.denoiser import Denoiser, InputSpec, LabelSpec
from diffrep.errors import FormatError
from diffrep.formats import edm_names
from diffrep.formats.content import Content, Family
from diffrep.formats.edm_preconditioning import PRECONDITIONINGS, number
from diffrep.formats.folder import build_network
from diffrep.formats.inert import Inert
from diffrep.formats.official_names import load_official
from diffrep.formats.state_dicts import module_tensors
from diffrep.formats.told import check_told
from diffrep.networks.edm_blocks import filter_kernel
from diffrep.networks.edm_unet import EDMUNet

LICENSE = "CC BY-NC-SA 4.0"
Facts = Mapping[str, Any]

SONG = {
    "channel_mult": [1, 2, 2, 2],
    "model_channels": 128,
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.10,
    "channel_mult_emb": 4,
    "label_dim": 0,
    "augment_dim": 0,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}
"""Defaults of SongUNet's constructor; a pickle holds only what was given to it."""
DHARIWAL = {
    "channel_mult": [1, 2, 3, 4],
    "model_channels": 192,
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
    "dropout": 0.10,
    "channel_mult_emb": 4,
    "label_dim": 0,
    "augment_dim": 0,
}
"""Defaults of DhariwalUNet's constructor."""


def recognizes(content: Content) -> bool:
    """Whether the file is, or has as its `ema`, one of EDM's preconditioned networks."""
    ema = ema_of(content)
    return ema is not None and ema.class_name in PRECONDITIONINGS and inner(ema, "model") is not None


def ema_of(content: Content) -> Inert | None:
    """The pickled network: the file's `ema`, or the only thing in it."""
    ema = content.data.get("ema") if isinstance(content.data, dict) else content.data
    return ema if isinstance(ema, Inert) else None


def loss_of(content: Content) -> Any:  # noqa: ANN401 (what the file says)
    """The pickled loss, which says how noise was drawn in training; None where there is none."""
    return content.data.get("loss_fn") if isinstance(content.data, dict) else None


def load(content: Content) -> Denoiser:
    """Make the denoiser.

    Errors:
        FormatError: a network that EDM never published, or tensors that are missing or left over.
    """
    precond = ema_of(content)
    model = inner(precond, "model") if precond else None
    if precond is None or model is None or model.class_name not in LAYOUTS:
        raise FormatError(
            f"{content.name} holds a {getattr(model, 'class_name', None)}", f"expected one of {', '.join(LAYOUTS)}"
        )
    defaults, layout = LAYOUTS[model.class_name]
    facts = {**defaults, **arguments(model, content)}
    check_caller(content, {**facts, "model_type": model.class_name, "sigma_data": number(precond, "sigma_data", 0.5)})
    recipe = layout(facts, content)
    network = build_network(recipe)
    assert isinstance(network, EDMUNet)
    check_beside(content, "model.", known=("u",))
    _fill(network, facts, module_tensors(model), content)
    size, channels = int(facts["img_resolution"]), int(facts["in_channels"])
    settings = PRECONDITIONINGS[precond.class_name](precond, loss_of(content), network)
    denoiser = Denoiser(
        network,
        input=InputSpec(channels, size, latent=channels not in (1, 3)),
        labels=LabelSpec(recipe["classes"], optional=True) if recipe["classes"] else None,
        source=str(content.path.resolve()),
        **settings,
    )
    return denoiser.eval()


def inner(module: Inert, name: str) -> Inert | None:
    """A submodule of a pickled module, None where there is none of this name."""
    modules = module.get("_modules")
    found = modules.get(name) if isinstance(modules, dict) else None
    return found if isinstance(found, Inert) else None


def check_beside(content: Content, prefix: str, known: Sequence[str] = ()) -> None:
    """Refuse a preconditioned network with tensors of unknown use beside it.

    Errors:
        FormatError: naming the first five.
    """
    ema = ema_of(content)
    strange = [n for n in module_tensors(ema) if not n.startswith((prefix, *known))] if ema else []
    if strange:
        raise FormatError(
            f"{content.name} holds tensors beside its network: {', '.join(strange[:5])}", "is it another model's file?"
        )


def arguments(
    module: Inert, content: Content, needed: Sequence[str] = ("in_channels", "out_channels")
) -> dict[str, Any]:
    """What a module's constructor was called with; where the file does not hold it, what the caller says.

    Errors:
        FormatError: naming the arguments that nobody tells.
    """
    given = module.get("_init_kwargs")
    found = dict(given) if isinstance(given, dict) else {}
    content.asked.update(("img_resolution", *needed))
    found |= {
        name: content.told[name] for name in ("img_resolution", *needed) if name not in found and name in content.told
    }
    if missing := [name for name in ("img_resolution", *needed) if not isinstance(found.get(name), int)]:
        example = ", ".join(f'"{name}": ...' for name in missing)
        raise FormatError(
            f"{content.name} does not tell with which {', '.join(missing)} its {module.class_name} was made",
            f"pass architecture={{{example}}} (--architecture FILE.json)",
        )
    return found


def check_caller(content: Content, facts: Facts) -> None:
    """Refuse facts from the caller that the file contradicts.

    Errors:
        FormatError: naming each.
    """
    check_told(
        replace(content, facts={}, own={}), {k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}
    )


def outline(facts: Facts) -> dict[str, Any]:
    """What the layouts of EDM and EDM2 have in common, from the official constructor's arguments."""
    size = int(facts["img_resolution"])
    multipliers = [int(m) for m in facts["channel_mult"]]
    return {
        "channels": int(facts["model_channels"]),
        "multipliers": multipliers,
        "attention": [(size >> level) in facts["attn_resolutions"] for level in range(len(multipliers))],
        "blocks": int(facts["num_blocks"]),
        "classes": int(facts["label_dim"]) or None,
        "dropout": float(facts["dropout"]),
    }


def _common(facts: Facts, content: Content) -> dict[str, Any]:
    channels, given = int(facts["in_channels"]), int(facts["out_channels"])
    if given not in (channels, 2 * channels):
        raise FormatError(f"{content.name} takes {channels} channels and gives {given}", "expected as many, or twice")
    return {
        "image_channels": channels,
        "augment_dim": int(facts["augment_dim"]),
        "time_multiplier": int(facts["channel_mult_emb"]),
        "learns_variance": given == 2 * channels,
        **outline(facts),
    }


def _song(facts: Facts, content: Content) -> dict[str, Any]:
    encoder, decoder = facts["encoder_type"], facts["decoder_type"]
    if encoder not in ("standard", "residual") or decoder != "standard":
        raise FormatError(
            f'{content.name} has encoder_type "{encoder}" and decoder_type "{decoder}"',
            'expected "standard" or "residual", and "standard", as in every published model',
        )
    return {
        "layout": "edm_song",
        "waves": str(facts["embedding_type"]),
        "noise_multiplier": int(facts["channel_mult_noise"]),
        "resample_filter": [float(tap) for tap in facts["resample_filter"]],
        "pyramid": encoder == "residual",
        **_common(facts, content),
    }


def _dhariwal(facts: Facts, content: Content) -> dict[str, Any]:
    return {"layout": "edm_dhariwal", **_common(facts, content)}


LAYOUTS: dict[str, tuple[dict[str, Any], Callable[[Facts, Content], dict[str, Any]]]] = {
    "SongUNet": (SONG, _song),
    "DhariwalUNet": (DHARIWAL, _dhariwal),
}
"""Official class -> its constructor's defaults, and how our layout is called for it."""


def _fill(network: EDMUNet, facts: Facts, tensors: Mapping[str, Tensor], content: Content) -> None:
    """Load all tensors; those of resampling filters hold nothing but the filter, which is checked."""
    taps = [float(tap) for tap in facts.get("resample_filter", (1, 1))]
    state = {name: tensor for name, tensor in tensors.items() if not name.endswith(".resample_filter")}
    for name in tensors.keys() - state.keys():
        if not torch.allclose(tensors[name].float(), filter_kernel(taps, torch.empty(0))):
            raise FormatError(f"{content.name}: {name} is not the filter {taps} of its constructor", "copy it again")
    if network.time.classes is not None and "map_label.weight" in state:
        state["map_label.weight"] = state["map_label.weight"].T
    load_official(network, state, edm_names.edm(network, int(facts["img_resolution"])), content.path)


def _compared(content: Content) -> bool:
    """Whether the official program's answers for such a network were at hand: not for NCSN++."""
    ema = ema_of(content)
    model = inner(ema, "model") if ema else None
    given = model.get("_init_kwargs") if model else None
    plain = [(given or {}).get(name, SONG[name]) == SONG[name] for name in ("embedding_type", "encoder_type")]
    return ema is not None and ema.class_name == "EDMPrecond" and all(plain)


FAMILIES = (
    Family("EDM", lambda content: recognizes(content) and _compared(content), load, LICENSE, compared=True),
    Family("EDM (NCSN++, or VP, VE or iDDPM preconditioning)", recognizes, load, LICENSE, compared=False),
)
