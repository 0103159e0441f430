"""What a foreign checkpoint holds and what is known about it, found without executing anything.

`read` opens a file or a diffusers folder; families (one file each) recognize a `Content` by its keys and shapes.
What the file cannot tell is in `facts`, under the official constructors' names, or it is asked for by `require`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from diffrep.errors import FormatError
from diffrep.formats import components
from diffrep.formats import facts as settings
from diffrep.formats.state_dicts import read_file, tensors_in

MISSING: Any = object()
"""The default of `Content.fact` that makes a missing fact an error."""
EXAMPLES = {
    "model_type": '"DDPM" (with n_T, betas; or "EDM", with sigma_data, p_mean, p_std, sigma_min, sigma_max, rho)',
    "model": '"DiT-XL/2" (or "SiT-XL/2" with "learn_sigma": false, "REPA", "LightningDiT-XL/1")',
    "latent_mean": "[...] (or latents_stats.pt beside it)",
    "latent_std": "[...]",
    "time": '"discrete" (latents; "continuous" for pixels)',
    "null_class": "1000 (the last label, or false where it is a class)",
    "_class_name": '"UNet2DModel", and what else its config.json says',
}
"""What may be said where three dots would say too little."""


@dataclass(frozen=True)
class Content:
    """One checkpoint.

    Args:
        path: the file, or the diffusers folder.
        data: plain containers, tensors on the CPU and `Inert` records; a `Component` where diffusers wrote it.
        facts: official constructor names -> values, also in sections, of the config beside it or of its card.
        origins: where the facts come from, for messages; families that read another config add it.
        sha256: of the file, where it had to be computed.
        name: what the user called it.
        told: facts from the caller, which win over all others.
        own: facts that the file holds itself, which win over a config beside it.
        asked: the names of all facts that were asked for.
    """

    path: Path
    data: Any = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: list[str] = field(default_factory=list)
    sha256: str | None = None
    name: str = ""
    told: dict[str, Any] = field(default_factory=dict, repr=False)
    own: dict[str, Any] = field(default_factory=dict, repr=False)
    asked: set[str] = field(default_factory=set, repr=False, compare=False)

    @property
    def origin(self) -> str:
        """Where the facts come from, in words."""
        return ", ".join(self.origins)

    def fact(self, name: str, default: Any = MISSING) -> Any:  # noqa: ANN401 (whatever the config says)
        """A fact by its official name (`num_heads`), or by its place in the config (`network.n_channels`).

        Errors:
            FormatError: it is not known and has no default.
        """
        self.asked.add(name.rpartition(".")[2])
        for known in (self.told, self.own, self.facts):
            with suppress(KeyError):
                return settings.lookup(known, name)
        if default is MISSING:
            require(self, "this checkpoint", [name])
        return default

    def origin_of(self, name: str) -> str:
        """Where a known fact comes from, in words."""
        for known, place in ((self.told, "architecture="), (self.own, "the file itself")):
            with suppress(KeyError):
                settings.lookup(known, name)
                return place
        return self.origins[-1] if self.origins else "its config"

    def misspelt(self) -> dict[str, str]:
        """Facts from the caller that nobody asked for -> the fact that was perhaps meant, which was not given."""
        told = () if isinstance(self.data, components.Component) else settings.sections(self.told)
        names = {name for part in told for name, value in part.items() if not isinstance(value, Mapping)}
        wanted = sorted(self.asked - names)
        near = {name: get_close_matches(name, wanted, 1, 0.85) for name in sorted(names - self.asked)}
        return {name: found[0] for name, found in near.items() if found}

    def has(self, name: str) -> bool:
        """Whether a fact is known; one that is said to be None is."""
        nothing = object()
        return self.fact(name, nothing) is not nothing


@dataclass(frozen=True)
class Family:
    """One format of checkpoints.

    Args:
        name: as messages call it, such as "DDAE".
        recognizes: whether a content is of this family, by keys and shapes only.
        load: content -> Denoiser or Autoencoder, in eval mode, on the CPU.
        license: as the program or its authors state it; "none stated" where they state none.
        compared: whether its numbers were compared with the official program's.
    """

    name: str
    recognizes: Callable[[Content], bool]
    load: Callable[[Content], Any]
    license: str
    compared: bool


def require(content: Content, family: str, names: Iterable[str]) -> None:
    """Refuse to guess: every name must be a known fact.

    Args:
        content: the checkpoint.
        family: for the message, such as "a DDAE checkpoint".
        names: official constructor names.

    Errors:
        FormatError: naming all that are missing, and how to give them.
    """
    if missing := [name.rsplit(".", 1)[-1] for name in names if not content.has(name)]:
        ask(content, family, missing)


def ask(content: Content, family: str, missing: Sequence[str]) -> NoReturn:
    """Say which facts are missing, and how to give them.

    Errors:
        FormatError: always.
    """
    example = ", ".join(f'"{name}": {EXAMPLES.get(name, "...")}' for name in missing)
    near = [f'; architecture= has "{name}", was "{meant}" meant?' for name, meant in content.misspelt().items()]
    raise FormatError(
        f"{content.name or content.path} is {family}, and the file does not tell: {', '.join(missing)}{''.join(near)}",
        f"put its config beside it, or pass architecture={{{example}}} (--architecture FILE.json)",
    )


def read(path: Path, architecture: Mapping[str, Any] | None = None, name: str | None = None) -> Content:
    """Open a checkpoint file or a diffusers folder.

    Args:
        path: as `find` gives it.
        architecture: facts from the caller; they win over every config.
        name: what the user called it.

    Errors:
        FormatError: nothing that diffrep reads, broken, or hostile.
    """
    told, sha256, own = dict(architecture or {}), None, {}
    if path.is_dir():
        data: Any = components.in_folder(path, told)
        found, origin = dict(data.config), str(path)
    else:
        data = read_file(path)
        own = settings.inside(data)
        found, origin = settings.beside(path)
        if not found and not told:
            from diffrep.formats.cards import facts_by_hash

            found, origin, sha256 = facts_by_hash(path)
        if components.shards_of(path) or any(components.BLOCKS.search(name) for name in tensors_in(data)):
            data = components.of_file(path, {**found, **told})
    origins = ["architecture="] * bool(told) + ["the file itself"] * bool(own) + [origin] * bool(origin)
    return Content(path, data, found, origins, sha256, name or str(path), told, own)
