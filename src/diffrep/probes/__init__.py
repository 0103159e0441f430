"""Probes: small supervised models on frozen features, chosen without looking at the test set."""

from diffrep.errors import InputError, nearest
from diffrep.probes.base import Probe, ProbeState
from diffrep.probes.fewshot import FewShot, few_shot
from diffrep.probes.folds import few_labels, stratified_folds
from diffrep.probes.knn import KNNProbe
from diffrep.probes.logistic import LinearProbe
from diffrep.probes.ridge import RidgeProbe
from diffrep.probes.selection import Selection, select

PROBES: dict[str, type[Probe]] = {"ridge": RidgeProbe, "linear": LinearProbe, "knn": KNNProbe}
"""Probes by the name that the command line uses."""


def from_state(state: ProbeState) -> Probe:
    """Make a fitted probe from `Probe.state()`.

    Errors:
        InputError: the state is of no known probe, or tensors are missing.
    """
    known = {probe.__name__: probe for probe in PROBES.values()}
    if state.probe not in known:
        raise InputError(f'unknown probe "{state.probe}"', nearest(state.probe, known))
    return known[state.probe].from_state(state)


__all__ = [
    "PROBES",
    "FewShot",
    "KNNProbe",
    "LinearProbe",
    "Probe",
    "ProbeState",
    "RidgeProbe",
    "Selection",
    "few_labels",
    "few_shot",
    "from_state",
    "select",
    "stratified_folds",
]
