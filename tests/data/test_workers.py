"""Worker processes: the same answers as a loop, whatever the number; a crash costs one file."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffrep.data import workers
from diffrep.data.decode import Unreadable, read_image


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """80 PNG files, of which number 7 is empty and number 50 is text."""
    for i in range(80):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "07.png").write_bytes(b"")
    (tmp_path / "50.png").write_text("text")
    return [str(path) for path in sorted(tmp_path.iterdir())]


def told(answer: object) -> object:
    return (answer.reason, answer.transient) if isinstance(answer, Unreadable) else np.asarray(answer).tobytes()


def test_the_number_of_workers_changes_nothing(paths: list[str]) -> None:
    work = partial(read_image, image_size=4, channels=3)
    one, two, three = ([told(a) for a in workers.read_all(work, paths, n)] for n in (1, 2, 3))
    assert one == two == three
    assert one[7] == ("empty file (0 bytes)", False)
    assert len(one) == 80


def test_a_decoder_that_crashes_costs_one_file(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHUNK", 2)
    crash = partial(os.execlp, "false")  # ends the worker at the first file; then each file is tried alone
    answers = list(workers.read_all(crash, paths[:4], 2))
    assert [told(a) for a in answers] == [("the decoder crashed", False)] * 4


def test_no_result_is_lost_when_workers_cannot_start(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    work = partial(read_image, image_size=4, channels=3)
    expected = [told(a) for a in workers.read_all(work, paths, 1)]
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert [told(a) for a in workers.read_all(work, paths, 2)] == expected
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert [told(a) for a in workers.read_all(work, paths, 2)] == expected


def test_a_caller_that_stops_leaves_no_process(paths: list[str]) -> None:
    answers = workers.read_all(partial(read_image, image_size=4, channels=3), paths, 2)
    next(answers)
    pool = answers.gi_frame.f_locals["pool"]
    made = list(pool.made)
    answers.close()
    assert len(made) == 2
    assert all(worker.process.poll() is not None for worker in made)


def test_a_script_needs_no_main_guard(paths: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    folder = Path(paths[0]).parent
    script.write_text(
        f"print('once')\nfrom diffrep import data\n"
        f"splits = data.load({str(folder)!r}, workers=2, max_bad_fraction=0.1, cache={str(tmp_path / 'c')!r})\n"
        "print(sum(map(len, splits.values())))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", "78"]
