"""One call of a command that computes: its device, its models, its images, its run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrep.cli.options import WORDS, Options
from diffrep.cli.reporter import Reporter
from diffrep.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from diffrep.data import Splits
    from diffrep.denoiser import Denoiser
    from diffrep.experiments.document import Outcome
    from diffrep.formats.vae import Vae
    from diffrep.runs import RunFolder

MAY_CHANGE = (
    "steps",
    "output_dir",
    "device",
    "batch_size",
    "checkpoint_every",
    "keep_last",
    "log_every",
    "preview_every",
)
"""Settings that may differ when a run is resumed; the training loop refuses what would change its result."""


@dataclass
class Session:
    """One call of a command that computes.

    Args:
        config: its settings.
        options: what belongs to this call.
        reporter: where progress goes.
        folder: the run folder's path.
        report: what else report.json holds.
    """

    config: Any
    options: Options
    reporter: Reporter
    folder: Path
    report: dict[str, Any] = field(default_factory=dict)
    run: RunFolder | None = None
    _vaes: dict[str, Vae | None] = field(default_factory=dict)

    @property
    def resumes(self) -> bool:
        """Whether an earlier run in the folder may be continued."""
        return self.options.resume == "auto"

    @cached_property
    def device(self) -> str:
        """The device to work on; `auto` is a GPU where there is one.

        Errors:
            UsageError: a device that is not there.
        """
        import torch

        from diffrep.formats.loading import check_device

        name: str = self.config.device
        if name == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        check_device(name)
        return name

    def start(self) -> RunFolder:
        """Write the beginnings of the run folder. Called when all input has been looked at, so that nothing is lost."""
        from diffrep.runs import RunFolder

        self.run = RunFolder(self.folder)
        return self.run.start(
            self.config.plain(), command(), self.options.overwrite, self.resumes, may_change=MAY_CHANGE
        )

    def wrote(self, *paths: Path | str) -> None:
        """Remember files of this run, so that a later --overwrite may remove them, and name them."""
        if self.run is not None:
            self.run.record(*paths)
        for path in paths:
            self.reporter.say(f"wrote {self.folder / path}")

    def take(self, outcome: Outcome, title: str) -> dict[str, Any]:
        """Keep an experiment's sections and arrays for the report, and return its numbers."""
        outcome.write_arrays(self.folder)
        self.wrote("arrays.npz")
        self.report |= {"title": title, **outcome.about, "sections": outcome.sections}
        return outcome.results

    def show(self, text: str) -> None:
        """Print a line of the result, where no JSON is wanted."""
        if not self.options.json:
            print(text)

    def denoiser(self, source: str) -> Denoiser:
        """Load a denoiser, or the frozen base of an autoencoder, onto the device."""
        model = self.model(source)
        base: Denoiser = getattr(model, "denoiser", model)
        return base

    def labelled(self, denoiser: Denoiser) -> Any:  # noqa: ANN401 (a denoiser, or a wrapper around it)
        """The denoiser with the label of --label, if there is one.

        Errors:
            UsageError: the model has no such class.
        """
        from diffrep.guidance import conditioned

        label = self.config.label
        if label is None:
            return denoiser
        classes = denoiser.labels.num_classes if denoiser.labels else 0
        if not classes:
            raise UsageError(f"--label {label}, but the model has no classes", "leave --label out")
        if label != "none" and label >= classes:
            raise UsageError(f"--label {label} is no class of the model", f"expected 0 to {classes - 1}")
        return conditioned(denoiser, label)

    def autoencoder(self, source: str) -> Any:  # noqa: ANN401 (the Autoencoder protocol, either class)
        """Load an autoencoder onto the device.

        Errors:
            UsageError: the model is a plain denoiser.
        """
        model = self.model(source)
        if not hasattr(model, "encode"):
            raise UsageError(
                f'"{source}" is a denoiser without an encoder', f"train one: diffrep autoencode {source} DATA -o OUT"
            )
        return model

    def model(self, source: str) -> Any:  # noqa: ANN401 (a Denoiser or an Autoencoder)
        """Load a model onto the device."""
        from diffrep.formats import load

        return load(
            source, device=self.device, architecture=architecture_in(getattr(self.config, "architecture", None))
        )

    def images(self, model: Any, *only: str) -> Splits:  # noqa: ANN401 (a denoiser, a wrapper or an autoencoder)
        """Open the command's images as a model takes them, and say so; for a model of latents, encoded by its VAE.

        Args:
            model: what takes them.
            only: the splits that are wanted, where it costs much to prepare the others; none is all.

        Errors:
            UsageError: the model takes latents, and there is neither a VAE nor a source of latents.
        """
        from diffrep.data.splitting import SPLITS
        from diffrep.experiments.inputs import open_input

        config, spec, vae = self.config, model.input, self.vae_of(model)
        size = spec.size * (vae.factor if vae else 1)
        colours = "grey" if spec.channels == 1 else "colour"
        then = f"encoded by the VAE {vae.source}" if vae else f"values {spec.range[0]:g} to {spec.range[1]:g}"
        if vae or not spec.latent:
            self.reporter.say(
                f"images are brought to what the model takes: {size}x{size} pixels (resized, centre crop), "
                f"{colours}, {then}"
            )
        splits = open_input(
            spec,
            config.data,
            vae=vae,
            only=only or SPLITS,
            progress=self.reporter.counter("encoding"),
            labels=config.labels,
            max_bad_fraction=config.max_bad_fraction,
        )
        return self.noted(splits)

    def vae_of(self, model: Any) -> Vae | None:  # noqa: ANN401 (a denoiser, a wrapper or an autoencoder)
        """The VAE of a model of latents: that of --vae, or the one that lies in the model's pipeline, if any.

        Errors:
            UsageError: --vae for a model of pixels.
        """
        if not model.input.latent:
            if self.config.vae:
                raise UsageError("this model takes pixels", "leave --vae out")
            return None
        source = getattr(getattr(model, "denoiser", model), "source", None) or ""
        if source not in self._vaes:
            from diffrep.formats.vae import inside, load_vae

            named = self.config.vae or (inside(Path(source)) if source else None)
            self._vaes[source] = load_vae(named, device=self.device) if named else None
        return self._vaes[source]

    def view(self, model: Any) -> Callable[[Tensor], Tensor] | None:  # noqa: ANN401 (as for vae_of)
        """Make pictures of what the model makes: None for pixels, which are pictures; latents are decoded.

        Errors:
            UsageError: latents without a VAE.
        """
        if not model.input.latent:
            return None
        vae = self.vae_of(model)
        if vae is None:
            raise UsageError(
                "this model makes latents, which are no pictures without its VAE",
                "name it: --vae stabilityai/sd-vae-ft-mse, a folder or a card",
            )
        return lambda latents: vae.decode(latents, model.input)

    def noted(self, splits: Splits) -> Splits:
        """Say what happened while images were read."""
        for note in splits.notes:
            self.reporter.say(note)
        if splits.bad_records:
            left_out = len(splits.bad_records)
            what = "1 unreadable file was" if left_out == 1 else f"{left_out} unreadable files were"
            self.reporter.say(f"{what} left out (bad_records.jsonl)")
        return splits

    def bad_records(self, splits: Splits) -> None:
        """Write bad_records.jsonl, also when it is empty."""
        from diffrep.data import write_bad_records

        write_bad_records(self.folder / "bad_records.jsonl", splits.bad_records)


def architecture_in(file: Path | None) -> dict[str, Any] | None:
    """The facts in a JSON file of --architecture."""
    if file is None:
        return None
    from diffrep.formats.facts import read_config

    return read_config(there(file, "architecture file", "give a JSON file of constructor names and values"))


def command() -> list[str]:
    """The command line of this call."""
    return ["diffrep", *WORDS.get()]


def there(path: Path, what: str, how: str) -> Path:
    """`path` itself, if it is there.

    Errors:
        InputError: it is not.
    """
    if not path.exists():
        raise InputError(f"there is no {what} {path}", how)
    return path
