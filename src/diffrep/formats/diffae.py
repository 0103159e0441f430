"""Lightning files of Diff-AE (Preechakul et al. 2022): autoencoders, with or without a latent DPM, and DDIM models.

The moving average lies under `ema_model.`; the program's settings are in the file itself (`hyper_parameters`), as far
as JSON can hold them. A latent model's file holds its autoencoder too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrep.autoencoder import CodeStats, ConditionalAutoencoder, LatentPrior
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats import official_names
from diffrep.formats.content import Content, require
from diffrep.formats.facts import lookup
from diffrep.formats.families import Family
from diffrep.formats.guided_diffusion import built, filled, head_facts, heads_of, named_schedule, outline, tensor
from diffrep.formats.latents import latent_network, stats_from
from diffrep.formats.state_dicts import read_file, tensors_in
from diffrep.formats.told import Levels, Multipliers, check_told, truth, whole
from diffrep.networks import Network

LOG = logging.getLogger("diffrep.formats")
PREFIX, ENCODER, LATENT = "ema_model.", "encoder.", "latent_net."
UNUSED = ".cond_emb_layers."
"""Layers for a code, which a network without one may have and never calls (`resnet_two_cond`)."""
NAME = "a Diff-AE checkpoint"
SETTINGS = {
    "image_size": "img_size",
    "num_heads": "net_beatgans_attn_head",
    "model_channels": "net_ch",
    "channel_mult": "net_ch_mult",
    "num_res_blocks": "net_num_res_blocks",
    "attention_resolutions": "net_attn",
    "embed_channels": "net_beatgans_embed_channels",
    "resblock_updown": "net_resblock_updown",
    "enc_channel_mult": "net_enc_channel_mult",
    "enc_num_res_block": "net_enc_num_res_blocks",
    "enc_pool": "net_enc_pool",
    "enc_out_channels": "style_ch",
    "condition_bias": "net_latent_condition_bias",
    "activation": "net_latent_activation",
    "last_act": "net_latent_net_last_act",
    "time_last_act": "net_latent_time_last_act",
    "model_var_type": "beatgans_model_var_type",
}
"""A network's setting -> the name in TrainConfig that it is made from; a file can hold either, or both."""
VARIANCES = {"fixed_large": "upper", "fixed_small": "posterior"}


def recognizes(content: Content) -> bool:
    """Whether a Lightning state dict has the network's moving average, or a bare one is an autoencoder's."""
    return bool(_network(content))


def load(content: Content) -> Denoiser | ConditionalAutoencoder:
    """Make the autoencoder, or the denoiser of a DDIM-only file.

    Errors:
        FormatError: facts are missing, an unknown kind of pooling, or tensors are missing or left over.
    """
    content = replace(
        content, told=by_network(content.told), own=by_network(content.own), facts=by_network(content.facts)
    )
    content.asked.update(SETTINGS.values())
    state = _network(content)
    encoder = {n.removeprefix(ENCODER): state.pop(n) for n in list(state) if n.startswith(ENCODER)}
    latent = {n.removeprefix(LATENT): state.pop(n) for n in list(state) if n.startswith(LATENT)}
    needed = [*head_facts(content), "image_size", "T", "beta_scheduler", "beatgans_rescale_timesteps"]
    needed += ["enc_channel_mult", "enc_num_res_block", "enc_pool"] if encoder else []
    needed += ["latent_beta_scheduler", "condition_bias", "latent_clip_sample", "latent_znormalize"] if latent else []
    require(content, NAME, needed)
    if not encoder:
        if unused := [name for name in state if UNUSED in name]:
            LOG.warning("%s: %d tensors are for a code and never used: %s, ...", content.name, len(unused), unused[0])
        return load_denoiser(content, {name: t for name, t in state.items() if UNUSED not in name})
    model = load_autoencoder(content, state, encoder)
    model.code_stats = find_stats(content, model.code_dim)
    if latent:
        model.prior = load_prior(content, latent, model)
    return model.eval()


FAMILY = Family("Diff-AE", recognizes, load, "MIT", compared=True)


def _network(content: Content) -> dict[str, Tensor]:
    """The network's tensors; {} where this is no file of the program."""
    data = content.data if isinstance(content.data, Mapping) else {}
    whole = tensors_in(data.get("state_dict")) or tensors_in(data)
    averaged = {name.removeprefix(PREFIX): t for name, t in whole.items() if name.startswith(PREFIX)}
    coded = f"{ENCODER}input_blocks.0.0.weight" in whole
    return averaged if "input_blocks.0.0.weight" in averaged else whole if coded else {}


def by_network(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the network's own names added, where only the program's are there.

    Example:
        >>> by_network({"net_ch": 64, "model_conf": {"enc_pool": None}, "net_enc_pool": "adaptivenonzero"})["enc_pool"]
        'adaptivenonzero'
    """

    def known(name: str) -> Any:  # noqa: ANN401 (whatever the settings say)
        try:
            return lookup(facts, name)
        except KeyError:
            return None

    more = {name: known(other) for name, other in SETTINGS.items() if known(name) is None}
    return {**facts, **{name: value for name, value in more.items() if value is not None}}


def shape_of(content: Content, state: Mapping[str, Tensor], time: str = "time_embed") -> dict[str, Any]:
    """Arguments of `networks.adm`, as far as the network has no code.

    Errors:
        FormatError: the settings in the file, or beside it, are another network's.
    """
    shape = outline(state, content.path, time)
    told: dict[str, Any] = {
        "model_channels": shape["channels"],
        "num_res_blocks": shape["blocks"],
        "channel_mult": Multipliers(shape["multipliers"], shape["channels"]),
        "attention_resolutions": Levels(shape["attention"], whole(content, "image_size")),
        "embed_channels": shape["time_width"],
    }
    if len(shape["multipliers"]) > 1:  # one level is never resampled
        told["resblock_updown"] = shape["resampling"] == "residual"
    check_told(content, told)
    return shape | heads_of(content)


def load_denoiser(content: Content, state: Mapping[str, Tensor]) -> Denoiser:
    """The DDIM-only model: an ADM whose time embedding has a width of its own."""
    shape = shape_of(content, state)
    network = filled(content, {**shape, "dropout": float(content.fact("dropout", 0.0))}, state)
    made = Denoiser(
        network, input=_input(content, shape), source=str(content.path), sampling=_sampling(content), **_time(content)
    )
    return made.eval()


def load_autoencoder(
    content: Content, state: Mapping[str, Tensor], encoder: Mapping[str, Tensor]
) -> ConditionalAutoencoder:
    """Network and encoder; the network listens to the code in every block."""
    time = "time_embed.time_embed"
    shape = shape_of(content, state, time)
    coded = tensor(state, "middle_block.0.cond_emb_layers.1.weight", content.path)
    arguments = {**shape, "dropout": float(content.fact("dropout", 0.0)), "code_width": coded.shape[1]}
    network = filled(content, arguments, state, time)
    return ConditionalAutoencoder(
        network,
        load_encoder(content, encoder, shape),
        input=_input(content, shape),
        source=str(content.path),
        sampling=_sampling(content),
        **_time(content),
    )


def load_encoder(content: Content, state: Mapping[str, Tensor], shape: Mapping[str, Any]) -> Network:
    """The semantic encoder; down-sampling blocks look like others, so levels and blocks are facts."""
    if content.fact("enc_pool") != "adaptivenonzero":
        raise FormatError(f'enc_pool is "{content.fact("enc_pool")}"', 'expected "adaptivenonzero"')
    multipliers = list(content.fact("enc_channel_mult") or shape["multipliers"])  # the program's own default
    blocks, width = whole(content, "enc_num_res_block"), tensor(state, "out.3.weight", content.path).shape[0]
    check_told(content, {"enc_out_channels": width})
    starts = [1 + level * (blocks + 1) for level in range(len(multipliers))]
    config = {
        "layout": "beatgans_encoder",
        **{name: shape[name] for name in ("image_channels", "channels", "heads", "head_width", "order")},
        "multipliers": multipliers,
        "attention": [f"input_blocks.{start}.1.qkv.weight" in state for start in starts],
        "blocks": blocks,
        "code_dim": width,
        "resampling": "conv" if any(".op." in name for name in state) else "residual",
    }
    encoder = built(config, content.path)
    official_names.load_official(encoder, state, official_names.beatgans_encoder(encoder), content.path)
    return encoder


def find_stats(content: Content, width: int) -> CodeStats | None:
    """Statistics of codes: a latent model's own, or `latent.pkl` beside an autoencoder."""
    own = tensors_in(content.data.get("state_dict"))
    if "conds_mean" in own:
        return stats_from(own, "conds_mean", "conds_std", width, content.path)
    beside = Path(content.path).parent / "latent.pkl"
    return stats_from(read_file(beside), "conds_mean", "conds_std", width, beside) if beside.is_file() else None


def load_prior(content: Content, state: Mapping[str, Tensor], model: ConditionalAutoencoder) -> LatentPrior:
    """The latent DPM: never clamped unless the program was told `latent_clip_sample`, and then not at its start.

    `activation` and `last_act` are no JSON, so that the program leaves them out of its files: they have its defaults,
    unless `architecture=` says otherwise.
    """
    standardized = truth(content, "latent_znormalize")
    stats = model.code_stats
    if stats is None and standardized:
        raise FormatError(f"{content.path} has a latent model without conds_mean and conds_std", "is the file whole?")
    network = latent_network(
        state,
        content.path,
        bias=float(content.fact("condition_bias")),
        dropout=float(content.fact("latent_net_conf.dropout", content.fact("net_latent_dropout", 0.0))),
        activation=str(content.fact("activation", "silu")),
        last_activation=str(content.fact("last_act", "none")),
        time_last_activation=truth(content, "time_last_act"),
    )
    steps = whole(content, "T")
    return LatentPrior(
        network,
        named_schedule(str(content.fact("latent_beta_scheduler")), steps),
        stats or CodeStats(torch.zeros(model.code_dim), torch.ones(model.code_dim)),
        SamplingSpec(clip=truth(content, "latent_clip_sample"), rule="guided-diffusion"),
        conditioning=Conditioning(scale=1000 / steps if truth(content, "latent_rescale_timesteps") else 1.0),
        clip_start=False,
        standardized=standardized,
    )


def _input(content: Content, shape: Mapping[str, Any]) -> InputSpec:
    return InputSpec(shape["image_channels"], whole(content, "image_size"))


def _sampling(content: Content) -> SamplingSpec:
    """Ancestral steps have beta, the program's default, unless `architecture=` says `fixed_small`: no JSON either."""
    kind = str(content.fact("model_var_type", "fixed_large"))
    if kind not in VARIANCES:
        raise FormatError(f'model_var_type is "{kind}"', f"expected one of {', '.join(VARIANCES)}")
    return SamplingSpec(clip=True, rule="guided-diffusion", variance=VARIANCES[kind])


def _time(content: Content) -> dict[str, Any]:
    steps = whole(content, "T")
    return {
        "schedule": named_schedule(str(content.fact("beta_scheduler")), steps),
        "conditioning": Conditioning(scale=1000 / steps if truth(content, "beatgans_rescale_timesteps") else 1.0),
    }
