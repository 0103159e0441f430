"""What every network tells about itself: its recipe, its taps, what it can leave out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, NamedTuple, ParamSpec, TypeVar

from torch import nn

from diffrep.networks.blocks import Size


class Place(NamedTuple):
    """A place in a network that can be read: the output of submodule `module`.

    `resolution` is (height, width), None for what can be read but is no tap: the vector `time`, parts of blocks under
    their official names. `attention`: it has some. `aliases` are the official program's names for the same value.
    """

    name: str
    module: str
    channels: int
    resolution: Size | None
    attention: bool = False
    aliases: tuple[str, ...] = ()


class Network(nn.Module):
    """What every network tells about itself.

    Attributes:
        config: JSON-able; `networks.build(config)` gives the same network.
        time_width: width of the tap `time`.
        learns_variance: whether the second half of the output channels is a variance.
        fixed_size: whether it takes images of the size that it was built for only, as transformers do.
        needs_label: whether it cannot leave its class embedding out.
    """

    config: dict[str, Any]
    time_width: int
    learns_variance: bool = False
    fixed_size: bool = False
    needs_label: bool = False

    def places(self, size: Size) -> tuple[Place, ...]:
        """The taps for images of `size` (height, width), in the order in which they are computed."""
        raise NotImplementedError


P = ParamSpec("P")
N = TypeVar("N", bound=Network)


def layout(builder: Callable[P, N]) -> Callable[P, N]:
    """Make a builder write its name and arguments into the network's `.config`."""

    @wraps(builder)
    def build(*args: P.args, **kwargs: P.kwargs) -> N:
        arguments = signature(builder).bind(*args, **kwargs)
        arguments.apply_defaults()
        network = builder(*args, **kwargs)
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.arguments.items()}
        network.config = {"layout": builder.__name__, **plain}
        return network

    return build
