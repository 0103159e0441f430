"""What Diff-AE and PDAE keep of code space: statistics, and the network of a latent diffusion model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrep.autoencoder import CodeStats
from diffrep.errors import FormatError
from diffrep.formats import official_names
from diffrep.formats.guided_diffusion import built, tensor
from diffrep.networks import Network


def stats_from(data: Any, mean: str, std: str, width: int, file: Path) -> CodeStats:  # noqa: ANN401
    """Statistics of codes from two vectors of a file.

    Args:
        data: what the file holds.
        mean: name of the means, (D,) or (1, D).
        std: name of the standard deviations, likewise.
        width: D.
        file: for messages.

    Errors:
        FormatError: a vector is missing or of another width.
    """
    found = [data.get(name) if isinstance(data, Mapping) else None for name in (mean, std)]
    vectors = [v.detach().reshape(-1).to(torch.float32).clone() for v in found if isinstance(v, Tensor)]
    if len(vectors) != 2 or any(len(v) != width for v in vectors):
        shapes = [tuple(v.shape) if isinstance(v, Tensor) else None for v in found]
        raise FormatError(f"{file} has {mean} and {std} of shapes {shapes}", f"expected two vectors of {width}")
    return CodeStats(*vectors)


def latent_network(
    state: Mapping[str, Tensor],
    file: Path,
    *,
    bias: float,
    dropout: float = 0.0,
    activation: str = "silu",
    last_activation: str = "none",
    time_last_activation: bool = False,
) -> Network:
    """The MLP with skips, its shape from names and shapes (PDAE 2.4).

    Args:
        state: tensors by official name; the copies of `linear_emb` that files store are compared and dropped.
        file: for messages.
        bias: the program's `condition_bias`.
        dropout: of its layers.
        activation: see `networks.latent_mlp`.
        last_activation: likewise.
        time_last_activation: likewise.

    Errors:
        FormatError: tensors are missing or left over.
    """
    kept = {name: t for name, t in state.items() if not _is_copy(name, t, state)}
    count = len({name.split(".")[1] for name in kept if name.startswith("layers.")})
    inputs = [tensor(kept, f"layers.{i}.linear.weight", file) for i in range(count)]
    waves = tensor(kept, "time_embed.0.weight", file)
    if count < 2:
        raise FormatError(f"the latent network in {file} has {count} layers", "is the file whole?")
    hidden, width = inputs[0].shape[0], inputs[-1].shape[0]
    config = {
        "layout": "latent_mlp",
        "code_dim": width,
        "hidden": hidden,
        "layers": count,
        "skips": [i for i in range(count) if inputs[i].shape[1] == (hidden if i else width) + width],
        "wave_width": waves.shape[1],
        "use_norm": any(name.endswith(".norm.weight") for name in kept),
        "bias": bias,
        "dropout": dropout,
        "activation": activation,
        "last_activation": last_activation,
        "time_layers": len({name for name in kept if name.startswith("time_embed.") and name.endswith(".weight")}),
        "time_last_activation": time_last_activation,
    }
    network = built(config, file)
    official_names.load_official(network, kept, official_names.latent_mlp(network), file)
    network.eval()
    return network


def _is_copy(name: str, value: Tensor, state: Mapping[str, Tensor]) -> bool:
    original = state.get(name.replace(".cond_layers.1.", ".linear_emb."))
    return ".cond_layers.1." in name and original is not None and torch.equal(value, original)
