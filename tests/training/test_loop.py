"""The loop: it learns, skips what is not finite, cuts batches, averages, and leaves frozen weights alone."""

import json
from dataclasses import replace

import pytest
import torch
from training_toy import ToyBatch, run_toy, toy_config, toy_loader, toy_objective

from diffrep.errors import DiffrepError, UsageError
from diffrep.randomness import Draw
from diffrep.training import TrainConfig, load_checkpoint, train
from diffrep.training.ema import Average
from diffrep.training.optimizer import learning_rate


def weights(objective):
    return {name: tensor.clone() for name, tensor in objective.state_dict().items()}


def test_training_reduces_the_loss():
    objective = toy_objective(dropout=0.0)
    config = toy_config(steps=300, learning_rate=1e-2, precision="float32")
    losses = [report.loss for report in train(objective, toy_loader, config)]
    assert sum(losses[-30:]) < 0.4 * sum(losses[:30])


def test_bf16_trains_nearly_like_float32():
    def last_losses(precision):
        objective = toy_objective(dropout=0.0)
        reports = list(train(objective, toy_loader, toy_config(steps=60, precision=precision)))
        assert all(t.dtype == torch.float32 for t in objective.state_dict().values())
        return sum(report.loss for report in reports[-10:])

    plain, half = last_losses("float32"), last_losses("bf16")
    assert half == pytest.approx(plain, rel=0.05)
    assert half != plain


@pytest.mark.parametrize("parts", [2, 3, 8, 20])
def test_accumulation_equals_the_uncut_step_to_rounding(parts):
    def trained(accumulate):
        objective = toy_objective(dropout=0.0)
        reports = list(train(objective, toy_loader, toy_config(accumulate=accumulate, steps=5)))
        return weights(objective), reports

    whole, reports = trained(1)
    cut, cut_reports = trained(parts)
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-4, atol=1e-5)
    for a, b in zip(reports, cut_reports, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)


def spoiled(bad):
    def loader(step):
        batch = toy_loader(step)
        return replace(batch, images=batch.images * float("nan")) if step in bad else batch

    return loader


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(tmp_path):
    objective = toy_objective()
    before, skipped = None, []
    for report in train(objective, spoiled({2, 4}), toy_config(steps=6), run_dir=tmp_path):
        now = weights(objective)
        if report.step in (3, 5):
            assert all(torch.equal(now[name], before[name]) for name in now)
        before = now
        skipped.append(report.skipped)
    assert skipped == [0, 0, 1, 1, 2, 2]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["grad_norm"] is None for line in lines] == [True, False]
    assert all(line["loss"] > 0 for line in lines)
    assert all(bool(tensor.isfinite().all()) for tensor in objective.state_dict().values())


def test_too_many_such_steps_in_a_row_stop_the_run():
    steps = train(toy_objective(), spoiled(range(3, 20)), toy_config(max_skipped=4))
    with pytest.raises(DiffrepError, match=r"step 8: loss nan.*5 steps in a row.*lower the learning rate") as caught:
        list(steps)
    assert caught.value.exit_code == 1


def test_an_infinite_gradient_alone_is_skipped_too():
    class Steep:
        def __init__(self):
            self.w = torch.nn.Parameter(torch.zeros(1))

        def parameters(self):
            return [self.w]

        def loss(self, batch, draw):
            return self.w.clamp(min=0).sqrt().expand(len(batch.ids))  # derivative at 0 is infinite

        def state_dict(self):
            return {"w": self.w.detach()}

        def load_state_dict(self, state):
            self.w.data.copy_(state["w"])

        def train(self, mode=True):
            pass

    report = next(iter(train(Steep(), toy_loader, toy_config())))
    assert report.loss == 0
    assert report.skipped == 1


def test_frozen_weights_are_in_no_optimizer_average_or_checkpoint(tmp_path):
    objective = toy_objective()
    network = objective.denoiser.network
    network.first.requires_grad_(False)
    before = {n: p.detach().numpy().tobytes() for n, p in network.first.named_parameters()}
    moved = network.last.weight.detach().clone()
    run_toy(tmp_path, objective=objective)
    assert before == {n: p.detach().numpy().tobytes() for n, p in network.first.named_parameters()}
    assert not torch.equal(moved, network.last.weight)
    for kind in ("ema", "raw"):
        assert load_checkpoint(tmp_path, "last", kind).keys() == {"last.weight", "last.bias"}


def test_reports_average_on_request_and_the_end_holds_the_average():
    objective = toy_objective()
    for report in train(objective, toy_loader, toy_config(ema="constant", ema_decay=0.9)):
        raw = weights(objective)
        with report.averaged():
            averaged = weights(objective)
            assert not objective.denoiser.training
        assert objective.denoiser.training
        assert all(torch.equal(raw[name], tensor) for name, tensor in objective.state_dict().items())
    assert not torch.equal(raw["last.weight"], averaged["last.weight"])
    assert all(torch.equal(averaged[name], tensor) for name, tensor in objective.state_dict().items())


def test_validation_sees_the_averaged_weights_and_the_lowest_is_kept(tmp_path):
    values = iter([3.0, 1.0, float("nan"), 2.0])
    seen, objective = [], toy_objective()

    def validate():
        assert not objective.denoiser.training
        seen.append(weights(objective))
        return next(values)

    config = toy_config(steps=24, validate_every=6, checkpoint_every=6, keep_last=1)
    reports = list(train(objective, toy_loader, config, run_dir=tmp_path, validate=validate))
    assert [r.validation for r in reports if r.validation is not None][:2] == [3.0, 1.0]
    best = load_checkpoint(tmp_path, "best", "ema")
    assert all(torch.equal(best[name], tensor) for name, tensor in seen[1].items())
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*")) == ["step-000012", "step-000024"]


def test_a_line_of_metrics_holds_the_mean_loss_since_the_line_before(tmp_path):
    _, reports = run_toy(tmp_path, steps=10, log_every=4, validate_every=100)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 10]
    losses = [report.loss for report in reports]
    means = [sum(losses[:4]) / 4, sum(losses[4:8]) / 4, sum(losses[8:]) / 2]
    assert [line["loss"] for line in lines] == pytest.approx(means)
    assert lines[-1]["images_seen"] == 80
    assert lines[-1]["validation"] == reports[-1].validation


def test_the_rate_rises_then_follows_a_cosine():
    config = TrainConfig(steps=101, learning_rate=2.0, warmup_steps=1, cosine_to=0.25)
    rates = [learning_rate(config, k) for k in range(101)]
    assert rates[0] == rates[1] == 2.0
    assert rates[-1] == pytest.approx(0.5)
    assert rates == sorted(rates, reverse=True)
    warm = TrainConfig(steps=10, learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(warm, k) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [r.learning_rate for r in run_toy(None, "never", steps=3)[1]] == pytest.approx([0.00075, 0.0015, 0.00225])


def test_clipping_bounds_the_gradient_that_is_used():
    objective = toy_objective()
    report = next(iter(train(objective, toy_loader, toy_config(clip_norm=1e-3))))
    norm = torch.nn.utils.get_total_norm([p.grad for p in objective.parameters()])
    assert report.grad_norm > 1e-2
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert next(iter(train(toy_objective(), toy_loader, toy_config(clip_norm=None)))).grad_norm == report.grad_norm


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_fused_optimizer_is_torchs_own(name):
    objective = toy_objective(dropout=0.0)
    twin = toy_objective(dropout=0.0)
    config = toy_config(steps=6, optimizer=name, weight_decay=0.1, ema=None, warmup_steps=3)
    for _ in train(objective, toy_loader, config):
        pass
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizer = plain(twin.parameters(), lr=3e-3, weight_decay=0.1, foreach=False)
    for step in range(6):
        batch = toy_loader(step)
        optimizer.param_groups[0]["lr"] = learning_rate(config, step)
        optimizer.zero_grad()
        twin.loss(batch, Draw(3, step, batch.ids)).mean().backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
    for a, b in zip(objective.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "sgd"}, 'optimizer = "sgd".*adamw'),
        ({"ema": "rampe"}, 'did you mean "ramp"'),
        ({"steps": 0}, "steps = 0.*at least 1"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0"),
        ({"cosine_to": 2.0}, "cosine_to"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(UsageError, match=words):
        TrainConfig(**{"steps": 1, **settings})


def test_what_cannot_be_trained_is_refused():
    objective = toy_objective()
    with pytest.raises(UsageError, match="meta"):
        train(objective, toy_loader, toy_config(device="meta"))
    with pytest.raises(UsageError, match="run_dir"):
        train(objective, toy_loader, toy_config(), resume="auto")
    objective.denoiser.requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable parameter"):
        train(objective, toy_loader, toy_config())


def test_a_loss_that_is_not_per_image_is_refused():
    objective = toy_objective()
    objective.loss = lambda batch, draw: torch.zeros((), requires_grad=True)
    with pytest.raises(UsageError, match=r"shape \(\).*\(8,\)"):
        list(train(objective, toy_loader, toy_config()))


def test_batches_may_be_named_tuples():
    from typing import Any, NamedTuple

    class Named(NamedTuple):
        images: Any
        labels: Any
        ids: list

    def loader(step):
        batch: ToyBatch = toy_loader(step)
        return Named(batch.images, torch.arange(8), batch.ids)

    named, _ = run_toy(None, "never", loader=loader, accumulate=3)
    plain, _ = run_toy(None, "never", accumulate=3)
    assert all(torch.equal(a, b) for a, b in zip(named.parameters(), plain.parameters(), strict=True))


def test_when_the_iteration_ends_dropout_is_off():
    objective = toy_objective(dropout=0.5)
    modes = []
    switch = objective.train
    objective.train = lambda mode=True: (modes.append(mode), switch(mode))
    list(train(objective, toy_loader, toy_config(steps=2)))
    assert modes[0] is True
    assert modes[-1] is False


def test_the_average_is_told_the_images_before_the_step(monkeypatch):
    told = []
    monkeypatch.setattr(Average, "update", lambda self, seen=0, images=1: told.append((seen, images)))
    reports = list(train(toy_objective(dropout=0.0), toy_loader, toy_config(steps=3, ema="half-life")))
    batch = reports[0].images_seen
    assert told == [(0, batch), (batch, batch), (2 * batch, batch)]  # as in EDM's training_loop.py
