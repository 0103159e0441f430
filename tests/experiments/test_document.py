import numpy as np
import pytest

from diffrep.experiments.document import Column, Outcome, Row, comparison, format_number, section, table


def test_a_control_that_wins_is_marked_in_a_comparison():
    block = comparison("MSE", [("ours", 0.2), ("better", 0.1), ("worse", 0.3), ("same", 0.2)], better="lower")
    assert [item["mark"] for item in block["items"]] == ["", "wins", "", "ties"]
    assert [item["kind"] for item in block["items"]] == ["result", "control", "control", "control"]


def test_a_control_that_wins_is_marked_in_each_column_of_a_table():
    columns = [Column("MSE", ".2f", "lower"), Column("SSIM", ".2f", "higher"), Column("n", ".0f")]
    block = table(columns, [Row("ours", [0.2, 0.9, 1]), Row("control", [0.1, 0.8, 2], "ours"), Row("gap", [None] * 3)])
    assert [cell["mark"] for cell in block["rows"][1]["cells"]] == ["wins", "", ""]
    assert [row["kind"] for row in block["rows"]] == ["result", "control", "result"]
    assert block["rows"][2]["cells"][0]["label"] == ""


@pytest.mark.parametrize(
    ("value", "form", "written"),
    [(0.911, ".1%", "91.1 %"), (0.2971, ".4f", "0.2971"), (2.8e-5, ".4f", "2.8e-05"), (0.0, ".4f", "0.0000")],
)
def test_numbers_are_written_with_digits_that_say_something(value, form, written):
    assert format_number(value, form) == written


def test_a_section_leaves_out_what_is_not_there():
    assert section("A", {}, {"type": "text", "text": "x"})["blocks"] == [{"type": "text", "text": "x"}]


def test_arrays_are_written_whole(tmp_path):
    outcome = Outcome(arrays={"a": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    path = outcome.write_arrays(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["arrays.npz"]
    with np.load(path) as file:
        assert np.array_equal(file["a"], outcome.arrays["a"])
