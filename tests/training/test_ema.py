"""Averaged weights: torch's own averaging is the oracle, and the ramp is ema-pytorch's."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffrep.errors import UsageError
from diffrep.training import Average


def walk(model, generator):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator))


def test_constant_decay_is_torchs_averaged_model():
    model, generator = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), torch.Generator().manual_seed(0)
    average = Average(dict(model.named_parameters()), "constant", decay=0.9)
    oracle = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    oracle.update_parameters(model)  # its first update copies the initial weights
    for _ in range(20):
        walk(model, generator)
        average.update()
        oracle.update_parameters(model)
    for name, p in oracle.module.named_parameters():
        torch.testing.assert_close(average.tensors[name], p.detach(), rtol=1e-6, atol=1e-6)


def test_the_ramp_copies_first_and_follows_ema_pytorch():
    weight, generator = torch.zeros(4), torch.Generator().manual_seed(1)
    average, expected = Average({"w": weight}, "ramp", decay=0.5), torch.zeros(4)
    for n in range(10):
        weight.add_(torch.randn(4, generator=generator))
        decay = min(0.5, 1 - (1 + n) ** (-2 / 3))
        assert average.next_decay() == pytest.approx(decay)
        average.update()
        expected = expected + (1 - decay) * (weight - expected)
        torch.testing.assert_close(average.tensors["w"], expected)
        if n == 0:
            assert torch.equal(average.tensors["w"], weight)


def test_the_ramp_reaches_its_cap_when_the_specification_says():
    average = Average({"w": torch.zeros(1)}, "ramp", decay=0.9993)
    average.updates = 53_990
    assert average.next_decay() < 0.9993
    average.updates = 54_000
    assert average.next_decay() == 0.9993


def test_half_life_is_edms():
    average = Average({"w": torch.zeros(1)}, "half-life", half_life=500_000)
    assert average.next_decay(images_seen=0, batch=512) == 0
    assert average.next_decay(images_seen=1_000_000, batch=512) == pytest.approx(0.5 ** (512 / 50_000))
    assert average.next_decay(images_seen=10**9, batch=512) == pytest.approx(0.5 ** (512 / 500_000))


def test_swapping_gives_the_weights_back_bit_by_bit_even_after_an_error():
    weight = torch.tensor([1.0, -0.0, 3.0])
    average = Average({"w": weight}, "constant", decay=0.5)
    weight.copy_(torch.tensor([2.0, -0.0, 1e-30]))
    before = weight.clone()
    with average.swapped():
        assert torch.equal(weight, torch.tensor([1.0, 0.0, 3.0]))
    with pytest.raises(ZeroDivisionError), average.swapped():
        1 / 0  # noqa: B018
    assert weight.numpy().tobytes() == before.numpy().tobytes()


def test_an_unknown_rule_is_named():
    with pytest.raises(UsageError, match='"half-life"'):
        Average({}, "halflife")
