"""A network of three convolutions with taps, small enough to follow by hand."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn


class Place(NamedTuple):
    name: str
    module: str
    channels: int
    resolution: tuple[int, int] | None
    attention: bool = False
    aliases: tuple[str, ...] = ()


class Time(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, time: Tensor) -> Tensor:
        return torch.sin(time[:, None] * self.scale)


class StubNetwork(nn.Module):
    """enc.1 -> mid -> dec.1; remembers the last time that it was given."""

    time_width = 16
    learns_variance = False
    config: ClassVar[dict[str, object]] = {"layout": "stub"}

    def __init__(self, channels: int = 1, out: int | None = None, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.time = Time()
            self.first = nn.Conv2d(channels, 16, 3, padding=1)
            self.middle = nn.Conv2d(16, 16, 3, padding=1)
            self.last = nn.Conv2d(16, out or channels, 3, padding=1)
        self.calls = 0
        self.seen: list[Tensor] = []

    def places(self, size: tuple[int, int]) -> tuple[Place, ...]:
        return (
            Place("time", "time", 16, None),
            Place("enc.1", "first", 16, size),
            Place("mid", "middle", 16, size, aliases=("official_middle",)),
            Place("dec.1", "last", 1, size),
        )

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        self.seen.append(time)
        h = self.first(x) + self.time(time)[:, :, None, None]
        h = torch.tanh(self.middle(h))
        if y is not None:
            h = h + y[:, None, None, None]
        self.calls += 1
        return self.last(h)
