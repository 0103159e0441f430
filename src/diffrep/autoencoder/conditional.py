"""The semantic autoencoder that is one network: a denoiser trained to listen to a code (Diff-AE).

Preechakul et al. 2022, "Diffusion autoencoders: toward a meaningful and decodable representation". There is no frozen
base: without a code its network predicts nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from diffrep import networks
from diffrep.autoencoder.walks import SampledAutoencoder
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, SamplingSpec
from diffrep.errors import UsageError
from diffrep.networks.blocks import Size
from diffrep.networks.network import Network, Place
from diffrep.schedules import Schedule, schedule_from_config


class ConditionalAutoencoder(SampledAutoencoder):
    """A network that predicts from (x_t, time, code), and an encoder.

    Args:
        network: (x, time (B,), code (B, D)) -> (B, C, H, W), see `networks.adm` with `code_width`.
        encoder: image (B, C, H, W) to code (B, D), see `networks.beatgans_encoder`.
        schedule: the noise levels it was trained on.
        input: channels, size and range of its images.
        parameterization: what the network predicts.
        conditioning: what it sees as time.
        sampling: its own habits.
        source: where it was loaded from.

    Example:
        >>> model = dr.load("checkpoints/ffhq128_autoenc_130M/last.ckpt")                # doctest: +SKIP
        >>> again = model.decode(model.encode(x0), model.invert(x0, model.encode(x0)))   # doctest: +SKIP
    """

    network: Network
    encoder: Network

    def __init__(
        self,
        network: Network,
        encoder: Network,
        *,
        schedule: Schedule,
        input: InputSpec,
        parameterization: str = "eps",
        conditioning: Conditioning | None = None,
        sampling: SamplingSpec | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__()
        self.network, self.encoder = network, encoder
        self._schedule, self._input = schedule, input
        self._sampling = sampling or SamplingSpec()
        self.parameterization, self.source = parameterization, source
        self.conditioning = conditioning or Conditioning()
        self.eval()

    @property
    def schedule(self) -> Schedule:
        """The noise levels that it was trained on."""
        return self._schedule

    @property
    def input(self) -> InputSpec:
        """Channels, size and range of its images."""
        return self._input

    @property
    def sampling(self) -> SamplingSpec:
        """Its program's habits."""
        return self._sampling

    @property
    def code_dim(self) -> int:
        """D of its codes."""
        return int(self.network.config["code_width"])

    @property
    def identity(self) -> str:
        """sha256 over config and weights, as a denoiser's."""
        digest = hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def at(self, z: Tensor) -> Denoiser:
        """The denoiser that codes make of the network; a full `Denoiser`, with taps.

        Args:
            z: (B, D), one per image, or (1, D), one for all.

        Errors:
            UsageError: codes of another width; when it is called, as many codes as images are wanted, or one.
        """
        if z.ndim != 2 or z.shape[1] != self.code_dim:
            raise UsageError(
                f"a code of shape {tuple(z.shape)}", f"expected (B, {self.code_dim}) or (1, {self.code_dim})"
            )
        made = Denoiser(
            CodedNetwork(self.network, z),
            schedule=self.schedule,
            input=self.input,
            parameterization=self.parameterization,
            conditioning=self.conditioning,
            sampling=self.sampling,
            source=self.source,
        )
        return made.train(self.training)

    def config(self) -> dict[str, Any]:
        """Everything but the weights, as JSON can hold it."""
        return {
            "kind": "conditional",
            "network": self.network.config,
            "encoder": self.encoder.config,
            "schedule": self.schedule.config(),
            "input": self.input.config(),
            "parameterization": self.parameterization,
            "conditioning": asdict(self.conditioning),
            "sampling": asdict(self.sampling),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], source: str | None = None) -> ConditionalAutoencoder:
        """The fresh autoencoder that `config()` described."""
        return cls(
            networks.build(config["network"]),
            networks.build(config["encoder"]),
            schedule=schedule_from_config(config["schedule"]),
            input=InputSpec.from_config(config["input"]),
            parameterization=config["parameterization"],
            conditioning=Conditioning(**config["conditioning"]),
            sampling=SamplingSpec.from_config(config["sampling"]),
            source=source,
        )


class CodedNetwork(nn.Module):
    """A network with its code filled in: (x, time) -> output, as a `Denoiser` wants it."""

    def __init__(self, network: Network, z: Tensor) -> None:
        super().__init__()
        self.network, self.z = network, z

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict for images x (B, C, H, W).

        Errors:
            UsageError: as many codes as there are images are wanted, or one for all.
        """
        if len(self.z) not in (1, len(x)):
            raise UsageError(f"{len(self.z)} codes for {len(x)} images", "give one code, or one per image")
        out: Tensor = self.network(x, time, self.z.to(x))
        return out

    @property
    def config(self) -> dict[str, Any]:
        """The network's, and what tells this code from others."""
        code = hashlib.sha256(self.z.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
        return {**self.network.config, "code": code}

    @property
    def time_width(self) -> int:
        """The network's."""
        return self.network.time_width

    def places(self, size: Size) -> tuple[Place, ...]:
        """The network's."""
        return self.network.places(size)

    def get_submodule(self, target: str) -> nn.Module:
        """A module by its path in the network, where its taps are."""
        return self.network.get_submodule(target)
