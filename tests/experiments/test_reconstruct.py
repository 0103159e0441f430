import pytest
import torch

from diffrep.data import to_tensor
from diffrep.errors import UsageError
from diffrep.experiments.interpolate import interpolation, pairs_of_classes
from diffrep.experiments.manipulate import manipulation
from diffrep.experiments.reconstruct import reconstruct
from diffrep.experiments.samples import same_code, samples


@pytest.fixture(scope="module")
def images(digits, denoiser):
    return to_tensor(digits["test"].take(12).images).to(denoiser.device)


@pytest.fixture(scope="module")
def outcome(autoencoder, digits, images):
    train = to_tensor(digits["train"].images).to(images.device)
    ids = digits["test"].ids[:12]
    return reconstruct(
        autoencoder, images, ids, train=train, steps=(2, 3), headline_steps=2, inversion_steps=(4,), shown=5
    )


def test_every_control_stands_beside_its_result(outcome):
    rows = outcome.sections[0]["blocks"][1]["rows"]
    names = [row["name"] for row in rows]
    assert names == [
        "z only, 2 steps",
        "shuffled z, 2 steps",
        "unconditional, 2 steps",
        "mean image",
        "PCA, 8 numbers",
        "z only, 3 steps",
        "z + inverted x_T, 4 + 4 steps",
        "inverted x_T without code, 4 + 4 steps",
    ]
    keys = (
        "z_only",
        "z_only_3_steps",
        "shuffled_z",
        "unconditional",
        "mean_image",
        "pca",
        "inverted",
        "inverted_without_code",
    )
    assert all(f"{key}_{metric}" in outcome.results for key in keys for metric in ("mse", "ssim", "psnr"))


def test_with_a_zero_shift_no_code_matters(outcome):
    results = outcome.results
    assert results["z_only_mse"] == pytest.approx(results["unconditional_mse"])
    assert results["z_only_mse"] == pytest.approx(results["shuffled_z_mse"])
    assert results["inverted_mse"] == pytest.approx(results["inverted_without_code_mse"])


def test_the_strip_holds_the_rows_that_it_names(outcome, images):
    block = outcome.sections[0]["blocks"][0]
    assert block["rows"] == ["input", "z only", "z + inverted x_T", "shuffled z", "unconditional", "mean image"]
    assert outcome.arrays["reconstruction"].shape == (6, 5, 8, 8, 1)


def test_results_do_not_depend_on_the_batch_size(autoencoder, digits, images, outcome):
    ids = digits["test"].ids[:12]
    parts = reconstruct(autoencoder, images, ids, steps=(2,), headline_steps=2, inversion_steps=(), batch_size=5)
    assert parts.results["z_only_mse"] == pytest.approx(outcome.results["z_only_mse"], abs=1e-5)
    assert "pca_mse" not in parts.results


def test_one_image_is_refused(autoencoder, images):
    with pytest.raises(UsageError, match="derangement"):
        reconstruct(autoencoder, images[:1], ["a"], steps=(1,), headline_steps=1)


def test_interpolation_and_edit_make_strips(autoencoder, images):
    ways = interpolation(autoencoder, images[:2], images[2:4], num_frames=3, steps=2)
    assert ways.arrays["interpolation"].shape == (2, 3, 8, 8, 1)
    assert len(interpolation(autoencoder, images[:1], images[1:2], num_frames=3, steps=2).arrays["interpolation"]) == 1
    codes = autoencoder.encode(images)
    present = torch.arange(12, device=images.device) < 6
    edits = manipulation(autoencoder, images[:2], codes, present, name="8", scales=(-1.0, 0.0, 1.0), steps=2)
    assert edits.arrays["edit"].shape == (2, 4, 8, 8, 1)
    assert edits.sections[0]["blocks"][0]["columns"] == ["input", "-1.0", "0", "+1.0"]


def test_pairs_are_of_different_classes():
    assert pairs_of_classes([3, 1, 1, 2, 0], 2) == [(4, 1), (3, 0)]
    assert pairs_of_classes([3, 1, 1, 2, 0], 5) == [(4, 1), (3, 0), (1, 3), (0, 4)]


def test_samples_and_same_code_make_strips(autoencoder, denoiser, images):
    assert samples(denoiser, rows=2, columns=3, steps=2).arrays["samples"].shape == (2, 3, 8, 8, 1)
    drawn = same_code(autoencoder, images[:2], ["a", "b"], draws=3, steps=2).arrays["same_code"]
    assert drawn.shape == (2, 4, 8, 8, 1)
