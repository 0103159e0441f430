import numpy as np
import pytest
import torch

from diffrep.data import to_tensor
from diffrep.errors import UsageError
from diffrep.experiments.controls import derangement, mean_image, pca_reconstruction, untrained


@pytest.mark.parametrize("count", [2, 3, 10, 400])
def test_a_derangement_leaves_nothing_in_place(count):
    for seed in range(20):
        order = derangement(count, seed)
        assert sorted(order.tolist()) == list(range(count))
        assert not bool((order == torch.arange(count)).any())


def test_a_derangement_follows_its_seed():
    assert torch.equal(derangement(50, 3), derangement(50, 3))
    assert not torch.equal(derangement(50, 3), derangement(50, 4))


def test_one_image_cannot_be_shuffled():
    with pytest.raises(UsageError, match="at least 2"):
        derangement(1, 0)


def test_an_untrained_network_has_the_same_shape_and_no_zero_tensor(denoiser):
    control = untrained(denoiser, seed=0)
    assert any(not bool(p.any()) for p in denoiser.network.parameters()), "the layout starts layers at zero"
    trained, fresh = denoiser.network.state_dict(), control.network.state_dict()
    assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in fresh.items()}
    assert all(bool(p.any()) for p in control.network.parameters())
    assert control.identity != denoiser.identity
    assert not control.training


def test_untrained_networks_follow_their_seed_and_leave_the_global_generator_alone(denoiser):
    before = torch.random.get_rng_state()
    first, again, other = (untrained(denoiser, seed=s).identity for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_original_keeps_its_weights(denoiser):
    before = denoiser.identity
    untrained(denoiser, seed=0)
    assert denoiser.identity == before


def test_pca_equals_scikit_learns(digits):
    from sklearn.decomposition import PCA

    train, test = (to_tensor(digits[name].images) for name in ("train", "test"))
    ours = pca_reconstruction(train, test, 12)
    model = PCA(12, svd_solver="full").fit(train.flatten(1).double().numpy())
    theirs = model.inverse_transform(model.transform(test.flatten(1).double().numpy()))
    np.testing.assert_allclose(ours.flatten(1).numpy(), theirs, atol=1e-5)


def test_pca_with_too_many_numbers_is_refused(digits):
    train = to_tensor(digits["train"].images)
    with pytest.raises(UsageError, match="1 to 64"):
        pca_reconstruction(train, train, 65)


def test_the_mean_image_is_the_best_constant(digits):
    train = to_tensor(digits["train"].images)
    mean = mean_image(train)
    assert mean.shape == (1, 1, 8, 8)
    error = (train - mean).square().mean()
    assert error < (train - mean - 0.01).square().mean()
