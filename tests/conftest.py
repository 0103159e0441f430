"""What every test shares: one device, no network, a cache of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: one thread per worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def device() -> str:
    """Where tests put models and tensors: `DEVICE=cuda make test` runs them on a GPU."""
    return os.environ.get("DEVICE", "cpu")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what diffrep caches out of the user's folder, and one test run apart from the next."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("DIFFREP_CACHE")
    os.environ["DIFFREP_CACHE"] = str(folder)
    yield folder
    os.environ.pop("DIFFREP_CACHE") if before is None else os.environ.update(DIFFREP_CACHE=before)
