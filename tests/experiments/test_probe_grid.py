import numpy as np
import pytest

from diffrep.errors import InputError
from diffrep.experiments.probe_grid import features_of, probe_grid, raw_pixels, split_name, untrained_networks
from diffrep.extraction import extract
from diffrep.tap_features import TapFeatures


def test_the_mean_of_the_cells_is_the_mean(denoiser, digits):
    levels = denoiser.schedule.at([5, 40])
    found = features_of(denoiser, digits, levels, seed=3)
    plain = extract(TapFeatures(denoiser, "*", levels, noise_seed=3), digits["val"], cache=False)
    assert set(found["mean"]["val"].names) == set(plain.names)
    for name in plain.names:
        np.testing.assert_allclose(found["mean"]["val"][name], plain[name], atol=1e-5)
    assert found["mean"]["val"].protocol["pool"] == "mean"


def test_every_network_is_probed_the_same_way(denoiser, digits):
    seen = []
    outcome = probe_grid(
        denoiser,
        digits,
        denoiser.schedule.at([0, 40]),
        per_class=3,
        draws=2,
        controls=untrained_networks(denoiser, 2, 0),
        progress=lambda *at: seen.append(at),
    )
    for name in ("trained", "untrained", "raw_pixels", "trained_2x2", "untrained_2x2"):
        for labels in ("", "_all"):
            assert 0.05 < outcome.results[f"probe_{name}{labels}"] <= 1
    assert len(outcome.results["probe_untrained_each"]) == 2
    assert outcome.results["best_tap"] in {tap.name for tap in denoiser.taps}
    assert len(outcome.about["grids"]["mean"]) == 2 * len(denoiser.taps)
    assert ("features", 3, 3) in seen
    assert ("probes", 3, 3) in seen


def test_raw_pixels_are_all_of_them(digits):
    assert raw_pixels(digits)["test"]["pixels"].shape == (60, 64)
    assert raw_pixels(digits)["test"]["pixels"].max() <= 1


def test_without_labels_there_is_no_probe(denoiser, digits):
    from dataclasses import replace

    bare = {name: replace(part, labels=None) for name, part in digits.items()}
    with pytest.raises(InputError, match="labels"):
        probe_grid(denoiser, bare, denoiser.schedule.at([0]))


def test_names_split_into_tap_and_level():
    assert split_name("dec.1@log_snr=-6.12") == ("dec.1", -6.12)
