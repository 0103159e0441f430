"""Taps: read what a network computes on the way, by name, in one pass.

Names are `enc.k` (k-th tensor on the skip stack), `mid`, `dec.k` (k-th decoder block, before an upsampler),
`block.k` for transformers, `time` for the time embedding, and the official programs' names as aliases. Globs such as
`dec.*` are accepted. With early exit the network stops after the last wanted tap; the maps are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from diffrep.denoiser import Denoiser
from diffrep.errors import UsageError, nearest
from diffrep.noise import NoiseLevel


class _LastTapRead(Exception):
    """Raised by the hook of the last wanted tap to leave the forward pass."""


def base_of(denoiser: nn.Module) -> Denoiser:
    """The innermost denoiser behind wrappers such as `autoencoder.at(z)`; wrappers hold it as `.denoiser`."""
    inner: Any = denoiser
    while not isinstance(inner, Denoiser):
        if not hasattr(inner, "denoiser"):
            raise UsageError(f"{type(inner).__name__} has no taps", "taps need a dr.Denoiser or a wrapper around one")
        inner = inner.denoiser
    return inner


def resolve(denoiser: nn.Module, names: str | Iterable[str]) -> list[str]:
    """Turn names, globs and official aliases into tap names, in the network's order and without repeats.

    An alias stays as it was given, so that the caller finds it under that name. A glob that fits none of our names is
    one of official names (`out_*`); a tap that has several of these comes under the first.

    Errors:
        UsageError: a name or glob that matches nothing, with the nearest known one.
    """
    base = base_of(denoiser)
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise UsageError("no tap is named", f"known: {', '.join(tap.name for tap in base.taps)}")
    aliases = _aliases(base)
    found: dict[str, None] = {}
    for name in wanted:
        if name in base.places or name in aliases:
            found[name] = None
            continue
        matches = [tap.name for tap in base.taps if fnmatchcase(tap.name, name)]
        matches = matches or [official for tap in base.taps for official in _official(tap.aliases, name)[:1]]
        if not matches:
            raise UsageError(f'unknown tap "{name}"', nearest(name, [*(t.name for t in base.taps), *aliases, "time"]))
        found.update(dict.fromkeys(matches))
    order = {name: k for k, name in enumerate(base.places)}
    return sorted(found, key=lambda name: order[str(aliases.get(name, name))])


def _official(aliases: Iterable[str], glob: str) -> list[str]:
    return [alias for alias in aliases if fnmatchcase(alias, glob)]


@contextmanager
def tapped(denoiser: nn.Module, names: str | Iterable[str], early_exit: bool = True) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of taps while the body runs the denoiser.

    Args:
        denoiser: a `Denoiser`, or a wrapper around one.
        names: taps, globs or official names.
        early_exit: leave the body as soon as the last wanted tap is read; nothing after the call may be relied on.

    Yields:
        A dictionary that the body's forward pass fills: {name: (B, C, H, W)}.

    Example:
        >>> with tapped(denoiser, ["dec.4", "mid"]) as maps:      # doctest: +SKIP
        ...     denoiser(x_t, level)
    """
    base, wanted = base_of(denoiser), resolve(denoiser, names)
    aliases = _aliases(base)
    maps: dict[str, Tensor] = {}
    stop = _LastTapRead()
    handles = []
    try:
        for name in wanted:
            module = base.network.get_submodule(base.places[aliases.get(name, name)])
            last = early_exit and name == wanted[-1]
            handles.append(module.register_forward_hook(_keeper(maps, name, stop if last else None)))
        yield maps
    except _LastTapRead as reached:
        if reached is not stop:
            raise
    finally:
        for handle in handles:
            handle.remove()


def read(
    denoiser: nn.Module,
    x_t: Tensor,
    level: NoiseLevel,
    names: str | Iterable[str],
    *,
    y: Tensor | int | str | None = None,
) -> dict[str, Tensor]:
    """Run the denoiser as far as the last wanted tap and return the maps.

    Args:
        denoiser: a `Denoiser`, or a wrapper around one.
        x_t: noisy images, (B, C, H, W).
        level: noise level, () or (B,).
        names: taps, globs or official names.
        y: labels, for class-conditional models.

    Returns:
        {name: (B, C, H, W)}, in the network's order.

    Errors:
        UsageError: unknown tap, or a network that runs past its own modules (torch.compile).
    """
    wanted = resolve(denoiser, names)
    with tapped(denoiser, wanted) as maps:
        denoiser(x_t, level) if y is None else denoiser(x_t, level, y=y)
    if missing := [name for name in wanted if name not in maps]:
        raise UsageError(f"taps were not reached: {', '.join(missing)}", "taps are hooks: read an uncompiled network")
    return maps


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, without dropout; after it each module is in its former mode."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _aliases(base: Denoiser) -> dict[str, str]:
    return {alias: tap.name for tap in base.taps for alias in tap.aliases}


def _keeper(maps: dict[str, Tensor], name: str, stop: Exception | None) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        maps[name] = output
        if stop is not None:
            raise stop

    return keep
