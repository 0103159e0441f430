"""Pickles of NVIDIA's EDM (Karras et al. 2022): DDPM++, NCSN++ and ADM behind four preconditionings.

The file tells everything: constructor arguments, weights (`ema`), and how they were trained. `EDMPrecond` is our "edm".
The other three wrap networks of older programs, which predict noise: behind `VPPrecond` and `iDDPMPrecond` the network
gives eps of the variance-preserving x_t, behind `VEPrecond` it gives -eps, and its last layer's sign is turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffrep.continuous import VESchedule, VPSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats import edm_names
from diffrep.formats.content import Content, Family, Inert, module_tensors
from diffrep.formats.folder import build_network
from diffrep.formats.official_names import load_official
from diffrep.networks.edm_blocks import filter_kernel
from diffrep.networks.edm_unet import EDMUNet
from diffrep.schedules import DiscreteSchedule, EDMSchedule

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
    """Whether the file is a dictionary whose `ema` is one of EDM's preconditioned networks."""
    ema = content.data.get("ema") if isinstance(content.data, dict) else None
    return isinstance(ema, Inert) and ema.class_name in PRECONDITIONINGS and inner(ema, "model") is not None


def load(content: Content) -> Denoiser:
    """Make the denoiser.

    Errors:
        FormatError: a network that EDM never published, or tensors that are missing or left over.
    """
    precond: Inert = content.data["ema"]
    model = inner(precond, "model")
    if model is None or model.class_name not in LAYOUTS:
        raise FormatError(
            f"{content.name} holds a {getattr(model, 'class_name', None)}", f"expected one of {', '.join(LAYOUTS)}"
        )
    defaults, layout = LAYOUTS[model.class_name]
    facts = {**defaults, **arguments(model, content)}
    recipe = layout(facts, content)
    network = build_network(recipe)
    assert isinstance(network, EDMUNet)
    _fill(network, facts, module_tensors(model), content)
    size, channels = int(facts["img_resolution"]), int(facts["in_channels"])
    settings = PRECONDITIONINGS[precond.class_name](precond, content.data.get("loss_fn"), network)
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


def arguments(
    module: Inert, content: Content, needed: Sequence[str] = ("in_channels", "out_channels")
) -> dict[str, Any]:
    """What a module's constructor was called with.

    Errors:
        FormatError: naming the arguments that the file does not hold.
    """
    given = module.get("_init_kwargs")
    found = {**content.facts, **given} if isinstance(given, dict) else dict(content.facts)
    if missing := [name for name in ("img_resolution", *needed) if not isinstance(found.get(name), int)]:
        example = ", ".join(f'"{name}": ...' for name in missing)
        raise FormatError(
            f"{content.name} does not tell with which {', '.join(missing)} its {module.class_name} was made",
            f"pass architecture={{{example}}} (--architecture FILE.json)",
        )
    return found


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


Settings = dict[str, Any]


def edm_settings(precond: Inert, loss: Any, network: Any = None) -> Settings:  # noqa: ANN401 (what the file says)
    """`EDMPrecond`, and EDM2's: sigma_data, and how training drew ln sigma."""
    drawn = {ours: number(loss, official) for ours, official in (("p_mean", "P_mean"), ("p_std", "P_std"))}
    return {
        "parameterization": "edm",
        "sigma_data": number(precond, "sigma_data", 0.5),
        "schedule": EDMSchedule(**{name: value for name, value in drawn.items() if value is not None}),
        "conditioning": Conditioning("log-sigma", scale=0.25),
        "sampling": SamplingSpec(clip=False, rule="karras"),
    }


def _vp(precond: Inert, loss: Any, network: EDMUNet) -> Settings:  # noqa: ANN401 (what the file says)
    schedule = VPSchedule(
        number(precond, "beta_d", 19.9), number(precond, "beta_min", 0.1), number(precond, "epsilon_t", 1e-5)
    )
    return {
        "schedule": schedule,
        "conditioning": Conditioning(scale=number(precond, "M", 1000) - 1),
        "sampling": SamplingSpec(clip=False, rule="karras"),
    }


def _ve(precond: Inert, loss: Any, network: EDMUNet) -> Settings:  # noqa: ANN401 (what the file says)
    head = network.head.get_submodule("conv")
    with torch.no_grad():
        for tensor in head.parameters():
            tensor.neg_()
    return {
        "schedule": VESchedule(number(precond, "sigma_min", 0.02), number(precond, "sigma_max", 100.0)),
        "conditioning": Conditioning("log-sigma", offset=-math.log(2)),
        "sampling": SamplingSpec(clip=False, rule="karras"),
    }


def _iddpm(precond: Inert, loss: Any, network: EDMUNet) -> Settings:  # noqa: ANN401 (what the file says)
    sigmas = module_tensors(precond).get("u")
    if sigmas is None or sigmas.ndim != 1:
        raise FormatError("an iDDPMPrecond without its table of sigma (u)", "copy the file again")
    falling = sigmas[:-1].double()  # u_j for j = 0..M-1, and 0; t = M - 1 - j
    return {
        "schedule": DiscreteSchedule(1 / (1 + falling.flip(0) ** 2)),
        "conditioning": Conditioning("nearest"),
        "sampling": SamplingSpec(clip=False, rule="guided-diffusion"),
    }


def number(record: Any, name: str, default: Any = None) -> Any:  # noqa: ANN401 (what the file says)
    """An attribute of a pickled object as a float, `default` where it is missing or no number."""
    value = record.get(name) if isinstance(record, Inert) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else default


PRECONDITIONINGS: dict[str, Callable[[Inert, Any, Any], Settings]] = {
    "EDMPrecond": edm_settings,
    "VPPrecond": _vp,
    "VEPrecond": _ve,
    "iDDPMPrecond": _iddpm,
}
"""Official class -> arguments of our `Denoiser`."""

FAMILIES = (
    Family(
        "EDM",
        lambda content: recognizes(content) and content.data["ema"].class_name == "EDMPrecond",
        load,
        LICENSE,
        True,
    ),
    Family("EDM (VP, VE, iDDPM preconditioning)", recognizes, load, LICENSE, False),
)
