"""Any module as a network: what calls it, and which of its submodules can be read.

The module stays as it is. A tap is a submodule named by its path; while the network runs, its output is turned into a
map (B, C, H, W) and shown to a `Read`, where taps are hooked. Nothing is hooked where nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.networks.blocks import Size
from diffrep.networks.network import Network, Place

Call = Callable[..., Any]
"""(module, x (B, C, H, W), time (B,), y (B,) or None) -> what the module returns; the first tensor in it is taken."""


class Read(nn.Module):
    """Where a tap of a hosted module is read: passes the map on."""

    def forward(self, value: Tensor) -> Tensor:
        """The map itself."""
        return value


class Hosted(Network):
    """A module as a network: (x, time, y) -> output.

    Args:
        module: any module.
        call: how it is called.
        taps: our name of a tap -> path of the submodule whose output it is; the table of channels and sizes is found
            by one pass over a black image. Of several outputs the first is taken if it is a map, else the last tensor;
            tokens (B, N, D) become a map where square patches cut x into N.
        channels: of the images.
        learns_variance: the second half of the output channels is a variance.
        aliases: our name of a tap -> other names.

    Example:
        >>> network = Hosted(nn.Conv2d(3, 3, 1), lambda module, x, time, y: module(x), {"mid": ""}, channels=3)
        >>> network.places((8, 8))[0].channels
        3
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        taps: Mapping[str, str],
        *,
        channels: int,
        learns_variance: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__()
        unknown = [path for path in taps.values() if path and not _has(module, path)]
        if unknown:
            known = ", ".join([name for name, _ in module.named_modules() if name][:20])
            raise ValueError(f'the module has no submodule "{unknown[0]}", known: {known}')
        self.module, self.call, self.paths, self.channels = module, call, dict(taps), channels
        self.config = {"layout": type(module).__name__}
        self.learns_variance, self.aliases = learns_variance, dict(aliases or {})
        self.reads = nn.ModuleDict({_key(name): Read() for name in taps})
        self._measured: dict[Size, tuple[Place, ...]] = {}

    @property
    def time_width(self) -> int:  # type: ignore[override]  # measured, where others know it
        """Width of the tap `time`, 0 where there is none."""
        rows = next(iter(self._measured.values()), None) or self.places((8, 8))
        return next((row.channels for row in rows if row.name == "time"), 0)

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Call the module; whoever hooks a `Read` sees its tap.

        Args:
            x: images or latents, (B, C, H, W).
            time: what the module was trained to see as time, (B,).
            y: class labels, (B,), or None.

        Returns:
            (B, C, H, W), or (B, 2C, H, W) with a learned variance.
        """
        with self._shown((x.shape[-2], x.shape[-1])):
            return tensors_of(self.called(x, time, y))[0]

    def called(self, x: Tensor, time: Tensor, y: Tensor | None) -> Any:  # noqa: ANN401 (whatever the module returns)
        """What the module returns."""
        return self.call(self.module, x, time, y)

    def places(self, size: Size) -> tuple[Place, ...]:
        """The taps for images of `size` (height, width), in the order in which they are computed."""
        if size not in self._measured:
            self._measured[size] = self._measure(size)
        return self._measured[size]

    @contextmanager
    def _shown(self, size: Size) -> Iterator[None]:
        handles = []
        try:
            for name, path in self.paths.items():
                read = self.reads[_key(name)]
                if read._forward_hooks:
                    inner = self.module.get_submodule(path)
                    handles.append(inner.register_forward_hook(_show(read, size)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _measure(self, size: Size) -> tuple[Place, ...]:
        """One pass over a black image, in eval mode."""
        found: dict[str, Tensor] = {}
        handles = [self.reads[_key(name)].register_forward_hook(_note(found, name)) for name in self.paths]
        training, some = self.training, next(iter(self.parameters()), torch.zeros(()))
        try:
            self.eval()
            with torch.no_grad():
                x = torch.zeros(1, self.channels, *size, device=some.device, dtype=some.dtype)
                self(x, torch.ones(1, device=some.device))
        finally:
            self.train(training)
            for handle in handles:
                handle.remove()
        return tuple(self._place(name, value) for name, value in found.items())

    def _place(self, name: str, value: Tensor) -> Place:
        if value.ndim not in (2, 4):
            raise ValueError(f'the output of "{self.paths[name]}" has shape {tuple(value.shape)}, expected a map')
        size = None if value.ndim == 2 else (value.shape[2], value.shape[3])
        return Place(name, f"reads.{_key(name)}", value.shape[1], size, False, self.names_of(name))

    def names_of(self, name: str) -> tuple[str, ...]:
        """Other names of a tap: those that were given, and the path of its submodule."""
        given = (*self.aliases.get(name, ()), self.paths[name])
        return tuple(dict.fromkeys(alias for alias in given if alias and alias != name))


def place(name: str, channels: int, resolution: Size | None, attention: bool, aliases: tuple[str, ...]) -> Place:
    """The row of a tap of a hosted module in a table that is known beforehand."""
    return Place(name, f"reads.{_key(name)}", channels, resolution, attention, aliases)


def tensors_of(output: Any) -> list[Tensor]:  # noqa: ANN401 (whatever a module returns)
    """The tensors that a module returned, also in tuples, lists and dictionaries.

    Errors:
        TypeError: there are none.
    """
    parts = output.values() if isinstance(output, Mapping) else output
    found = [output] if isinstance(output, Tensor) else [part for part in parts if isinstance(part, Tensor)]
    if not found:
        raise TypeError(f"a module returned a {type(output).__name__} without a tensor")
    return found


def as_map(value: Tensor, size: Size) -> Tensor:
    """Tokens (B, N, D) of square patches as a map (B, D, h, w); maps and vectors stay.

    Example:
        >>> as_map(torch.zeros(2, 32, 6), (8, 16)).shape
        torch.Size([2, 6, 4, 8])
    """
    if value.ndim != 3:
        return value
    for patch in range(1, min(size) + 1):
        grid = (size[0] // patch, size[1] // patch)
        if size[0] % patch == 0 and size[1] % patch == 0 and grid[0] * grid[1] == value.shape[1]:
            return value.transpose(1, 2).reshape(len(value), -1, *grid)
    raise ValueError(f"{value.shape[1]} tokens are no grid of square patches of images of {size[0]}x{size[1]}")


def _show(read: nn.Module, size: Size) -> Callable[..., None]:
    def show(module: nn.Module, inputs: object, output: Any) -> None:  # noqa: ANN401
        found = tensors_of(output)
        read(as_map(found[0] if found[0].ndim == 4 else found[-1], size))

    return show


def _note(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        found[name] = output

    return note


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _key(name: str) -> str:
    return name.replace(".", "-")
