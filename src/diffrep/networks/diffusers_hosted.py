"""Networks that diffusers itself runs: U-Nets and transformers that listen to a prompt.

Their class is built from its config and stays as it is; what it is told beside image and time (the prompt's embedding,
sizes) is kept with the weights. Needs diffusers, which is imported when such a network is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffrep.networks.blocks import Size, known
from diffrep.networks.hosted import Hosted, place
from diffrep.networks.network import Place

NEEDS = 'this needs the diffusers extra: pip install "diffrep[diffusers]"'
GUIDANCE = 3.5
"""What guidance-distilled Flux is told, as its pipeline does by default."""


class Row(NamedTuple):
    """A tap: our name, diffusers' path, channels, how many times the resolution is divided, attention, other names."""

    name: str
    path: str
    channels: int
    divisor: int | None
    attention: bool = False
    aliases: tuple[str, ...] = ()


class Prompted(Hosted):
    """A network of diffusers with what it is told beside image and time.

    Args:
        module: an instance of one of `CLASSES`.
        conditions: tensors by the names that diffusers gives them, of one row, or of one row per image.
    """

    def __init__(self, module: nn.Module, conditions: Mapping[str, Tensor]) -> None:
        kind = CLASSES[type(module).__name__]
        config: Any = module.config
        rows = tuple(kind.taps(module))
        channels, out = kind.channels(config)
        super().__init__(
            module,
            kind.call,
            {row.name: row.path for row in rows},
            channels=channels,
            learns_variance=out == 2 * channels,
            aliases={row.name: row.aliases for row in rows},
        )
        self.rows = rows
        self.told = tuple(conditions)
        for name, value in conditions.items():
            self.register_buffer(name, value)
        self.config = {
            "layout": "diffusers_hosted",
            "class_name": type(module).__name__,
            "arguments": {k: v for k, v in dict(config).items() if not k.startswith("_")},
            "conditions": told_shapes(self),
        }

    def called(self, x: Tensor, time: Tensor, y: Tensor | None) -> Any:  # noqa: ANN401 (whatever diffusers returns)
        """As in `Hosted`; every condition is repeated for the batch and cast like x."""
        return self.call(self, x, time, y)

    def conditions(self, x: Tensor) -> dict[str, Tensor]:
        """What the network is told, for a batch like x.

        Errors:
            ValueError: a condition of several rows, but not of one per image.
        """
        found = {}
        for name in self.told:
            value: Tensor = getattr(self, name)
            if len(value) not in (1, len(x)):
                raise ValueError(f"{name} has {len(value)} rows for {len(x)} images: give one, or one per image")
            found[name] = value.to(x).expand(len(x), *value.shape[1:])
        return found

    def places(self, size: Size) -> tuple[Place, ...]:
        """The taps for images of `size` (height, width), in the order in which they are computed."""
        return tuple(
            place(row.name, row.channels, _divided(size, row.divisor), row.attention, self.names_of(row.name))
            for row in self.rows
        )


def told_shapes(network: Prompted) -> dict[str, list[int]]:
    """What a network is told, by name and shape, as its config has it."""
    return {name: list(getattr(network, name).shape) for name in network.told}


def diffusers_hosted(
    *, class_name: str, arguments: Mapping[str, Any], conditions: Mapping[str, Sequence[int]] | None = None
) -> Prompted:
    """Build a network of diffusers from its config.

    Args:
        class_name: one of `CLASSES`.
        arguments: its config.
        conditions: names and shapes of what it is told; zeros until weights are loaded.

    Errors:
        ValueError: another class. ModuleNotFoundError: diffusers is not installed.
    """
    known(class_name, "class_name", CLASSES)
    try:
        import diffusers
    except ImportError as error:
        raise ModuleNotFoundError(NEEDS) from error
    module = getattr(diffusers, class_name).from_config(dict(arguments))
    zeros = {name: torch.zeros(list(shape)) for name, shape in (conditions or {}).items()}
    return Prompted(module, zeros)


def _unet(network: Prompted, x: Tensor, time: Tensor, y: Tensor | None) -> Any:  # noqa: ANN401
    told = network.conditions(x)
    if type(network.module).__name__ == "UNet2DModel":
        config: Any = network.module.config
        time = time.long() if config.time_embedding_type == "learned" else time
        return network.module(x, time, class_labels=told.get("class_labels", y), return_dict=False)
    added = {name: told[name] for name in ("text_embeds", "time_ids") if name in told}
    return network.module(
        x,
        time,
        encoder_hidden_states=told.get("encoder_hidden_states"),
        class_labels=told.get("class_labels", y),
        encoder_attention_mask=told.get("encoder_attention_mask"),
        added_cond_kwargs=added or None,
        return_dict=False,
    )


def _pixart(network: Prompted, x: Tensor, time: Tensor, y: Tensor | None) -> Any:  # noqa: ANN401
    told = network.conditions(x)
    return network.module(
        x,
        encoder_hidden_states=told["encoder_hidden_states"],
        timestep=time,
        added_cond_kwargs={name: told.get(name) for name in ("resolution", "aspect_ratio")},
        encoder_attention_mask=told.get("encoder_attention_mask"),
        return_dict=False,
    )


def _sd3(network: Prompted, x: Tensor, time: Tensor, y: Tensor | None) -> Any:  # noqa: ANN401
    return network.module(x, timestep=time, return_dict=False, **network.conditions(x))


def _flux(network: Prompted, x: Tensor, time: Tensor, y: Tensor | None) -> Tensor:
    """Flux takes 2x2 pixels as one token, rows and columns as positions, and multiplies time by 1000 itself."""
    told = network.conditions(x)
    b, c, height, width = x.shape
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(x)
    tokens = x.reshape(b, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    config: Any = network.module.config
    out = network.module(
        tokens.reshape(b, len(positions), 4 * c),
        timestep=time.to(x),
        img_ids=positions,
        txt_ids=torch.zeros(told["encoder_hidden_states"].shape[1], 3).to(x),
        guidance=told.pop("guidance", torch.full((b,), GUIDANCE).to(x)) if config.guidance_embeds else None,
        return_dict=False,
        **told,
    )[0]
    pixels: Tensor = out.reshape(b, height // 2, width // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(b, c, height, width)


def _unet_taps(module: Any) -> Iterator[Row]:  # noqa: ANN401 (a class of diffusers)
    widths, count = list(module.config.block_out_channels), {"enc": 1, "dec": 0}
    yield Row("time", "time_embedding", module.time_embedding.linear_2.out_features, None)
    yield Row("enc.1", "conv_in", widths[0], 1)
    for i, block in enumerate(module.down_blocks):
        rows = list(_block(block, f"down_blocks.{i}", "enc", widths[i], 2**i, count))
        if getattr(block, "downsamplers", None):
            count["enc"] += 1
            part = "" if hasattr(block, "skip_conv") else ".downsamplers.0"  # a skip block's makes an image smaller
            rows.append(Row(f"enc.{count['enc']}", f"down_blocks.{i}{part}", widths[i], 2 ** (i + 1)))
        yield from _ending(rows, f"down_blocks.{i}")
    lowest = 2 ** (len(widths) - 1)
    if getattr(module, "mid_block", None) is not None:
        attends = any(a is not None for a in getattr(module.mid_block, "attentions", ()))
        yield Row("mid", "mid_block", widths[-1], lowest, attends)
    for i, block in enumerate(module.up_blocks):
        width, divisor = widths[-1 - i], lowest // 2**i
        rows = list(_block(block, f"up_blocks.{i}", "dec", width, divisor, count))
        if getattr(block, "upsamplers", None) or getattr(block, "resnet_up", None):
            part = "resnet_up" if hasattr(block, "resnet_up") else "upsamplers.0"
            rows.append(Row(f"up.{count['dec']}", f"up_blocks.{i}.{part}", width, divisor // 2))
        yield from _ending(rows, f"up_blocks.{i}")


def _block(block: Any, path: str, side: str, width: int, divisor: int, count: dict[str, int]) -> Iterator[Row]:  # noqa: ANN401
    """Residual blocks; where attention follows, they keep diffusers' name and the attention has ours."""
    attentions = getattr(block, "attentions", None)
    for j in range(len(block.resnets)):
        count[side] += 1
        attends = attentions is not None and j < len(attentions) and attentions[j] is not None
        if attends:
            yield Row(f"{path}.resnets.{j}", f"{path}.resnets.{j}", width, divisor)
        last = f"{path}.{'attentions' if attends else 'resnets'}.{j}"
        yield Row(f"{side}.{count[side]}", last, width, divisor, attends)


def _ending(rows: list[Row], path: str) -> Iterator[Row]:
    yield from rows[:-1]
    yield rows[-1]._replace(aliases=(path,))


def _transformer_taps(*stacks: str, time: str) -> Callable[[Any], Iterator[Row]]:
    def taps(module: Any) -> Iterator[Row]:  # noqa: ANN401 (a class of diffusers)
        config = module.config
        width = config.num_attention_heads * config.attention_head_dim
        patch = 2 if "single_transformer_blocks" in stacks else config.patch_size
        yield Row("time", time, width, None)
        paths = [f"{stack}.{i}" for stack in stacks for i in range(len(getattr(module, stack)))]
        for k, path in enumerate(paths, start=1):
            yield Row(f"block.{k}", path, width, patch, True)

    return taps


def _channels(config: Any) -> tuple[int, int]:  # noqa: ANN401 (a config of diffusers)
    return config.in_channels, config.out_channels or config.in_channels


def _packed(config: Any) -> tuple[int, int]:  # noqa: ANN401 (a config of diffusers)
    return config.in_channels // 4, (getattr(config, "out_channels", None) or config.in_channels) // 4


def _divided(size: Size, divisor: int | None) -> Size | None:
    return None if divisor is None else (-(-size[0] // divisor), -(-size[1] // divisor))


class Class(NamedTuple):
    """A class of diffusers: how it is called, its taps, and (input, output) channels of its config."""

    call: Callable[..., Any]
    taps: Callable[[Any], Iterator[Row]]
    channels: Callable[[Any], tuple[int, int]] = _channels


CLASSES = {
    "UNet2DModel": Class(_unet, _unet_taps),
    "UNet2DConditionModel": Class(_unet, _unet_taps),
    "PixArtTransformer2DModel": Class(_pixart, _transformer_taps("transformer_blocks", time="adaln_single")),
    "SD3Transformer2DModel": Class(_sd3, _transformer_taps("transformer_blocks", time="time_text_embed")),
    "FluxTransformer2DModel": Class(
        _flux, _transformer_taps("transformer_blocks", "single_transformer_blocks", time="time_text_embed"), _packed
    ),
}
