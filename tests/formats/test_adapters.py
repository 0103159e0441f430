"""Any module as a denoiser: taps of every shape, wrong names, early exit, and all the jobs on it."""

import copy

import pytest
import torch
from torch import nn

import diffrep as dr
from diffrep.errors import UsageError
from diffrep.formats.adapters import adapt, text_conditioned
from tests.formats.diffusers_models import CONDITION, SD3, close, inputs, random

LINEAR = dr.DiscreteSchedule.linear()
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Mine(nn.Module):
    """A little network with a tuple, tokens and a vector on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 12)
        self.first = nn.Conv2d(1, 12, 3, padding=1)
        self.pair = Pair()
        self.tokens = nn.Linear(12, 20)
        self.last = nn.Conv2d(20, 1, 3, padding=1)
        self.reached = 0

    def forward(self, x, seconds):
        h = self.first(x) + self.embed(seconds[:, None])[:, :, None, None]
        _, h = self.pair(h)
        h = self.tokens(h.flatten(2).transpose(1, 2))
        self.reached += 1
        return {"sample": self.last(h.transpose(1, 2).reshape(len(x), 20, 8, 8)), "extra": h}


class Pair(nn.Module):
    def forward(self, h):
        return h.mean((2, 3)), torch.tanh(h)


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mine()


@pytest.fixture(scope="module")
def model(network):
    taps = {"time": "embed", "enc.1": "first", "mid": "pair", "block.1": "tokens", "dec.1": "last"}
    call = lambda net, x, t, y: net(x, t / 1000)  # noqa: E731
    return adapt(network, call=call, taps=taps, schedule=LINEAR, input=dr.InputSpec(1, 8))


def test_the_table_is_measured(model):
    table = {tap.name: (tap.channels, tap.resolution, tap.aliases) for tap in model.taps}
    assert table == {
        "enc.1": (12, 8, ("first",)),
        "mid": (12, 8, ("pair",)),
        "block.1": (20, 8, ("tokens",)),
        "dec.1": (1, 8, ("last",)),
    }
    assert model.network.time_width == 12


def test_it_predicts_what_the_module_predicts(model, network):
    level = LINEAR.at(torch.tensor([3, 500]))
    assert torch.equal(model(X, level).eps, network(X, torch.tensor([0.003, 0.5]))["sample"])


def test_taps_are_the_submodules_outputs_and_end_the_pass_early(model, network):
    before = network.reached
    maps = dr.read(model, X, LINEAR.at(500), ["mid", "time", "first"])
    assert network.reached == before
    assert maps["time"].shape == (2, 12)
    seen = network.first(X) + network.embed(torch.full((2, 1), 0.5))[:, :, None, None]
    assert torch.equal(maps["mid"], torch.tanh(seen))
    assert not any(module._forward_hooks for module in network.modules())
    assert dr.read(model, X, LINEAR.at(500), "tokens")["tokens"].shape == (2, 20, 8, 8)


def test_a_copy_reads_its_own_taps(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.network.module.first.weight.zero_()
    here, there = (dr.read(m, X, LINEAR.at(5), "first")["first"] for m in (model, other))
    assert not torch.equal(here, there)
    assert other.identity != model.identity


def test_features_probe_and_samples(model):
    data = dr.data.load("digits")["train"].take(60)
    found = dr.extract(dr.TapFeatures(model, "*", levels=LINEAR.at([5, 50])), data)
    assert len(found.names) == 8
    assert dr.RidgeProbe().fit(found[found.names[0]], data.labels).score(found[found.names[0]], data.labels) > 0.1
    assert dr.ddim(model, X, LINEAR.path(4)).shape == X.shape


def test_a_path_that_the_module_has_not_is_named(network):
    spec = {"schedule": LINEAR, "input": dr.InputSpec(1, 8)}
    with pytest.raises(UsageError, match='no submodule "middle", known: embed, first, pair'):
        adapt(network, call=lambda n, x, t, y: n(x, t), taps={"mid": "middle"}, **spec)


def test_a_network_in_memory_is_text_conditioned():
    theirs = random("UNet2DConditionModel", **CONDITION)
    prompt = torch.randn(5, 16, generator=torch.Generator().manual_seed(4))
    model = text_conditioned(theirs, size=8, schedule=LINEAR, encoder_hidden_states=prompt)
    x, t = inputs(4)
    close(model(x, LINEAR.at(t)).eps, theirs(x, t, encoder_hidden_states=prompt.expand(2, -1, -1)).sample)
    assert text_conditioned(random("SD3Transformer2DModel", **SD3), size=8).schedule.convention == "flow"


def test_what_cannot_be_text_conditioned():
    with pytest.raises(UsageError, match="schedule="):
        text_conditioned(random("UNet2DConditionModel", **CONDITION), size=8)
    with pytest.raises(UsageError, match="encoder_hidden_states"):
        text_conditioned(
            random("UNet2DConditionModel", **CONDITION),
            size=8,
            schedule=LINEAR,
            encoder_hidden_state=torch.zeros(5, 16),
        )
    with pytest.raises(UsageError, match="no class of diffusers"):
        text_conditioned(nn.Linear(1, 1), size=8, schedule=LINEAR)
