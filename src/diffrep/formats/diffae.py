"""Lightning files of Diff-AE (Preechakul et al. 2022): autoencoders, with or without a latent DPM, and DDIM models.

The moving average lies under `ema_model.`; the program's settings are in the file itself (`hyper_parameters`), as far
as JSON can hold them. A latent model's file holds its autoencoder too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffrep.autoencoder import CodeStats, ConditionalAutoencoder, LatentPrior
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats import official_names
from diffrep.formats.content import Content, require
from diffrep.formats.families import Family
from diffrep.formats.guided_diffusion import built, filled, head_facts, heads_of, named_schedule, outline, tensor
from diffrep.formats.latents import latent_network, stats_from
from diffrep.formats.state_dicts import read_file, tensors_in
from diffrep.formats.told import Levels, check_told, truth, whole
from diffrep.networks import Network

PREFIX, ENCODER, LATENT = "ema_model.", "encoder.", "latent_net."
NAME = "a Diff-AE checkpoint"


def recognizes(content: Content) -> bool:
    """Whether a Lightning state dict has the network's moving average."""
    names = tensors_in(content.data.get("state_dict")) if isinstance(content.data, Mapping) else {}
    return any(name.startswith(f"{PREFIX}input_blocks.") for name in names)


def load(content: Content) -> Denoiser | ConditionalAutoencoder:
    """Make the autoencoder, or the denoiser of a DDIM-only file.

    Errors:
        FormatError: facts are missing, an unknown kind of pooling, or tensors are missing or left over.
    """
    times = ["T", "beta_scheduler", "beatgans_rescale_timesteps"]
    require(content, NAME, [*head_facts(content), "image_size", *times])
    whole = tensors_in(content.data["state_dict"])
    state = {name.removeprefix(PREFIX): t for name, t in whole.items() if name.startswith(PREFIX)}
    encoder = {n.removeprefix(ENCODER): state.pop(n) for n in list(state) if n.startswith(ENCODER)}
    latent = {n.removeprefix(LATENT): state.pop(n) for n in list(state) if n.startswith(LATENT)}
    if not encoder:
        return load_denoiser(content, state)
    model = load_autoencoder(content, state, encoder)
    model.code_stats = find_stats(content, whole, model.code_dim)
    if latent:
        model.prior = load_prior(content, latent, model)
    return model.eval()


FAMILY = Family("Diff-AE", recognizes, load, "MIT", compared=True)


def shape_of(content: Content, state: Mapping[str, Tensor], time: str = "time_embed") -> dict[str, Any]:
    """Arguments of `networks.adm`, as far as the network has no code.

    Errors:
        FormatError: the settings in the file, or beside it, are another network's.
    """
    shape = outline(state, content.path, time)
    told = {
        "model_conf.model_channels": shape["channels"],
        "model_conf.num_res_blocks": shape["blocks"],
        "model_conf.channel_mult": list(shape["multipliers"]),
        "model_conf.attention_resolutions": Levels(shape["attention"], whole(content, "image_size")),
    }
    check_told(content, told)
    return shape | heads_of(content)


def load_denoiser(content: Content, state: Mapping[str, Tensor]) -> Denoiser:
    """The DDIM-only model: an ADM whose time embedding has a width of its own."""
    shape = shape_of(content, state)
    network = filled(content, {**shape, "dropout": float(content.fact("dropout", 0.0))}, state)
    made = Denoiser(
        network, input=_input(content, shape), source=str(content.path), sampling=_sampling(), **_time(content)
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
        sampling=_sampling(),
        **_time(content),
    )


def load_encoder(content: Content, state: Mapping[str, Tensor], shape: Mapping[str, Any]) -> Network:
    """The semantic encoder; down-sampling blocks look like others, so levels and blocks are facts."""
    require(content, NAME, ["enc_channel_mult", "enc_num_res_block", "enc_pool"])
    if content.fact("enc_pool") != "adaptivenonzero":
        raise FormatError(f'enc_pool is "{content.fact("enc_pool")}"', 'expected "adaptivenonzero"')
    multipliers, blocks = list(content.fact("enc_channel_mult")), int(content.fact("enc_num_res_block"))
    starts = [1 + level * (blocks + 1) for level in range(len(multipliers))]
    config = {
        "layout": "beatgans_encoder",
        **{name: shape[name] for name in ("image_channels", "channels", "heads", "head_width", "order")},
        "multipliers": multipliers,
        "attention": [f"input_blocks.{start}.1.qkv.weight" in state for start in starts],
        "blocks": blocks,
        "code_dim": tensor(state, "out.3.weight", content.path).shape[0],
        "resampling": "conv" if any(".op." in name for name in state) else "residual",
    }
    encoder = built(config, content.path)
    official_names.load_official(encoder, state, official_names.beatgans_encoder(encoder), content.path)
    return encoder


def find_stats(content: Content, whole: Mapping[str, Tensor], width: int) -> CodeStats | None:
    """Statistics of codes: a latent model's own, or `latent.pkl` beside an autoencoder."""
    if "conds_mean" in whole:
        return stats_from(whole, "conds_mean", "conds_std", width, content.path)
    beside = Path(content.path).parent / "latent.pkl"
    return stats_from(read_file(beside), "conds_mean", "conds_std", width, beside) if beside.is_file() else None


def load_prior(content: Content, state: Mapping[str, Tensor], model: ConditionalAutoencoder) -> LatentPrior:
    """The latent DPM: never clamped unless the program was told `latent_clip_sample`."""
    require(content, NAME, ["latent_beta_scheduler", "condition_bias", "latent_clip_sample", "latent_znormalize"])
    if model.code_stats is None:
        raise FormatError(f"{content.path} has a latent model without conds_mean and conds_std", "is the file whole?")
    if not content.fact("latent_znormalize"):
        raise FormatError(f"the latent model in {content.path} works on bare codes", "expected latent_znormalize true")
    network = latent_network(
        state,
        content.path,
        bias=float(content.fact("condition_bias")),
        dropout=float(content.fact("latent_net_conf.dropout", 0.0)),
    )
    schedule = named_schedule(str(content.fact("latent_beta_scheduler")), whole(content, "T"))
    sampling = SamplingSpec(clip=bool(content.fact("latent_clip_sample")), rule="guided-diffusion")
    return LatentPrior(network, schedule, model.code_stats, sampling)


def _input(content: Content, shape: Mapping[str, Any]) -> InputSpec:
    return InputSpec(shape["image_channels"], whole(content, "image_size"))


def _sampling() -> SamplingSpec:
    return SamplingSpec(clip=True, rule="guided-diffusion", variance="upper")


def _time(content: Content) -> dict[str, Any]:
    steps = whole(content, "T")
    return {
        "schedule": named_schedule(str(content.fact("beta_scheduler")), steps),
        "conditioning": Conditioning(scale=1000 / steps if truth(content, "beatgans_rescale_timesteps") else 1.0),
    }
