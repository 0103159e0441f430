"""Any module as a denoiser, and networks of diffusers that are in memory already.

`adapt` needs three things: how the module is called, what its taps are called, and the levels it was trained on.
`text_conditioned` takes an instance of one of diffusers' classes, `prompted` gives a denoiser another prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffrep.continuous import FlowSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError, UsageError, nearest
from diffrep.formats.diffusers_condition import FLOWS
from diffrep.formats.diffusers_told import GIVEN, needs, row
from diffrep.networks.diffusers_hosted import CLASSES, Prompted, told_shapes
from diffrep.networks.hosted import Call, Hosted
from diffrep.schedules import Schedule


def adapt(
    module: nn.Module,
    *,
    call: Call,
    schedule: Schedule,
    input: InputSpec,
    taps: Mapping[str, str] | None = None,
    parameterization: str = "eps",
    conditioning: Conditioning | None = None,
    sampling: SamplingSpec | None = None,
    labels: LabelSpec | None = None,
    sigma_data: float = 0.5,
    learns_variance: bool = False,
    source: str | None = None,
) -> Denoiser:
    """Make a denoiser of any module; its weights stay where they are.

    Args:
        module: the network.
        call: (module, x (B, C, H, W), time (B,), y (B,) or None) -> its prediction; of several outputs the first.
        schedule: the levels it was trained on.
        input: channels, size and range of its images.
        taps: name -> path of the submodule whose output it is, in the order in which they run; tokens (B, N, D) are
            read as maps. `enc.k`, `mid`, `dec.k` and `time` make it a base for the autoencoder.
        parameterization: what its output is: "eps", "x0", "v", "flow" or "edm".
        conditioning: what it sees as time; t of the schedule if left out.
        sampling: its habits.
        labels: for class-conditional modules.
        sigma_data: EDM's constant.
        learns_variance: the output has twice the channels, the prediction first.
        source: where it came from; an autoencoder writes it down.

    Errors:
        UsageError: a path that the module has not, or a tap that is neither map nor vector.

    Example:
        >>> import diffrep as dr
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1))
        >>> model = adapt(net, call=lambda net, x, t, y: net(x), taps={"mid": "1"},
        ...               schedule=dr.DiscreteSchedule.linear(), input=dr.InputSpec(1, 8))
        >>> [(tap.name, tap.channels, tap.resolution) for tap in model.taps]
        [('mid', 16, 8)]
    """
    try:
        network = Hosted(module, call, taps or {}, channels=input.channels, learns_variance=learns_variance)
        made = Denoiser(
            network,
            schedule=schedule,
            input=input,
            parameterization=parameterization,
            conditioning=conditioning,
            sampling=sampling,
            labels=labels,
            sigma_data=sigma_data,
            source=source,
        )
    except ValueError as error:
        raise UsageError(str(error), "taps= maps names to paths of submodules") from error
    return made.eval()


def text_conditioned(
    module: nn.Module,
    *,
    size: int,
    schedule: Schedule | None = None,
    prediction: str | None = None,
    sampling: SamplingSpec | None = None,
    **conditions: Tensor,
) -> Denoiser:
    """Make a denoiser of an instance of one of diffusers' classes.

    Args:
        module: a UNet2DConditionModel, PixArtTransformer2DModel, SD3Transformer2DModel, FluxTransformer2DModel or
            UNet2DModel.
        size: height and width of its latents.
        schedule: the levels it was trained on; SD3 and Flux have the flow's.
        prediction: "eps", "x0", "v" or "flow"; eps, for SD3 and Flux flow, if left out.
        sampling: its habits.
        conditions: what it is told, under diffusers' names: encoder_hidden_states (N, D) or (B, N, D), text_embeds,
            time_ids, pooled_projections and so on. What is left out is the empty prompt, as zeros.

    Errors:
        UsageError: another class, an unknown condition, a condition of another width, or no schedule.
    """
    kind = type(module).__name__
    if kind not in CLASSES:
        raise UsageError(f'"{kind}" is no class of diffusers that diffrep calls', nearest(kind, CLASSES))
    if schedule is None and kind not in FLOWS:
        raise UsageError(f"the noise schedule of a {kind} is not in it", "pass schedule=dr.DiscreteSchedule.linear()")
    config: Any = module.config
    network = Prompted(module, _told(kind, dict(config), size, conditions))
    flow = kind in FLOWS
    made = Denoiser(
        network,
        schedule=schedule or FlowSchedule(),
        input=InputSpec(network.channels, size, latent=network.channels not in (1, 3)),
        parameterization=prediction or ("flow" if flow else "eps"),
        conditioning=Conditioning(scale=1000.0 if kind == FLOWS[0] else 1.0, rounded=not flow),
        sampling=sampling or SamplingSpec(clip=False),
    )
    return made.eval()


def prompted(denoiser: Denoiser, **conditions: Tensor) -> Denoiser:
    """The same weights under another prompt; what is left out stays.

    Args:
        denoiser: from `text_conditioned`, or loaded from a folder of diffusers.
        conditions: as in `text_conditioned`, one row, or one row per image.

    Errors:
        UsageError: the denoiser listens to no prompt, or not to this condition.

    Example:
        >>> cat = prompted(denoiser, encoder_hidden_states=embedding)  # doctest: +SKIP
    """
    network = denoiser.network
    if not isinstance(network, Prompted):
        raise UsageError(f"a {type(network).__name__} listens to no prompt", "expected a text-conditioned denoiser")
    other = copy.copy(network)
    other._buffers, other._modules = dict(network._buffers), dict(network._modules)
    for name, value in conditions.items():
        if name not in network.told:
            raise UsageError(f'this network is not told "{name}"', nearest(name, network.told))
        before: Tensor = getattr(network, name)
        other._buffers[name] = _row(name, value, before).to(before.device)
    other.config = {**network.config, "conditions": told_shapes(other)}
    other.reads = copy.deepcopy(network.reads)
    names = ("schedule", "input", "parameterization", "conditioning", "sampling", "labels", "sigma_data", "source")
    return Denoiser(other, **{name: getattr(denoiser, name) for name in names}).train(denoiser.training)


def _told(kind: str, config: Mapping[str, Any], size: int, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    text = given.get("text_embeds")
    try:
        needed = needs(config, kind, size, kind, text_width=None if text is None else text.shape[-1])
    except FormatError as error:
        raise UsageError(error.message, error.hint) from error
    known = {*needed, "encoder_attention_mask"}
    for name in given:
        if name not in known or name not in GIVEN:
            raise UsageError(f'a {kind} is not told "{name}"', nearest(name, known))
    return needed | {name: _row(name, value, needed.get(name)) for name, value in given.items()}


def _row(name: str, value: Tensor, like: Tensor | None) -> Tensor:
    try:
        return row(name, value, like, "this network")
    except FormatError as error:
        raise UsageError(error.message, error.hint) from error
