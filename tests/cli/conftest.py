"""Commands called in this process, as a person would type them."""

from pathlib import Path

import pytest

from diffrep.cli import main
from tests.cli.calls import Answer, Call


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `diffrep WORDS` and look at what it said."""

    def run(*words: str | Path) -> Answer:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def autoencoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved autoencoder on ddpm-digits, untrained: enough for commands to run."""
    import diffrep as dr

    model = dr.ShiftAutoencoder.fresh(dr.load("ddpm-digits"), code_dim=8)
    return Path(dr.save(model, tmp_path_factory.mktemp("models") / "autoencoder"))
