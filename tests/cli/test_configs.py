"""Settings: frozen, no unknown names, defaults < file < flags, and a printed config that replays."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from diffrep.cli import configs
from tests.cli.calls import Call

ALL = [c for c in vars(configs).values() if isinstance(c, type) and issubclass(c, configs.Config)]


@pytest.mark.parametrize("kind", ALL)
def test_configs_are_frozen_and_refuse_what_they_do_not_know(kind: type[configs.Config]) -> None:
    assert kind.model_config["frozen"]
    with pytest.raises(ValidationError, match="Extra inputs"):
        kind.model_validate({"no_such_setting": 1})


def test_the_demo_has_the_settings_and_defaults_of_the_experiment() -> None:
    from dataclasses import asdict

    from diffrep.cli.commands.demo import BESIDE
    from diffrep.experiments.demo import DemoSettings

    assert configs.DemoConfig().model_dump(exclude=set(BESIDE)) == asdict(DemoSettings())


def test_flags_win_over_the_file_and_the_file_over_defaults(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: ddpm-digits\ntaps: [mid, enc.1]\nseed: 3\nlevels: null\n")
    answer = call("extract", "--config", file, "--data", "digits", "--seed", "5", "-o", "out", "--print-config")
    assert answer.code == 0, answer.err
    settings = yaml.safe_load(answer.out)
    wanted = {"model": "ddpm-digits", "data": "digits", "taps": ["mid", "enc.1"], "seed": 5, "batch_size": 256}
    assert {name: settings[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--steps", "7", "--levels", "1", "--levels", "2", "--from-scratch"],
        ["train", "digits", "-o", "out", "--layout", "adm", "--flip"],
        ["autoencode", "ddpm-digits", "digits", "-o", "out", "--weighting", "p2"],
        ["extract", "ddpm-digits", "digits", "-o", "out", "--levels", "t=1,2", "--taps", "mid,dec.1"],
        ["probe", "out", "--cv", "5"],
        ["encode", "m", "digits", "-o", "out"],
        ["decode", "m", "codes", "-o", "out"],
        ["reconstruct", "m", "digits", "-o", "out"],
        ["interpolate", "m", "digits", "-o", "out"],
        ["sample", "m", "--num", "3", "-o", "out"],
    ],
)
def test_a_printed_config_gives_the_same_settings(call: Call, words: list[str], tmp_path: Path) -> None:
    printed = call(*words, "--print-config").out
    file = tmp_path / "c.yaml"
    file.write_text(printed)
    again = call(words[0], "--config", file, "--print-config")
    assert again.code == 0, again.err
    assert again.out == printed


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("sed: 1\n", 'unknown key "sed"', 'did you mean "seed"?'),
        ("dry_run: true\n", 'unknown key "dry_run"', "known: "),
        ("- 1\n", "holds no mapping", ""),
        ("a: [\n", "is not YAML", ""),
        ("seed: many\n", "seed = 'many'", ""),
    ],
)
def test_a_wrong_file_is_refused(call: Call, text: str, message: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    answer = call("demo", "--config", file)
    assert answer.code == 2
    assert message in answer.err
    assert hint in answer.err


def test_a_missing_file_is_named(call: Call) -> None:
    answer = call("demo", "--config", "no/such.yaml")
    assert answer.code == 2
    assert "no/such.yaml" in answer.err
