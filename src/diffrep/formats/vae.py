"""VAEs, run by diffusers: from pixels to the latents that a model takes, and back.

Folders of AutoencoderKL and VQModel, alone or in a pipeline. Weights are read as everything else is: nothing that lies
in the folder is run. An image's latent is the mean of the distribution that the VAE gives, so that it is the same in
every run; the official programs draw from it (DDAE 3.9).
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.denoiser import InputSpec, check_images
from diffrep.errors import FormatError, InputError, UsageError, nearest
from diffrep.files import sha256_of
from diffrep.formats import hub
from diffrep.formats.components import Weights, weight_files
from diffrep.formats.diffusers_common import extra_missing
from diffrep.formats.diffusers_condition import modernized
from diffrep.formats.facts import read_config
from diffrep.formats.folder import load_strictly
from diffrep.formats.limits import at_most
from diffrep.formats.strangers import VAES
from diffrep.formats.walking import not_finite
from diffrep.input_spec import LatentScaling


class Vae(nn.Module):
    """A VAE of diffusers.

    Args:
        module: an AutoencoderKL or a VQModel.
        source: where it was loaded from.
        identity: sha256 over its config and weight files.

    Attributes:
        factor: height of an image by height of its latent.
        channels: of its latents.

    Example:
        >>> vae = load_vae("stabilityai/sd-vae-ft-mse")  # doctest: +SKIP
        >>> latents = vae.encode(images, denoiser.input)  # doctest: +SKIP
    """

    module: Any

    def __init__(self, module: Any, source: str = "", identity: str = "") -> None:  # noqa: ANN401 (a class of diffusers)
        super().__init__()
        self.module, self.source, self.identity = module, source, identity
        config = module.config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.channels: int = config.latent_channels
        self.own = _scaling(config)
        self.eval().requires_grad_(False)

    def encode(self, pixels: Tensor, spec: InputSpec) -> Tensor:
        """Images to a model's latents.

        Args:
            pixels: (B, 3, H, W) in [-1, 1].
            spec: the model's input; its `scaling` goes before the VAE's own.

        Returns:
            (B, C, H / factor, W / factor).

        Errors:
            InputError: no floating-point numbers. UsageError: the model takes other channels.
        """
        check_images(pixels)
        scaling = self._for(spec)
        out = self.module.encode(_moved(pixels, (-1.0, 1.0), scaling.pixels))
        return scaling.normalize(out.latents if hasattr(out, "latents") else out.latent_dist.mean)

    def decode(self, latents: Tensor, spec: InputSpec) -> Tensor:
        """A model's latents to images in [-1, 1], (B, 3, H, W).

        Errors:
            InputError: no floating-point numbers. UsageError: the model takes other channels.
        """
        check_images(latents)
        scaling = self._for(spec)
        out: Tensor = self.module.decode(scaling.restore(latents)).sample
        return _moved(out, scaling.pixels, (-1.0, 1.0)).clamp(-1, 1)

    def described(self, spec: InputSpec) -> dict[str, Any]:
        """What a model's latents depend on beside the images, as JSON."""
        scaling = self._for(spec)
        return {"vae": self.identity, "scaling": [scaling.shift, scaling.scale, scaling.pixels]}

    def _for(self, spec: InputSpec) -> LatentScaling:
        if spec.channels != self.channels or not spec.latent:
            kind = f"latents of {spec.channels} channels" if spec.latent else "pixels"
            raise UsageError(
                f"the VAE {self.source} makes latents of {self.channels} channels, the model takes {kind}",
                "give the VAE that it was trained with",
            )
        return spec.scaling or self.own


def load_vae(source: str | Path, *, device: str | torch.device = "cpu") -> Vae:
    """Load a VAE of diffusers, in eval mode, without executing anything that lies in its folder.

    Args:
        source: its folder, a pipeline's folder with vae/ or vqvae/ in it, a hub id, or a card's name.
        device: where the weights go.

    Errors:
        InputError: no such folder. FormatError: no VAE, broken, or hostile. UsageError: diffusers is not installed.
    """
    path = Path(source).expanduser()
    if not path.exists():
        found = hub.local(str(source))
        if found is None:
            raise InputError(f'there is no VAE "{source}"', "expected a folder of diffusers, a hub id or a card's name")
        path = found
    folder = inside(path) or path
    if not (folder / "config.json").is_file():
        raise FormatError(f"{folder} is no folder of diffusers", "expected config.json and weights of a VAE")
    config = read_config(folder / "config.json")
    kind = str(config.get("_class_name"))
    if kind not in VAES:
        raise FormatError(f"{folder} holds a {kind[:80]}", f"expected a VAE. {nearest(kind, VAES)}")
    files = weight_files(folder)
    with at_most(sum(file.stat().st_size for file in files), str(source)):
        made = _built(kind, config, folder, str(source))
    load_strictly(made.module, modernized(Weights(files), made.module), folder)
    if strange := not_finite(made.module.state_dict().items()):
        raise FormatError(f"{folder} holds NaN or infinity: {', '.join(strange[:5])}", "copy the folder again")
    hashes = [sha256_of(file) for file in (folder / "config.json", *files)]
    made.identity = sha256("".join(hashes).encode()).hexdigest()
    return made.to(device)


def inside(path: Path) -> Path | None:
    """The VAE's folder in a pipeline, or beside one of its components; None where there is none."""
    for folder in (path, path.parent):
        for name in ("vae", "vqvae"):
            if (folder / name / "config.json").is_file():
                return folder / name
    return None


def _built(kind: str, config: dict[str, Any], folder: Path, source: str) -> Vae:
    try:
        import diffusers
    except ImportError as error:
        raise extra_missing(error) from error
    try:
        with torch.random.fork_rng(devices=[]):
            plain = {name: value for name, value in config.items() if not name.startswith("_")}
            return Vae(getattr(diffusers, kind).from_config(plain), source)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, ArithmeticError) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise FormatError(f"{folder / 'config.json'} describes no VAE ({text})", "copy the folder again") from error


def _scaling(config: Any) -> LatentScaling:  # noqa: ANN401 (a config of diffusers)
    """(z - shift_factor) * scaling_factor, or with a mean and a spread for each channel, as its pipelines compute."""
    factor = float(getattr(config, "scaling_factor", 1.0) or 1.0)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        return LatentScaling(tuple(float(m) for m in mean), tuple(factor / float(s) for s in std))
    return LatentScaling((float(getattr(config, "shift_factor", None) or 0.0),), (factor,))


def _moved(x: Tensor, ours: tuple[float, float], theirs: tuple[float, float]) -> Tensor:
    """Values of one range in another; the same tensor where both are equal."""
    if ours == theirs:
        return x
    return (x - ours[0]) * ((theirs[1] - theirs[0]) / (ours[1] - ours[0])) + theirs[0]
