"""What stands in a pickle's place of names and objects: records that cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PLAIN = (str, bytes, int, float, bool, type(None))


@dataclass(eq=False, frozen=True)
class Name:
    """A module's attribute that a pickle names; never imported."""

    full: str


@dataclass(eq=False)
class Inert:
    """An object of a class that diffrep does not know: what a file says about it, and nothing that could run.

    Args:
        class_name: `module.Class`; the bare class name for objects of NVIDIA's persistence.
        args: what its constructor would have got.
        state: what its `__setstate__` would have got; None where there is nothing.
        items: its entries, for subclasses of dict and list.
    """

    class_name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (whatever the file holds)
        """One entry of the state, where that is a dictionary."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


class Settable(dict[str, Any]):
    """A dictionary that takes an object's attributes as its entries (argparse.Namespace)."""


class Building:
    """A value that is complete only after BUILD: `finish(state)` gives what stands in its place from then on."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish = finish
        self.memo: list[int] = []


def plain_key(key: Any) -> Any:  # noqa: ANN401 (what the file says)
    """A dictionary's key or a set's member, refused where its hash could run deep."""
    flat = isinstance(key, tuple) and all(type(part) in PLAIN for part in key)
    if type(key) in PLAIN or flat or isinstance(key, Name | Inert):
        return key
    raise TypeError(f"a {type(key).__name__} cannot be a key")
