import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from diffrep.errors import FormatError, InputError
from diffrep.experiments.document import (
    Column,
    Outcome,
    Row,
    comparison,
    curves,
    heat_map,
    section,
    strip,
    table,
    text,
)
from diffrep.reports import write_report

VOID = {"meta", "img", "path", "polyline", "br", "link", "input"}


class Balance(HTMLParser):
    """Collects tags, and fails on one that closes another."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path):
    """A run folder with one block of each kind, and words that HTML must not take for its own."""
    blocks = [
        text("<b>no markup</b> & such"),
        comparison("MSE", [("ours", 0.2), ("control", 0.1)], better="lower", note="note"),
        table([Column("MSE", ".2f", "lower")], [Row("ours", [0.2]), Row("other", [0.1], "ours"), Row("none", [None])]),
        heat_map(
            [[0.5, None], [0.9, 0.7]],
            ["mid", "dec.1"],
            ["9", "7"],
            row_title="tap",
            column_title="level",
            chosen=(1, 0),
        ),
        curves({"a": ([0, 1], [1, 2]), "b": ([0, 1], [2, 1])}, x_label="x", y_label="y", alt="two lines"),
        strip("pictures", ["input", "output"], columns=["1", "2", "3"], caption="caption"),
        strip("not there", ["x"]),
    ]
    outcome = Outcome(
        {"mse": 0.2, "tap": "dec.1", "list": [1, 2]},
        [section("Everything", *blocks, text="A <script>alert(1)</script> text")],
        {"pictures": np.zeros((2, 3, 8, 8, 1), np.uint8)},
        {"kind": "test", "title": "T & t", "seconds": {"all": 1.25}, "commands": [["diffrep", "x", "a b"]]},
    )
    (tmp_path / "report.json").write_text(json.dumps(outcome.report()))
    outcome.write_arrays(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": k, "loss": 1 / (k + 1)}) + "\n" for k in range(30))
    )
    (tmp_path / "environment.json").write_text(json.dumps({"versions": {"torch": "2.13.0"}, "command": ["y"]}))
    (tmp_path / "config.yaml").write_text(f"seed: 3\nlevels: [0, 5]\ndata: folder:{Path.home()}/photos\n")
    return tmp_path


def test_every_kind_of_block_is_drawn_well_formed(run):
    html = write_report(run).read_text()
    page = Balance()
    page.feed(html)
    assert not page.open
    images = [attributes for tag, attributes in page.seen if tag == "img"]
    assert len(images) == 2
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in images)
    assert [tag for tag, _ in page.seen if tag in ("h1", "h2")][:2] == ["h1", "h2"]
    assert ("html", {"lang": "en"}) in page.seen


def test_words_from_the_run_are_never_markup(run):
    html = write_report(run).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "T &amp; t" in html


def test_home_folders_are_shown_as_a_tilde(run):
    html = write_report(run).read_text()
    assert "folder:~/photos" in html
    assert f"{Path.home()}/photos" not in html


def test_winning_controls_the_chosen_cell_and_how_it_was_made_are_shown(run):
    html = write_report(run).read_text()
    assert html.count('<span class="mark">wins</span>') == 2
    assert html.count(" chosen") >= 1
    assert "diffrep x 'a b'" in unescape(html)
    assert "versions.torch" in html
    assert "levels" in html
    assert "prefers-color-scheme:dark" in html
    assert "Loss curves" in html


def test_the_report_is_computed_from_the_folder_alone(run, tmp_path_factory):
    first = write_report(run).read_text()
    moved = tmp_path_factory.mktemp("elsewhere") / "run"
    shutil.copytree(run, moved)
    (moved / "report.html").unlink()
    assert write_report(moved).read_text() == first


def test_the_report_is_written_whole(run, monkeypatch):
    before = write_report(run).read_text()

    def fail(*_):
        raise OSError("no rename")

    monkeypatch.setattr("diffrep.files.os.replace", fail)
    with pytest.raises(OSError, match="no rename"):
        write_report(run)
    assert (run / "report.html").read_text() == before
    assert not [path.name for path in run.iterdir() if path.name.startswith(".tmp")]


def test_a_plain_report_shows_its_numbers(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"loss": 0.25, "steps": 10, "seconds": 3.0}))
    html = write_report(tmp_path).read_text()
    assert re.search(r"<dt>loss</dt><dd>0\.25</dd>", html)
    assert "Loss curves" not in html


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"report\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"), [("report.json", "{"), ("report.json", "[]"), ("arrays.npz", "x"), ("config.yaml", "a: [")]
)
def test_broken_files_are_named(run, name, content):
    (run / name).write_text(content)
    with pytest.raises(FormatError, match=name.replace(".", r"\.")):
        write_report(run)
