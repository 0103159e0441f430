"""Taps: names, early exit, nesting."""

import pytest
import torch

from diffrep.denoiser import Denoiser, InputSpec
from diffrep.errors import UsageError
from diffrep.schedules import DiscreteSchedule
from diffrep.taps import read, resolve, tapped
from tests.stub import StubNetwork


@pytest.fixture
def denoiser():
    return Denoiser(StubNetwork(), schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8)).eval()


@pytest.fixture
def x():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_taps_are_known_before_any_pass(denoiser):
    assert [(t.name, t.channels, t.resolution) for t in denoiser.taps] == [
        ("enc.1", 16, 8),
        ("mid", 16, 8),
        ("dec.1", 1, 8),
    ]
    assert denoiser.network.calls == 0


def test_early_exit_gives_the_same_bits_for_less_work(denoiser, x):
    level = denoiser.schedule.at(10)
    with tapped(denoiser, ["enc.1", "mid"], early_exit=False) as full:
        denoiser(x, level)
    assert denoiser.network.calls == 1
    early = read(denoiser, x, level, ["mid", "enc.1"])
    assert denoiser.network.calls == 1
    assert list(early) == ["enc.1", "mid"]
    assert all(torch.equal(early[name], full[name]) for name in early)


def test_nothing_after_the_call_is_run_and_the_hooks_are_gone(denoiser, x):
    reached = False
    with tapped(denoiser, "mid") as maps:
        denoiser(x, denoiser.schedule.at(3))
        reached = True
    assert not reached
    assert list(maps) == ["mid"]
    denoiser(x, denoiser.schedule.at(3))
    assert denoiser.network.calls == 1


def test_an_inner_exit_ends_the_inner_body_only(denoiser, x):
    with tapped(denoiser, "mid", early_exit=False) as outer:
        inner = read(denoiser, x, denoiser.schedule.at(3), "enc.1")
        denoiser(x, denoiser.schedule.at(3))
    assert list(inner) == ["enc.1"]
    assert list(outer) == ["mid"]


def test_an_error_inside_is_not_swallowed(denoiser):
    with pytest.raises(ValueError, match="mine"), tapped(denoiser, "mid"):
        raise ValueError("mine")


def test_names_globs_and_aliases(denoiser, x):
    assert resolve(denoiser, "*") == ["enc.1", "mid", "dec.1"]
    assert resolve(denoiser, ["mid", "enc.*", "mid"]) == ["enc.1", "mid"]
    maps = read(denoiser, x, denoiser.schedule.at(1), ["official_middle", "time"])
    assert list(maps) == ["time", "official_middle"]
    assert maps["time"].shape == (2, 16)
    assert resolve(denoiser, "official_*") == ["official_middle"]
    with pytest.raises(UsageError, match=r'did you mean "enc\.1"'):
        resolve(denoiser, "enc.9")
    with pytest.raises(UsageError, match="unknown tap"):
        resolve(denoiser, "foo.*")


def test_a_tap_that_is_not_reached_is_an_error(denoiser, x, monkeypatch):
    monkeypatch.setattr(denoiser.network, "forward", lambda x, time, y=None: x)  # as torch.compile goes past modules
    with pytest.raises(UsageError, match="not reached: mid"):
        read(denoiser, x, denoiser.schedule.at(3), "mid")
