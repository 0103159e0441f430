"""Help, unknown words, settings that cannot be: exit code 2, the nearest name, and nothing heavy loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffrep.cli.app import COMMANDS
from tests.cli.calls import Call

SOURCES = Path(__file__).resolve().parents[2] / "src"
WITHOUT_FOLDER = {"report", "models", "datasets", "doctor", "convert"}
ALWAYS = ("[default: 0]", "--output-dir", "-o", "--dry-run", "--config", "--print-config", "--resume", "--json")
HEAVY = {"torch", "numpy", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "PIL"}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["extract", "--help"],
        ["extract", "ddpm-digits", "digits", "--levl", "t=1", "-o", "out"],
        ["extract", "ddpm-digits", "digits"],
        ["extrakt"],
        ["demo", "--seed", "x"],
        ["train", "digits", "-o", "out", "--print-config"],
    ],
)
def test_nothing_heavy_is_loaded(words: list[str]) -> None:
    script = (
        "import json, sys; from diffrep.cli import main; code = main(json.loads(sys.argv[1])); "
        "sys.stderr.write('\\n' + json.dumps([code, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    command = [sys.executable, "-c", script, json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=SOURCES)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert not HEAVY & set(modules)
    assert code == (0 if "--help" in words or "--print-config" in words else 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(call: Call, command: str) -> None:
    answer = call(command, "--help")
    assert answer.code == 0
    assert "Usage: diffrep" in answer.out
    if command not in WITHOUT_FOLDER:
        assert [word for word in ALWAYS if word not in answer.out] == []


def test_all_commands_are_listed(call: Call) -> None:
    answer = call("--help")
    assert answer.code == 0
    assert all(command in answer.out for command in COMMANDS)


def test_version(call: Call) -> None:
    import diffrep

    assert call("--version").out.strip() == diffrep.__version__


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["extrakt"], 'unknown command "extrakt"', 'did you mean "extract"?'),
        (["demo", "--sed", "1"], 'unknown option "--sed"', 'did you mean "--seed"?'),
        (["extract", "a", "b", "--output-dirr", "x"], 'unknown option "--output-dirr"', 'did you mean "--output-dir"?'),
        (["extract", "a", "b"], "--output-dir is missing", ""),
        (["demo", "--seed", "x"], "seed = 'x': expected a valid integer", ""),
        (["demo", "--steps", "0"], "steps = '0': expected a number greater than or equal to 1", ""),
        (["extract", "a", "b", "-o", "x", "--split", "tst"], "split = 'tst': expected 'train', 'val' or 'test'", ""),
        (["demo", "more"], '"more" is one word too many', ""),
        (["extract"], "--data is missing", ""),
        (["demo", "--steps"], "--steps needs a value", ""),
    ],
)
def test_wrong_usage(call: Call, words: list[str], message: str, hint: str) -> None:
    answer = call(*words)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert message in answer.err
    assert hint in answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err


def test_verbose_shows_the_traceback(call: Call, tmp_path: Path) -> None:
    words = ["sample", "no-such-model", "-o", str(tmp_path / "x")]
    assert "Traceback" not in call(*words).err
    assert "Traceback" in call(*words, "-v").err
