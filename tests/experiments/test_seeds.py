from types import SimpleNamespace

from diffrep.experiments import seeds
from diffrep.experiments.seeds import Line, all_met, page, table_of

LINES = (Line("mse", "MSE", ".2f", at_most=0.3), Line("gain", "gain", ".1%", at_least=0.04), Line("missing", "x"))
RUNS = {0: {"mse": 0.1, "gain": 0.05}, 1: {"mse": 0.2, "gain": 0.03}, 2: {"mse": 0.3, "gain": 0.05}}


def test_the_table_names_mean_interval_runs_and_bars():
    rows = table_of(RUNS, LINES).splitlines()
    assert rows[2] == "| MSE | 0.20 | -0.05 to 0.45 | 0.10 | 0.20 | 0.30 | at most 0.3: met |"
    assert rows[3].endswith("| at least 4.0 %: missed |")
    assert len(rows) == 4


def test_one_seed_that_misses_a_bar_is_enough():
    assert not all_met(RUNS, LINES)
    assert all_met({0: RUNS[0]}, LINES)


def test_one_run_has_no_interval():
    assert "one run" in table_of({0: RUNS[0]}, LINES)


def test_the_command_runs_every_seed_and_writes_the_page(tmp_path, monkeypatch, capsys):
    ran = []
    results = {"steps": 7, "code_dim": 4, "images": 9, "precision": "float32", "z_only_to_mean_image": 0.5}

    def demo(settings, **inputs):
        ran.append((settings.seed, settings.steps))
        return SimpleNamespace(results=results)

    monkeypatch.setattr(seeds, "demo", demo)
    out = tmp_path / "results.md"
    assert seeds.main(["--seeds", "3", "4", "--steps", "7", "--out", str(out)]) == 1
    assert ran == [(3, 7), (4, 7)]
    assert "at most 0.32: missed" in capsys.readouterr().out
    assert "--seeds 3 4 --steps 7" in out.read_text()
    assert page({0: results}, ["x"]).startswith("# ")
