"""The token shift: PDAE on networks without a U-Net shape."""

import json

import pytest
import torch
from torch import Tensor, nn

from diffrep import TapFeatures, TrainConfig, load, save, train
from diffrep.autoencoder import ShiftAutoencoder, ShiftEstimator, ShiftObjective, TokenShift
from diffrep.autoencoder.tokens import shift_for, shift_from_config
from diffrep.continuous import FlowSchedule
from diffrep.data.batches import Batch
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, Tap
from diffrep.errors import UsageError
from diffrep.networks import build
from diffrep.randomness import Draw, generator
from diffrep.sampling import Sampler, ddim, dpmpp_2m, heun
from diffrep.schedules import DiscreteSchedule
from diffrep.taps import read

LAYOUTS = {
    "dit": {"layout": "dit", "classes": 5, "learns_variance": True},
    "lightningdit": {"layout": "lightningdit", "patch": 2, "classes": 5},
    "uvit": {"layout": "uvit"},
}
EVERY = pytest.mark.parametrize("layout", LAYOUTS)


def make_base(layout: str = "dit", depth: int = 2, size: int = 8, **more: object) -> Denoiser:
    """A small transformer denoiser of random weights, also where training starts at zero."""
    recipe = {**LAYOUTS[layout], "image_channels": 4, "size": size, "width": 32, "depth": depth, "heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(recipe)
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    labels = LabelSpec(4, null=4) if "classes" in recipe else None
    spec = InputSpec(4, size, latent=True)
    return Denoiser(network, **{"schedule": DiscreteSchedule.linear(), "input": spec, "labels": labels, **more}).eval()


def images(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=generator(0, "images"))


@torch.no_grad()
def held_out_loss(objective: ShiftObjective, batch: Batch) -> float:
    """The mean loss at levels and noise that training never draws."""
    objective.train(False)
    return float(torch.stack([objective.loss(batch, Draw(99, step, batch.ids)).mean() for step in range(16)]).mean())


@EVERY
def test_before_training_it_is_the_denoiser(layout: str) -> None:
    base = make_base(layout)
    model = ShiftAutoencoder.fresh(base, code_dim=6)
    assert isinstance(model.shift, TokenShift)
    x, level = images(3), base.schedule.at([0, 400, 999])
    z = model.encode(x)
    assert z.shape == (3, 6)
    assert torch.equal(model.at(z)(x, level).eps, base(x, level).eps)


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m, heun])
def test_a_flow_is_decoded_from_pure_noise(sampler: Sampler) -> None:
    """As its base is, which the untrained autoencoder still is."""
    base = make_base(schedule=FlowSchedule(), parameterization="flow")
    shifted, x = ShiftAutoencoder.fresh(base, code_dim=6).at(torch.ones(1, 6)), images(2)
    path = base.schedule.path(4, rule="flow")
    assert float(path.alpha[0]) == 0
    assert torch.equal(sampler(shifted, x, path), sampler(base, x, path))


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_fifty_steps_of_training_lower_the_loss(kind: str) -> None:
    flow = {"schedule": FlowSchedule(), "parameterization": "flow", "conditioning": Conditioning(scale=-1, offset=-1)}
    base = make_base(**({} if kind == "eps" else flow))
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = ShiftAutoencoder.fresh(base, code_dim=6)
    objective, x = ShiftObjective(model, "uniform"), images(16)[:, :, :1, :1].repeat(1, 1, 8, 8)
    batch = Batch(x, None, [f"image-{k}" for k in range(16)])
    config = TrainConfig(steps=50, learning_rate=2e-3, warmup_steps=1, ema=None, seed=0)
    first = held_out_loss(objective, batch)
    assert len(list(train(objective, lambda step: batch, config))) == 50
    assert held_out_loss(objective, batch) < 0.9 * first
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in before.items())
    level = base.schedule.at(300 if kind == "eps" else 0.3)
    z = model.encode(x)
    assert not torch.equal(model.at(z)(x, level).eps, base(x, level).eps)


def test_gradients_reach_every_part_but_the_frozen_one() -> None:
    model = ShiftAutoencoder.fresh(make_base(), code_dim=6)
    nn.init.normal_(model.shift.head.linear.weight, std=0.1)
    x0 = images(2)
    ShiftObjective(model).loss_at(x0, model.schedule.at([100, 500]), images(2).flip(0)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert all(p.grad is None for p in model.denoiser.parameters())


def test_it_reads_four_blocks_the_last_included() -> None:
    base = make_base(depth=10)
    shift = shift_for(base.taps, base.network.time_width, base.input, 6)
    assert shift.reads == ("time", "block.2", "block.5", "block.7", "block.10")


def test_it_decodes_inverts_and_has_taps() -> None:
    model = ShiftAutoencoder.fresh(make_base(), code_dim=6)
    x = images(2)
    z = model.encode(x)
    assert model.decode(z, model.invert(x, z, steps=3), steps=3).shape == x.shape
    features = TapFeatures(model.at(z), ["layer-1"], model.schedule.at([20]))
    assert next(iter(features(x, noise=x).values())).shape == (2, 32)


@EVERY
def test_a_saved_autoencoder_comes_back(layout: str, tmp_path: pytest.TempPathFactory) -> None:
    base = make_base(layout)
    save(base, tmp_path / "base")
    model = ShiftAutoencoder.fresh(base, code_dim=6)
    nn.init.normal_(model.shift.head.linear.weight, std=0.1)
    save(model, tmp_path / "autoencoder")
    again = load(tmp_path / "autoencoder", base=tmp_path / "base")
    x, level = images(2), base.schedule.at(200)
    z = model.encode(x)
    assert torch.equal(again.at(z)(x, level).eps, model.at(z)(x, level).eps)


def test_config_makes_an_equal_estimator() -> None:
    base = make_base()
    shift = shift_for(base.taps, base.network.time_width, base.input, 6)
    again = shift_from_config(json.loads(json.dumps(shift.config())))
    again.load_state_dict(shift.state_dict())
    nn.init.normal_(again.head.linear.weight)
    shift.load_state_dict(again.state_dict())
    maps = read(base, images(2), base.schedule.at(5), ["time", *shift.reads[1:]])
    z = torch.ones(1, 6)
    assert torch.equal(again(maps, z), shift(maps, z))
    assert again.config() == shift.config()


def test_u_nets_keep_their_own_estimator() -> None:
    network = build({"layout": "tiny", "image_channels": 1, "channels": 16, "multipliers": [1, 1]})
    base = Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8))
    assert isinstance(ShiftAutoencoder.fresh(base).shift, ShiftEstimator)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="one size"):
        TokenShift([Tap("block.1", 8, 4), Tap("block.2", 8, 2)], 8, 4, 6, size=8)
    with pytest.raises(UsageError, match="no U-Net"):
        shift_for([], 8, InputSpec(3, 8), 6)
