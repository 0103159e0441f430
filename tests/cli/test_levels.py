"""Noise levels as text."""

import pytest

from diffrep.cli.levels import parse
from diffrep.continuous import FlowSchedule
from diffrep.errors import UsageError
from diffrep.schedules import DiscreteSchedule

LINEAR = DiscreteSchedule.linear()


def test_times_are_the_schedules_own() -> None:
    levels = parse("t=1,10,30", LINEAR)
    assert [float(LINEAR.time_of(level)) for level in levels] == [1.0, 10.0, 30.0]


def test_log_snr_and_sigma_are_of_any_convention() -> None:
    assert [float(level.log_snr) for level in parse("log_snr=6,2", LINEAR)] == pytest.approx([6, 2])
    assert [float(level.log_snr) for level in parse("log-snr=6", LINEAR)] == pytest.approx([6])
    (level,) = parse("sigma=0.1", LINEAR)
    assert (float(level.alpha), float(level.sigma)) == (1.0, pytest.approx(0.1))


def test_a_flow_takes_fractions() -> None:
    (level,) = parse("t=0.25", FlowSchedule())
    assert float(level.sigma) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", 'levels "10"'),
        ("tt=3", 'did you mean "t"?'),
        ("t=1,x", '"x" in levels "t=1,x" is no number'),
        ("t=1000", "outside the schedule"),
        ("log_snr=40", "outside the schedule"),
        ("log_snr=nan", "no finite number"),
        ("sigma=inf", "no finite number"),
        ("t=", '"" in levels'),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, LINEAR)
    assert message in str(caught.value)
