"""Every Python block of README and docs runs, every example runs, and every command shown there is one that exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MARKDOWN = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
PAGES = sorted(p for p in MARKDOWN if "```" in p.read_text(encoding="utf-8"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text for language, text in found if language in languages]


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    code = "\n".join(blocks(page, "python"))
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_an_example_runs(example, tmp_path):
    run = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def commands(page: Path) -> list[list[str]]:
    text = "\n".join(blocks(page, "bash", "sh", "console")).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("diffrep ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_the_commands_of_a_page_are_accepted(page, capsys):
    from diffrep.cli import main

    lookups = {"models", "datasets", "doctor", "report", "convert"}
    for words in commands(page):
        extra = ["--help"] if words[1] in lookups else ["--dry-run"]
        assert main([*words[1:], *extra]) == 0, (words, capsys.readouterr().err)


def test_no_page_speaks_of_a_machine_of_ours():
    for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]:
        assert not re.search(r"/(root|home|work|tmp)/\w", page.read_text(encoding="utf-8")), page
