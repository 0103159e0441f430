"""Priors of codes: a small diffusion model that draws codes, so that an autoencoder can make new images.

The latent DPM of Diff-AE (section 4.1) and PDAE (1.12): it works on standardized codes, (z - mean) / std.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Generator, Tensor, nn

from diffrep import networks
from diffrep.autoencoder.edit import CodeStats
from diffrep.denoiser import Conditioning, SamplingSpec
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.randomness import Noise, as_noise
from diffrep.sampling import Progress, Sampler, ddim
from diffrep.schedules import Schedule, schedule_from_config


class LatentPrior(nn.Module):
    """A diffusion model of standardized codes; itself a denoiser, of vectors instead of images.

    Args:
        network: (z_t (B, D), time (B,)) -> eps (B, D), see `networks.latent_mlp`.
        schedule: the noise levels it was trained on.
        stats: mean and standard deviation of codes.
        sampling: its program's habits. PDAE clamps every predicted code to [-1, 1], which draws codes near the mean
            (PDAE 1.12); Diff-AE does not, unless it was told.
        conditioning: what the network sees as time.
        clip_start: whether a model that clamps predicted codes clamps the start too, as PDAE does.
        standardized: whether its codes are; otherwise they are the encoder's own, and `stats` are not used.

    Example:
        >>> z = autoencoder.prior.sample(4, noise=dr.noise_for(0, "abcd"))               # doctest: +SKIP
        >>> images = autoencoder.decode(z, noise=dr.noise_for(1, "abcd"))                # doctest: +SKIP
    """

    def __init__(
        self,
        network: networks.Network,
        schedule: Schedule,
        stats: CodeStats,
        sampling: SamplingSpec | None = None,
        *,
        conditioning: Conditioning | None = None,
        clip_start: bool = True,
        standardized: bool = True,
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.stats = network, schedule, stats
        self.sampling = sampling or SamplingSpec(clip=False)
        self.conditioning = conditioning or Conditioning()
        self.clip_start, self.standardized = clip_start, standardized
        self.eval()

    @property
    def code_dim(self) -> int:
        """D."""
        return len(self.stats.mean)

    def forward(self, z_t: Tensor, level: NoiseLevel) -> Prediction:
        """Predict the noise in (standardized) codes z_t (B, D) at a level of the schedule, () or (B,)."""
        if z_t.ndim != 2 or z_t.shape[1] != self.code_dim:
            raise UsageError(f"codes of shape {tuple(z_t.shape)}", f"expected (B, {self.code_dim})")
        time = self.conditioning(self.schedule, level).to(z_t.device, torch.float32).expand(len(z_t))
        dtype = next(self.network.parameters()).dtype
        return Prediction(z_t, level, "eps", self.network(z_t.to(dtype), time).to(z_t.dtype))

    @torch.no_grad()
    def sample(
        self,
        num: int | None = None,
        z_T: Tensor | None = None,
        *,
        steps: int = 100,
        noise: Noise | None = None,
        generator: Generator | None = None,
        sampler: Sampler = ddim,
        clip: bool | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw codes.

        Args:
            num: how many, where z_T is not given.
            z_T: where the sampler starts, standard normal, (B, D); None draws it.
            steps: network evaluations.
            noise: source of z_T (its step 0) and of the sampler's noise.
            generator: in its place.
            sampler: a function of `diffrep.sampling`.
            clip: clamp predicted codes to [-1, 1], and z_T where that is the model's habit; None is its habit.
            progress: see the samplers.

        Returns:
            Codes (B, D) in the encoder's own units.

        Errors:
            UsageError: neither z_T nor num and a source of noise.
        """
        source = noise if noise is not None else generator
        if z_T is None:
            if num is None:
                raise UsageError("how many codes are wanted was not said", "give num= or z_T=")
            z_T = as_noise(source)(0, (num, self.code_dim)).to(next(self.network.parameters()).device)
        clip = self.sampling.clip if clip is None else clip
        start = z_T.clamp(-1, 1) if clip and self.clip_start else z_T
        path = self.schedule.path(steps, rule=self.sampling.rule)
        given = None if source is None else as_noise(source)
        codes = sampler(self, start, path, clip=clip, noise=given, progress=progress)
        return self.stats.restore(codes) if self.standardized else codes

    def config(self) -> dict[str, Any]:
        """Everything but weights and statistics, as JSON can hold it."""
        return {
            "network": self.network.config,
            "schedule": self.schedule.config(),
            "sampling": asdict(self.sampling),
            "conditioning": asdict(self.conditioning),
            "clip_start": self.clip_start,
            "standardized": self.standardized,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], stats: CodeStats) -> LatentPrior:
        """The fresh prior that `config()` described."""
        return cls(
            networks.build(config["network"]),
            schedule_from_config(config["schedule"]),
            stats,
            SamplingSpec.from_config(config["sampling"]),
            conditioning=Conditioning(**config.get("conditioning", {})),
            clip_start=config.get("clip_start", True),
            standardized=config.get("standardized", True),
        )
