"""A network of your own as a denoiser: name its taps, say how it is called, and everything works on it."""

import torch
from torch import nn

import diffrep as dr
from diffrep.formats.adapters import adapt


class Mine(nn.Module):
    """Stands for any network: it sees time as t / 1000 and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32))
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.middle = nn.Sequential(nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU())
        self.last = nn.Conv2d(64, 32, 3, padding=1)
        self.out = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, image: torch.Tensor, clock: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict the noise in (B, 1, H, W)."""
        first = self.first(image) + self.clock(clock[:, None])[:, :, None, None]
        return {"noise": self.out(self.last(torch.cat([self.middle(first), first], dim=1)))}


torch.manual_seed(0)
denoiser = adapt(
    Mine(),
    call=lambda network, x, t, y: network(x, t / 1000),
    taps={"time": "clock", "enc.1": "first", "mid": "middle", "dec.1": "last"},
    schedule=dr.DiscreteSchedule.linear(),
    input=dr.InputSpec(channels=1, size=8),
)

data = dr.data.load("digits")
loader = dr.data.loader(data["train"], batch_size=64, seed=0)
config = dr.TrainConfig(steps=60, learning_rate=2e-3, warmup_steps=10)
*_, last = dr.train(dr.DenoisingObjective(denoiser), loader, config)
print(f"pre-trained for a moment: loss {last.loss:.3f}")

features = dr.TapFeatures(denoiser, taps="*", levels=denoiser.schedule.at([10]), pool="2x2")
train, val, test = (dr.extract(features, data[split].take(200)) for split in ("train", "val", "test"))
best = dr.probes.select(dr.RidgeProbe(), train, val, test)
print(f"best of {len(best.table)} taps: {best.name}, test accuracy {best.score:.2f}")

autoencoder = dr.ShiftAutoencoder.fresh(denoiser, code_dim=16)
config = dr.TrainConfig(steps=20, learning_rate=2e-3, warmup_steps=5)
*_, last = dr.train(dr.ShiftObjective(autoencoder), loader, config)
codes = autoencoder.encode(dr.data.to_tensor(data["test"].images[:4]))
print(f"an autoencoder on it: loss {last.loss:.3f}, codes {tuple(codes.shape)}")
