"""A command that is asked to stop: it saves, says how to go on, and exits with 75."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.calls import Call

SOURCES = Path(__file__).resolve().parents[2] / "src"


def wait_for(path: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training_saves_and_goes_on(call: Call, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    words = ["train", "digits", "--width", "16", "--batch-size", "8", "--validation-images", "8", "-o", str(out)]
    words += ["--checkpoint-every", "2", "--validate-every", "0", "--device", "cpu"]
    command = [sys.executable, "-m", "diffrep", *words, "--steps", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=SOURCES)
    wait_for(out / "checkpoints" / "index.json")
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert f"stopped by {number.name}" in said
    assert "--resume auto" in said
    assert "Traceback" not in said
    reached = max(int(path.name.split("-")[1]) for path in (out / "checkpoints").glob("step-*"))
    fewer = call(*words, "--steps", str(reached + 2), "--resume", "auto")
    assert fewer.code == 2
    assert f"at step {reached}" in fewer.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_extraction_goes_on_after_an_interrupt(call: Call, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "run"
    words = [
        "extract",
        "ddpm-digits",
        "digits",
        "--taps",
        "mid",
        "--levels",
        "t=10",
        "-o",
        str(out),
        "--batch-size",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "diffrep", *words], stderr=subprocess.PIPE, text=True, cwd=SOURCES
    )
    wait_for(out / "metrics.jsonl")
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "--resume auto" in said
    assert not (out / "features.parquet").exists()
    assert call(*words).code == 2
    words[-1] = "256"
    assert call(*words, "--resume", "auto").code == 0
    assert (out / "features.parquet").exists()
