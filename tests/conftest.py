"""What every test stands on: its own state folder, one thread, no network, a skip where the machine lacks something."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

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


@pytest.fixture
def _no_store_left_behind() -> Iterator[None]:
    """Blame the test that leaves its MLflow store to all that follow in this process, not those that then fail."""
    yield
    left = os.environ.pop("MLFLOW_TRACKING_URI", None)
    assert left is None, f"this test has left MLFLOW_TRACKING_URI={left} in its process"


# `monkeypatch` after the first one, so that what it has set is gone when that looks.
@pytest.fixture(autouse=True)
def regatta_home(_no_store_left_behind: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of this test alone, in place of `runs/`; not made yet."""
    home = tmp_path / "regatta_home"
    monkeypatch.setenv("REGATTA_HOME", str(home))
    return home


# Several processes side by side: see `side_by_side.py`. Files are claimed whole, since their tests share fixtures.

CLAIMED = pytest.StashKey[dict[str, bool]]()
"""Whether this process or another one has come first, by what can be claimed."""
COMPANY = pytest.StashKey[TextIO]()
"""Locked by every process that runs tests; by itself alone, once tests come that bear no company."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of a process among others."""
    parser.addoption("--claims", type=Path, help="a folder in which processes side by side claim files of tests")


def pytest_configure(config: pytest.Config) -> None:
    """Join the others, from the beginning on."""
    config.stash[CLAIMED] = {}
    if config.getoption("claims"):
        company = config.stash[COMPANY] = (config.getoption("claims") / "company").open("w")
        fcntl.flock(company, fcntl.LOCK_SH)
        # Closed alone, it would stay locked for as long as a process that was forked meanwhile.
        config.add_cleanup(lambda: fcntl.flock(company, fcntl.LOCK_UN))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with many tests first, so that the processes end at about the same time; at last what bears no company."""
    if config.getoption("claims"):
        sizes = Counter(map(claim_of, items))
        items.sort(key=lambda item: (claim_of(item) == "alone", -sizes[claim_of(item)]))


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Pass over a test that another process has claimed."""
    claims, claimed, name = item.config.getoption("claims"), item.config.stash[CLAIMED], claim_of(item)
    if claims is None:
        return None
    if name not in claimed:
        claimed[name] = claim(claims / name)
        if name == "alone" and claimed[name]:
            fcntl.flock(item.config.stash[COMPANY], fcntl.LOCK_EX)
    return None if claimed[name] else True


def claim_of(item: pytest.Item) -> str:
    """What a process claims with a test: all of its file, or all tests that bear no company."""
    return "alone" if item.get_closest_marker("alone") else item.path.name


def claim(path: Path) -> bool:
    """Whether nobody has claimed it before."""
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True


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
