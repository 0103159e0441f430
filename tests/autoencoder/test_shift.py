"""The shift estimator: built from the taps table, zero at first, and the official shift U-Net to the digit."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.autoencoder import ShiftEstimator
from diffrep.autoencoder.blocks import ShiftBlock
from diffrep.autoencoder.shifted import observe
from diffrep.denoiser import Denoiser, InputSpec, Tap
from diffrep.errors import UsageError
from diffrep.networks import build
from diffrep.networks.blocks import norm
from diffrep.schedules import DiscreteSchedule

Order = Callable[[nn.Module, ShiftEstimator], list[nn.Parameter]]
ADM = {"layout": "adm", "channels": 32, "multipliers": [1, 2], "attention": [False, True], "blocks": 1, "heads": 2}


def make_adm(**changes: object) -> Denoiser:
    return Denoiser(build({**ADM, **changes}), schedule=DiscreteSchedule.linear(), input=InputSpec(3, 8)).eval()


def waves(shape: tuple[int, ...], rate: float, wave: Callable[[Tensor], Tensor] = torch.sin) -> Tensor:
    count = torch.Size(shape).numel()
    return wave(rate * torch.arange(count, dtype=torch.float64)).float().reshape(shape)


@pytest.mark.parametrize(
    ("order", "eps", "g"),
    [
        ("heads", [0.6171471, 1.1794055, 1.4113272], [-0.9412742, -1.1275568, -0.9953861]),
        ("qkv", [0.6197072, 1.1798507, 1.4095320], [-0.9408593, -1.1267819, -0.9944694]),
    ],
)
def test_prediction_and_shift_are_the_official_ones(
    official_order: Order, order: str, eps: list[float], g: list[float]
) -> None:
    """PDAE 2.7, case 1: parameters filled by rule, in the official order of definition."""
    base = make_adm(order=order)
    shift = ShiftEstimator(base.taps, base.network.time_width, 3, 8, group_width=1, heads=2, order=order).eval()
    ordered = official_order(base.network, shift)
    assert len(ordered) == 260
    norms = {id(m.weight) for part in (base, shift) for m in part.modules() if isinstance(m, nn.GroupNorm)}
    with torch.no_grad():
        for j, p in enumerate(ordered, start=1):
            wave = torch.sin(0.7 * torch.arange(p.numel(), dtype=torch.float64) + j) * (0.05 if p.ndim > 1 else 0.02)
            p.copy_(wave.reshape(p.shape) + (id(p) in norms))
        level = base.schedule.at([0, 637])
        prediction, maps = observe(base, shift, waves((2, 3, 8, 8), 0.1), level)
        found = shift(maps, waves((2, 8), 0.3, torch.cos))
    assert prediction.eps[1, :, 3, 5].tolist() == pytest.approx(eps, abs=1e-5)
    assert found[1, :, 3, 5].tolist() == pytest.approx(g, abs=1e-5)
    if order == "heads":
        assert float(prediction.eps.sum()) == pytest.approx(47.168177, abs=2e-4)
        assert float(found.sum()) == pytest.approx(-32.487473, abs=2e-4)


@pytest.mark.slow
def test_the_official_128_pixel_shift_has_the_official_number_of_parameters() -> None:
    schedule = DiscreteSchedule.linear()
    with torch.device("meta"):
        network = build({"layout": "adm"})
        base = Denoiser(network, schedule=schedule, input=InputSpec(3, 128))
        shift = ShiftEstimator(base.taps, network.time_width, 3, 512, group_width=1)
    assert sum(p.numel() for p in shift.parameters()) == 78_522_371


def test_it_mirrors_the_frozen_decoder() -> None:
    base = make_adm()
    shift = ShiftEstimator(base.taps, base.network.time_width, 3, 8)
    dec = [tap for tap in base.taps if tap.name.startswith("dec.")]
    assert [level.block.conv2.out_channels for level in shift.decoder] == [tap.channels for tap in dec]
    assert [level.attention is not None for level in shift.decoder] == [tap.attention for tap in dec]
    assert [level.up is not None for level in shift.decoder] == [
        str(k) in base.network.up for k in range(1, len(dec) + 1)
    ]
    assert shift.reads[-1] == f"enc.{len(dec)}"


def test_code_modulates_after_time() -> None:
    """y = (1 + zs) ((1 + ts) GN(h) + tb) + zb, PDAE 2.3."""
    block = ShiftBlock(8, 8, 6, norm=norm(2))
    nn.init.normal_(block.conv2.weight, generator=torch.Generator().manual_seed(0))
    x, time, code = waves((2, 8, 4, 4), 0.3), waves((2, 6), 0.9), waves((2, 6), 1.7)
    (ts, tb), (zs, zb) = (
        layer(F.silu(v))[:, :, None, None].chunk(2, 1) for layer, v in ((block.time, time), (block.code, code))
    )
    normal = block.norm2(block.conv1(F.silu(block.norm1(x))))
    expected = x + block.conv2(F.silu((1 + zs) * ((1 + ts) * normal + tb) + zb))
    torch.testing.assert_close(block(x, time, code), expected)


def test_only_the_output_convolution_learns_at_first() -> None:
    base = make_adm()
    shift = ShiftEstimator(base.taps, base.network.time_width, 3, 8)
    _, maps = observe(base, shift, waves((2, 3, 8, 8), 0.1), base.schedule.at(500))
    g = shift({name: m.detach() for name, m in maps.items()}, waves((2, 8), 0.3))
    assert not g.any()
    (g - 1).square().sum().backward()
    learning = {name for name, p in shift.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert learning == {"head.conv.weight", "head.conv.bias"}


def test_config_makes_an_equal_estimator() -> None:
    base = make_adm()
    shift = ShiftEstimator(base.taps, base.network.time_width, 3, 8, heads=2, order="qkv", dropout=0.1).eval()
    nn.init.ones_(shift.head.conv.weight)
    again = ShiftEstimator.from_config(json.loads(json.dumps(shift.config()))).eval()
    again.load_state_dict(shift.state_dict())
    _, maps = observe(base, shift, waves((2, 3, 8, 8), 0.1), base.schedule.at(500))
    z = waves((2, 8), 0.3)
    assert torch.equal(again(maps, z), shift(maps, z))
    assert again.config() == shift.config()


def test_networks_without_a_decoder_are_refused() -> None:
    taps = [Tap("block.1", 16, 8), Tap("block.2", 16, 8)]
    with pytest.raises(UsageError, match="0 enc taps and 0 dec taps"):
        ShiftEstimator(taps, 16, 3, 8)
    with pytest.raises(UsageError, match="1 enc taps and 2 dec taps"):
        ShiftEstimator(
            [Tap("enc.1", 16, 8), *(replace(t, name=t.name.replace("block", "dec")) for t in taps)], 16, 3, 8
        )
