"""What every test stands on: its own state folder, one thread, no network, a skip where the machine lacks something."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before the first import of torch and of Hugging Face's libraries, which read these once; child processes inherit them.
# One thread: with more, tests on a busy machine slow each other down, and float sums depend on how work was split.
os.environ.update(
    {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
)


@pytest.fixture(scope="session", autouse=True)
def _no_state_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep wider fixtures too out of the user's `runs/` and MLflow server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGATTA_HOME", str(tmp_path_factory.mktemp("regatta_home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(autouse=True)
def regatta_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of this test alone, in place of `runs/`; not made yet."""
    home = tmp_path / "regatta_home"
    monkeypatch.setenv("REGATTA_HOME", str(home))
    return home


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, and say what it lacks."""
    needs = {
        "gpu": (shutil.which("nvidia-smi"), "no NVIDIA GPU"),
        "browser": (find_browser(), "no Chromium or Chrome on the PATH"),
        "postgres": (find_postgres(), "no PostgreSQL server (`initdb`) installed"),
    }
    for marker, (found, reason) in needs.items():
        if not found and item.get_closest_marker(marker):
            pytest.skip(reason)


def find_browser() -> str | None:
    """Path of a Chromium-like browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def find_postgres() -> str | None:
    """Path of PostgreSQL's `initdb`, which Debian keeps off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return shutil.which("initdb") or next(map(str, reversed(debian)), None)
