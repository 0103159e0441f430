"""Killed at any moment and resumed = never killed, every tensor bit-equal, every metric too."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_toy import record_of, run_toy, toy_config, toy_loader, toy_objective, toy_validation

from diffrep.errors import StoppedResumable, UsageError
from diffrep.training import Checkpoints, load_checkpoint, train

PROGRAM = Path(__file__).with_name("training_toy.py")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unbroken")
    run_toy(folder, "never")
    torch.set_num_threads(before)
    return record_of(folder)


def run_program(folder: Path, what: str, at: int) -> subprocess.CompletedProcess:
    source = Path(sys.modules["diffrep.training"].__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), str(folder), what, str(at)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_left_at_any_step_and_resumed_is_the_unbroken_run(tmp_path, unbroken):
    for step in (1, 5, 6, 14):
        folder = tmp_path / str(step)
        for report in train(
            toy := toy_objective(), toy_loader, toy_config(), run_dir=folder, validate=toy_validation(toy)
        ):
            if report.step == step:
                break
        run_toy(folder)
        assert record_of(folder) == unbroken


@pytest.mark.slow
def test_killed_at_a_random_step_and_resumed_is_the_unbroken_run(tmp_path, unbroken):
    step = random.SystemRandom().randrange(1, 24)
    assert run_program(tmp_path, "step", step).returncode == -signal.SIGKILL
    run_toy(tmp_path)
    assert record_of(tmp_path) == unbroken, f"killed at step {step}"


@pytest.mark.slow
@pytest.mark.parametrize("write", [3, 8, 13, 19])
def test_killed_while_writing_and_resumed_is_the_unbroken_run(tmp_path, unbroken, write):
    assert run_program(tmp_path, "write", write).returncode == -signal.SIGKILL
    run_toy(tmp_path)
    assert record_of(tmp_path) == unbroken
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.slow
def test_sigterm_exits_with_75_and_can_be_resumed(tmp_path, unbroken):
    done = run_program(tmp_path, "term", 8)
    assert done.returncode == 75
    assert "SIGTERM after step 9 of 24" in done.stderr
    assert "--resume auto" in done.stderr
    assert (tmp_path / "checkpoints" / "step-000009").is_dir()
    run_toy(tmp_path)
    assert record_of(tmp_path) == unbroken


def test_sigint_finishes_the_step_saves_and_restores_the_handlers(tmp_path, unbroken):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def loader(step):
        if step == 5:
            signal.raise_signal(signal.SIGINT)
        return toy_loader(step)

    with pytest.raises(StoppedResumable, match="SIGINT after step 6 of 24") as caught:
        run_toy(tmp_path, loader=loader)
    assert caught.value.exit_code == 75
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    run_toy(tmp_path)
    assert record_of(tmp_path) == unbroken


def test_a_signal_in_the_callers_code_stops_before_the_next_step(tmp_path, unbroken):
    steps = train(toy_objective(), toy_loader, toy_config(), run_dir=tmp_path)
    assert next(steps).step == 1
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(StoppedResumable, match="SIGTERM after step 1 of 24"):
        next(steps)
    run_toy(tmp_path)
    assert record_of(tmp_path) == unbroken


def test_without_a_run_folder_signals_are_left_alone():
    handler = signal.getsignal(signal.SIGINT)
    for _ in train(toy_objective(), toy_loader, toy_config(steps=1)):
        assert signal.getsignal(signal.SIGINT) == handler


def test_the_global_generator_neither_matters_nor_moves(tmp_path, unbroken):
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    run_toy(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert record_of(tmp_path) == unbroken


def test_a_finished_run_gives_its_averaged_weights_and_no_step(tmp_path):
    trained, _ = run_toy(tmp_path)
    objective, reports = run_toy(tmp_path)
    assert reports == []
    for name, tensor in load_checkpoint(tmp_path, "last").items():
        assert torch.equal(objective.state_dict()[name], tensor)
        assert torch.equal(trained.state_dict()[name], tensor)


def test_steps_may_grow(tmp_path):
    run_toy(tmp_path, cosine_to=1.0, steps=10)
    run_toy(tmp_path, cosine_to=1.0, steps=24)
    run_toy(tmp_path / "long", cosine_to=1.0, steps=24)
    grown, long = record_of(tmp_path), record_of(tmp_path / "long")
    assert all(grown[part] == long[part] for part in ("model", "ema", "optimizer"))


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 4), ("learning_rate", 1.0), ("ema", None), ("steps", 6), ("betas", (0.9, 0.9))]
)
def test_other_settings_are_refused_by_name(tmp_path, name, value):
    run_toy(tmp_path, steps=8)
    with pytest.raises(UsageError, match=f"{name} = "):
        run_toy(tmp_path, **{"steps": 8, name: value})


def test_a_folder_with_a_run_is_not_trained_into_unasked(tmp_path):
    run_toy(tmp_path, steps=5)
    with pytest.raises(UsageError, match='resume="auto"'):
        run_toy(tmp_path, "never", steps=5)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, unbroken):
    run_toy(tmp_path)
    model = tmp_path / "checkpoints" / "step-000024" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    with pytest.warns(UserWarning, match=r"step 24 is passed over.*model\.safetensors"):
        run_toy(tmp_path)
    assert record_of(tmp_path) == unbroken


def test_automatic_precision_is_kept_by_a_resumed_run(tmp_path, monkeypatch):
    def state() -> dict:
        store = Checkpoints(tmp_path)
        return store.state(store.steps()[-1])["config"]

    monkeypatch.setattr("diffrep.training.loop.fast_precision", lambda device: "bf16")
    run_toy(tmp_path, "never", precision="auto", steps=6)
    assert state()["precision"] == "bf16"
    monkeypatch.setattr("diffrep.training.loop.fast_precision", lambda device: "float32")
    run_toy(tmp_path, "auto", precision="auto", steps=8)
    assert state() == {**state(), "precision": "bf16", "steps": 8}
    with pytest.raises(UsageError, match="precision = 'bf16', now it is 'float32'"):
        run_toy(tmp_path, "auto", precision="float32", steps=9)
