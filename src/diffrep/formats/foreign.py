"""Other programs' checkpoints: find the file, read it as data, ask the families, check what they made."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffrep.denoiser import Denoiser
from diffrep.errors import DiffrepError, FormatError, UsageError
from diffrep.formats import strangers
from diffrep.formats.cards import Card, find_card
from diffrep.formats.components import Component
from diffrep.formats.content import Content, Family, ask, read
from diffrep.formats.families import families
from diffrep.formats.finding import find
from diffrep.formats.limits import at_most
from diffrep.formats.parts import all_tensors
from diffrep.formats.state_dicts import unread_average
from diffrep.formats.walking import not_finite, tensors_below
from diffrep.schedules import Schedule

COPIES = 4
"""A program may build a part again (a template, a base and a copy of it)."""
LOG = logging.getLogger("diffrep.formats")


@dataclass(frozen=True)
class Loaded:
    """A foreign checkpoint as a model.

    Args:
        model: a Denoiser or an Autoencoder, in eval mode, on the CPU.
        family: who read it.
        content: what was read.
    """

    model: Any
    family: Family
    content: Content


def load_foreign(
    path: Path,
    *,
    name: str | None = None,
    architecture: Mapping[str, Any] | None = None,
    schedule: Schedule | None = None,
) -> Loaded:
    """Load another program's checkpoint, or say why not; its license is said in one line of the log.

    Args:
        path: a file, a diffusers folder, or a folder with one checkpoint in it.
        name: what the user called it.
        architecture: facts that the file cannot tell, under the official constructors' names.
        schedule: replaces the recorded noise schedule.

    Errors:
        InputError: more than one checkpoint. FormatError: unknown, broken, hostile, or facts are missing.
        UsageError: `architecture` is no mapping.
    """
    if architecture is not None and not isinstance(architecture, Mapping):
        raise UsageError(f"architecture = {architecture!r:.80}", 'expected a mapping, such as {"num_heads": 4}')
    if card := card_named(name):
        architecture = {**card.architecture, **(architecture or {})}
    content = read(find(path), architecture, name)
    family = recognized(content)
    with at_most(entries(content), content.name, count(content)):
        model = converted(family, content)
    check_finite(model, content)
    if schedule is not None:
        replace_schedule(model, schedule, content)
    for name, meant in content.misspelt().items():
        LOG.warning('%s: architecture= has "%s", which nothing asked for; was "%s" meant?', content.name, name, meant)
    if average := unread_average(content.data):
        LOG.warning("%s: raw weights are read; the averaged ones in %s are left out", content.name, average)
    say_license(content.name, family.name, family.license)
    return Loaded(model.eval(), family, content)


def say_license(name: str, family: str, license_: str) -> None:
    """One line of the log, at every load of weights that another program trained."""
    LOG.warning("%s: %s, license of the weights: %s", name, family, license_)


def card_named(name: str | None) -> Card | None:
    """The card that was asked for by its name; a file of that name comes first."""
    return find_card(name) if name and not Path(name).exists() else None


def recognized(content: Content) -> Family:
    """The first family that knows this content.

    Errors:
        FormatError: none does; what is read and the first keys are listed.
    """
    known = families()
    if isinstance(content.data, Component) and not content.data.class_name:
        ask(content, "a network of diffusers", ["_class_name"])
    for family in known:
        try:
            if family.recognizes(content):
                return family
        except DiffrepError:
            raise
        except Exception:  # keys and shapes that this family does not expect
            continue
    if known_as := strangers.described(content.data):
        what, hint = known_as
        raise FormatError(f"{content.name} is {what}", hint)
    raise FormatError(
        f"{content.name} is no checkpoint that diffrep knows; it holds {first_keys(content)}",
        f"read are: diffrep, {', '.join(family.name for family in known)}",
    )


def converted(family: Family, content: Content) -> Any:  # noqa: ANN401 (a Denoiser or an Autoencoder)
    """The family's model.

    Errors:
        FormatError: naming the family; also where it did not expect what the file holds.
    """
    try:
        return family.load(content)
    except FormatError as error:
        if family.name in error.message.replace(str(content.path), "").replace(content.name, ""):
            raise
        raise FormatError(f"{family.name}: {error.message}", error.hint) from error
    except DiffrepError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise FormatError(
            f"{content.name} looks like {family.name}, but does not fit it ({text})",
            "is its config the right one? architecture= can correct it",
        ) from error


def first_keys(content: Content) -> str:
    """What a file holds, in a few words."""
    data = content.data
    if isinstance(data, Component):
        return f"a {data.class_name}"
    if isinstance(data, Mapping):
        keys = [str(key)[:60] for key in list(data)[:5] if isinstance(key, str | int)]
        return f"{len(data)} entries: {', '.join(keys)}{', ...' if len(data) > 5 else ''}"
    return f"a {getattr(data, 'class_name', type(data).__name__)[:80]}"


def entries(content: Content) -> int:
    """How many numbers the networks of this checkpoint may have together."""
    if isinstance(content.data, Component):
        return sum(file.stat().st_size for file in content.data.weights.files)
    held = 0
    for _, tensor in tensors_below(content.data):
        held += tensor.numel() if 0 not in tensor.stride() else 1
    return COPIES * held


def count(content: Content) -> int:
    """How many tensors a checkpoint holds."""
    data = content.data
    return len(data.weights) if isinstance(data, Component) else sum(1 for _ in tensors_below(data))


def check_finite(model: nn.Module, content: Content) -> None:
    """Refuse weights that are not finite.

    Errors:
        FormatError: naming the first of them, as the file calls them where they are found there.
    """
    ours = not_finite(all_tensors(model).items())
    if not ours:
        return
    data = content.data
    held = data.weights.tensors if isinstance(data, Component) else data
    names = not_finite(tensors_below(held)) or ours
    raise FormatError(
        f"{content.name} holds NaN or infinity in {len(names)} tensors: {', '.join(names[:5])}", "copy the file again"
    )


def replace_schedule(model: Any, schedule: Schedule, content: Content) -> None:  # noqa: ANN401 (either kind)
    """Give a denoiser, or an autoencoder's, another noise schedule.

    Errors:
        UsageError: the model has none to replace.
    """
    denoiser = model if isinstance(model, Denoiser) else getattr(model, "denoiser", None)
    if not isinstance(denoiser, Denoiser):
        raise UsageError(f"{content.name} knows its own schedule", "leave schedule= out")
    denoiser.schedule = schedule
