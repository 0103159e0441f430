"""A network may not be larger than the file that it is filled from.

A config beside a file can ask for any width. While a foreign file is loaded, every parameter is counted when it is
registered, before it is filled, and the first one too many is refused: nothing is allocated for nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules import module as hooks

from diffrep.errors import FormatError

SLACK, MAX_MODULES = 1_000_000, 30_000
MODULES, MODULES_PER_TENSOR = 2_000, 20
"""A network has a tensor or two per module; some parts have none, and some programs build a part again."""


@contextmanager
def at_most(entries: int, name: str, tensors: int | None = None) -> Iterator[None]:
    """Refuse networks built inside the block that have more parameters than `entries` and some slack.

    Args:
        entries: numbers that the file holds.
        name: the file, for the message.
        tensors: in how many tensors, where that is known; limits the number of modules.

    Errors:
        FormatError: inside the block.
    """
    thread, allowed = threading.get_ident(), entries + SLACK
    modules = MAX_MODULES if tensors is None else min(MAX_MODULES, MODULES + MODULES_PER_TENSOR * tensors)
    counted = {"parameters": 0, "modules": 0}

    def count(what: str, more: int) -> None:
        if threading.get_ident() != thread:
            return
        counted[what] += more
        if counted["parameters"] > allowed or counted["modules"] > modules:
            raise FormatError(
                f"the settings describe a larger network than {name} holds ({entries} numbers)",
                "is the config another model's?",
            )

    def parameter(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None and not value.is_meta:
            count("parameters", value.numel())

    def submodule(module: nn.Module, name: str, value: nn.Module | None) -> None:
        count("modules", 1)

    handles = [
        hooks.register_module_parameter_registration_hook(parameter),
        hooks.register_module_module_registration_hook(submodule),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
