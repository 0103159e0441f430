"""Files of PDAE (Zhang et al. 2022): pre-trained DPMs, autoencoders, latents, latent DPMs and classifiers.

An autoencoder's `ema_decoder` holds its frozen DPM and the shift; the DPM's shape is in the DPM's own config, which
the autoencoder's config names from the project's root. Statistics, prior and classifier lie in folders beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.autoencoder import LatentPrior, SemanticEncoder, ShiftAutoencoder, ShiftEstimator
from diffrep.denoiser import Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats import official_names
from diffrep.formats.content import Content, require
from diffrep.formats.facts import read_config
from diffrep.formats.families import Family
from diffrep.formats.guided_diffusion import filled, head_facts, heads_of, outline, tensor
from diffrep.formats.latents import latent_network, stats_from
from diffrep.formats.state_dicts import read_file, tensors_in
from diffrep.formats.told import Levels, Multipliers, check_told, whole
from diffrep.schedules import DiscreteSchedule

LOG = logging.getLogger("diffrep.formats")
ENCODER_HEADS = 4
"""Of every encoder's attention; written in the program, not in its configs."""
LATENT_BETA = 0.008
"""Of every step of the latent DPM (PDAE 1.12)."""
SHIFT = ("label_emb.", "shift_middle_block.", "shift_output_blocks.", "shift_out.")


def recognizes(content: Content) -> bool:
    """Whether the moving average of a DPM or of an autoencoder is inside; of its other parts see `strangers`."""
    keys = set(content.data) if isinstance(content.data, Mapping) else set()
    return "ema_denoise_fn" in keys or {"ema_encoder", "ema_decoder"} <= keys


def load(content: Content) -> Denoiser | ShiftAutoencoder:
    """Make the autoencoder with whatever lies beside it, or the denoiser of a pre-trained DPM.

    Errors:
        FormatError: facts are missing, or tensors are missing or left over.
    """
    data = content.data
    if "ema_denoise_fn" in data:
        return load_denoiser(content, tensors_in(data["ema_denoise_fn"]))
    with torch.random.fork_rng(devices=[]):  # fresh layers draw their weights before these are loaded
        return load_autoencoder(with_base_facts(content))


FAMILY = Family("PDAE", recognizes, load, "none stated", compared=True)


def load_denoiser(content: Content, state: Mapping[str, Tensor]) -> Denoiser:
    """The frozen DPM: linear or cosine betas counted from t = 0, sampled on PDAE's grid with clamped x_0.

    Errors:
        FormatError: facts are missing, or tensors are missing or left over.
    """
    family = "a PDAE checkpoint"
    shape = outline(state, content.path)
    require(content, family, [*head_facts(content, "head_channel"), "image_size", "betas_type", "timesteps"])
    told = {
        "base_channel": shape["channels"],
        "channel_multiplier": Multipliers(shape["multipliers"], shape["channels"]),
        "num_residual_blocks_of_a_block": shape["blocks"],
        "attention_resolutions": Levels(shape["attention"], None),
        "input_channel": shape["image_channels"],
        "num_class": shape["classes"],
        "learn_sigma": shape["learns_variance"],
    }
    check_told(content, told)
    network = filled(
        content, {**shape, **heads_of(content, "head_channel"), "dropout": float(content.fact("dropout", 0.0))}, state
    )
    kinds = {"linear": DiscreteSchedule.linear, "cosine": DiscreteSchedule.cosine}
    kind = str(content.fact("betas_type"))
    if kind not in kinds:
        raise FormatError(f'betas_type is "{kind}"', f"expected one of {', '.join(kinds)}")
    classes = shape["classes"]
    denoiser = Denoiser(
        network,
        schedule=kinds[kind](whole(content, "timesteps")),
        input=InputSpec(shape["image_channels"], whole(content, "image_size")),
        sampling=SamplingSpec(clip=True, rule="pdae", ancestral_clip=False),
        labels=LabelSpec(classes) if classes else None,
        source=str(named_file(content, "trained_ddpm_checkpoint") or content.path),
    )
    return denoiser.eval()


def load_autoencoder(content: Content) -> ShiftAutoencoder:
    """Encoder and shift around the frozen half of the decoder; trained by the posterior scale, sampled by the score.

    Errors:
        FormatError: facts are missing, or tensors are missing or left over.
    """
    decoder = tensors_in(content.data["ema_decoder"])
    base = load_denoiser(content, {name: t for name, t in decoder.items() if not name.startswith(SHIFT)})
    config = base.config()["network"]
    encoder = load_encoder(tensors_in(content.data["ema_encoder"]), content.path)
    check_told(content, {"latent_dim": encoder.code_dim})
    shift = ShiftEstimator(
        base.taps,
        config["time_width"],
        base.input.channels,
        encoder.code_dim,
        group_width=1,
        heads=config["heads"],
        head_width=config["head_width"],
        order=config["order"],
        dropout=config["dropout"],
    )
    trained = {name: t for name, t in decoder.items() if name.startswith(SHIFT)}
    official_names.load_official(shift, trained, official_names.shift(shift), content.path)
    model = ShiftAutoencoder(base, encoder, shift, training_scale="posterior", sampling_scale="paper")
    model.carries_base = True
    add_parts(model, content)
    return model.eval()


def load_encoder(state: Mapping[str, Tensor], file: Path) -> SemanticEncoder:
    """A semantic encoder, its widths and its attention from the shapes.

    Errors:
        FormatError: tensors are missing or left over.
    """
    numbers = sorted({int(name.split(".")[1]) for name in state if name.split(".")[1].isdigit()})
    weights = {k: state[f"encoder.{k}.weight"] for k in numbers if f"encoder.{k}.weight" in state}
    convolutions = [k for k, weight in weights.items() if weight.ndim == 4]
    attention = [k for k in numbers if f"encoder.{k}.qkv.weight" in state]
    head = tensor(state, f"encoder.{max(numbers, default=0)}.weight", file)
    if not convolutions or head.ndim != 2 or len(attention) > 1:
        raise FormatError(f"the encoder in {file} is none of the program's", "expected convolutions and a linear layer")
    widths = [weights[k].shape[0] for k in convolutions]
    encoder = SemanticEncoder(
        weights[convolutions[0]].shape[1],
        head.shape[0],
        widths,
        attention=sum(k < attention[0] for k in convolutions) if attention else None,
        heads=ENCODER_HEADS,
        pool_size=round((head.shape[1] / widths[-1]) ** 0.5),
        group_width=1,
    )
    official_names.load_official(encoder, state, official_names.pdae_encoder(encoder), file)
    return encoder


def with_base_facts(content: Content) -> Content:
    """The content with the facts of its DPM's config added, where that is found."""
    config = named_file(content, "trained_ddpm_config")
    if config is None:
        return content
    content.origins.append(str(config))
    return replace(content, facts={**read_config(config), **content.facts})


def named_file(content: Content, fact: str) -> Path | None:
    """The file that a config names from the project's root, looked for from each folder above the checkpoint."""
    return below_root(content.path, content.fact(fact, None))


def below_root(checkpoint: Path, named: Any) -> Path | None:  # noqa: ANN401 (what a config says)
    """A file by its path from the project's root; None where it is not there.

    Configs that were written in a folder of the project begin with `../`, and others name the place on their author's
    machine: of these the last three parts count, such as `pre-trained-dpms/NAME/config.yml`.
    """
    if not isinstance(named, str) or not named:
        return None
    parts = [part for part in PurePosixPath(named).parts if part not in ("/", "..")]
    tail = parts[-3:] if named.startswith("/") else parts
    roots = [folder for folder in list(checkpoint.resolve().parents)[:6] if folder.name]
    return next((file for root in roots if (file := root.joinpath(*tail)).is_file()), None)


def add_parts(model: ShiftAutoencoder, content: Content) -> None:
    """Add code statistics, prior and classifier whose configs name this autoencoder.

    Errors:
        FormatError: a part is there, but broken or for codes of another width.
    """
    width = model.encoder.code_dim
    parts = dict(parts_of(content))
    stats = next(filter(None, (below_root(content.path, c.get("inferred_latents")) for c, _ in parts.values())), None)
    stats = stats or latents_by_name(content.path)
    if stats is not None:
        model.code_stats = stats_from(read_file(stats), "mean", "std", width, stats)
    if "ema_latent_denoise_fn" in parts and model.code_stats is None:
        LOG.warning("%s: its latent DPM is left out: no statistics of codes in trained-models/latents", content.name)
    if "ema_latent_denoise_fn" in parts and model.code_stats is not None:
        _, file = parts["ema_latent_denoise_fn"]
        state = tensors_in(read_file(file).get("ema_latent_denoise_fn"))
        alphas = (1 - torch.full((1000,), LATENT_BETA, dtype=torch.float64)).cumprod(0)
        sampling = SamplingSpec(clip=True, rule="pdae")
        network = latent_network(state, file, bias=1.0)
        model.prior = LatentPrior(network, DiscreteSchedule(alphas), model.code_stats, sampling)
    if "ema_classifier" in parts:
        _, file = parts["ema_classifier"]
        model.classifier = load_classifier(tensors_in(read_file(file).get("ema_classifier")), width, file)


def parts_of(content: Content) -> Iterator[tuple[str, tuple[dict[str, Any], Path]]]:
    """(its key, (its config, its checkpoint)) of prior and classifier that were trained on this autoencoder.

    A classifier without a config, as it was published, belongs to the autoencoder whose encoder it holds too, else to
    the only autoencoder beside it.
    """
    name, trained = content.path.resolve().parent.name, _trained_models(content.path)
    for key, folder in (("ema_latent_denoise_fn", "latent_denoise_fn"), ("ema_classifier", "classifier")):
        for config in sorted([*trained.glob(f"{folder}/config.yml"), *trained.glob(f"{folder}/*/config.yml")]):
            facts, checkpoint = read_config(config), config.parent / "checkpoint.pt"
            named = str(facts.get("trained_representation_learning_checkpoint", ""))
            if checkpoint.is_file() and Path(named).parent.name == name:
                yield key, (facts, checkpoint)
                break
    bare = trained / "classifier" / "checkpoint.pt"
    if not bare.is_file() or (bare.parent / "config.yml").exists():
        return
    theirs, ours = tensors_in(read_file(bare).get("encoder")), tensors_in(content.data["ema_encoder"])
    same = theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    if same or len(list(trained.glob("autoencoder/*/checkpoint.pt"))) == 1:
        yield "ema_classifier", ({}, bare)
    else:
        LOG.warning(
            "%s: the classifier in %s is left out: neither a config nor its encoder names it", content.name, bare
        )


def latents_by_name(autoencoder: Path) -> Path | None:
    """The statistics that go by the autoencoder's name, for 128-pixel models without the size."""
    folder, name = _trained_models(autoencoder) / "latents", autoencoder.resolve().parent.name
    files = [folder / f"{n}.pt" for n in (name, name.removesuffix("128"))]
    return next((file for file in files if file.is_file()), None)


def load_classifier(state: Mapping[str, Tensor], width: int, file: Path) -> nn.Linear:
    """The linear classifier of attributes, on standardized codes.

    Errors:
        FormatError: tensors are missing or left over, or it is for codes of another width.
    """
    weight = tensor(state, "weight", file)
    if weight.ndim != 2 or weight.shape[1] != width:
        raise FormatError(f"the classifier in {file} takes {weight.shape[-1]} numbers, the codes have {width}")
    classifier = nn.Linear(width, weight.shape[0])
    official_names.load_official(classifier, state, [("weight", "weight"), ("bias", "bias")], file)
    return classifier.eval()


def _trained_models(autoencoder: Path) -> Path:
    """The folder `trained-models` of an autoencoder's checkpoint, three levels up."""
    folders = list(autoencoder.resolve().parents)
    return folders[min(2, len(folders) - 1)]
