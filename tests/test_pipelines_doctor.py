"""`regatta doctor`: every check on facts, right and wrong, and on folders, ports and servers that are really there."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines import checkup
from pipelines.checkup import GIB, Finding
from pipelines.machine import memory_available, owner_of, processor_quota
from tracking.health import ledger, state_folder
from tracking.health_store import schema_steps, store
from tracking.ledger import Ledger
from tracking.ledger_file import driver_lock

REGATTA = str(Path(sys.executable).with_name("regatta"))
ASKED = ["mlflow<3.18,>=3.17", "optuna<6,>=5", "ruff>=1; extra == 'dev'"]
SOUND = {"mlflow": "3.17.2", "mlflow-skinny": "3.17.2", "optuna": "5.0.0"}


def statuses(found: Iterator[Finding]) -> list[str]:
    return [finding.status for finding in found]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "3 asked"),
        ({"optuna": "4.9"}, "optuna must be <6,>=5, but is 4.9."),
        ({"mlflow": "3.18.0"}, "mlflow must be <3.18,>=3.17, but is 3.18.0."),
        ({"optuna": None}, "optuna must be <6,>=5, but is not installed."),
    ],
)
def test_a_package_that_is_not_as_asked_is_named(changes: dict[str, str | None], expected: str) -> None:
    installed = {name: version for name, version in {**SOUND, **changes}.items() if version is not None}
    (found,) = checkup.packages(ASKED, installed)
    assert found.what.startswith(expected if changes else "2 asked")
    assert found.status == ("fail" if changes else "ok")
    assert bool(found.remedy) == bool(changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"mlflow-skinny": "3.18.0"}, ["fail"]),
        ({"dask": "2026.8.0", "distributed": "2026.7.1"}, ["fail"]),
        ({"pytorch-lightning": "2.6.6", "lightning": "2.6.6"}, []),
        ({"pytorch-lightning": "2.6.6", "lightning": "2.5.0"}, ["warn"]),
        ({"dask-cuda": "26.10"}, ["warn"]),
    ],
)
def test_packages_that_do_not_go_together_are_told(changes: dict[str, str], expected: list[str]) -> None:
    assert statuses(checkup.clashes({**SOUND, **changes})) == expected


def test_python_must_be_as_asked() -> None:
    assert checkup.python("3.11.7", ">=3.11").status == "ok"
    assert checkup.python("3.10.1", ">=3.11").status == "fail"


@pytest.mark.parametrize(
    ("gpus", "cuda", "listed", "expected"),
    [
        ([], None, 0, "ok"),
        ([{"name": "H200", "memory": 140 * GIB}], "12.8", 1, "ok"),
        ([], None, 1, "fail"),
        ([], "12.8", 1, "fail"),
        ([], "12.8", 0, "warn"),
    ],
)
def test_gpus_are_compared_with_torchs_build(gpus: list[Any], cuda: str | None, listed: int, expected: str) -> None:
    assert checkup.accelerators({"torch": "2.13", "cuda": cuda, "gpus": gpus}, listed).status == expected


@pytest.mark.parametrize(("free", "expected"), [(8, "ok"), (2.4, "warn"), (0.9, "fail")])
def test_memory_is_compared_with_what_workers_need(free: float, expected: str) -> None:
    found = checkup.memory(free * GIB, 4)
    assert found.status == expected
    assert ("--cluster.workers 3" in found.remedy) == (expected == "warn")


@pytest.mark.parametrize(("free", "expected"), [(6, "ok"), (2, "warn"), (0.1, "fail")])
def test_disk_space_is_told(free: float, expected: str) -> None:
    assert checkup.disk(free * GIB, Path("/")).status == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, "ok"), (8.0, "ok"), (1.5, "warn")])
def test_a_limit_below_the_cores_is_told(quota: float | None, expected: str) -> None:
    assert checkup.processor(4, quota, 4).status == expected


def test_a_folder_of_the_users_with_our_name_is_told(tmp_path: Path) -> None:
    ours = Path(checkup.__file__).parent.parent
    assert statuses(checkup.shadows(ours, ours)) == statuses(checkup.shadows(tmp_path, ours)) == ["ok"]
    (tmp_path / "models").mkdir()
    assert statuses(checkup.shadows(tmp_path, ours)) == ["warn"]
    assert list(checkup.misplaced({"models": str(ours / "models" / "__init__.py")}, ours)) == []
    assert statuses(checkup.misplaced({"models": str(tmp_path / "models" / "__init__.py")}, ours)) == ["fail"]


def test_workers_are_compared_with_this_machine() -> None:
    found = list(checkup.workers({"a": ([], 0.1), "b": (["worker b must have torch 2."], 0.0), "c": ([], -7.0)}))
    assert [finding.status for finding in found] == ["fail", "warn", "ok"]
    assert found[1].what == "the clock of c is 7.0 s behind."
    assert statuses(checkup.workers({})) == ["fail"]


GROUPS = {
    "of today": ("0::/a/b", {"a/memory.max": "2000", "a/memory.current": "500", "a/b/cpu.max": "150000 100000"}),
    "of the older form": (
        "4:memory:/x\n1:cpu,cpuacct:/x",
        {
            "memory/memory.limit_in_bytes": "2000",
            "memory/memory.usage_in_bytes": "500",
            "cpu/x/cpu.cfs_quota_us": "150000",
            "cpu/x/cpu.cfs_period_us": "100000",
        },
    ),
    "unlimited": ("0::/", {"memory.max": "max", "memory.current": "5", "cpu.max": "max 100000"}),
}


@pytest.mark.parametrize("name", GROUPS)
def test_limits_of_a_container_are_found(name: str, tmp_path: Path) -> None:
    membership, files = GROUPS[name]
    (tmp_path / "cgroup").write_text(membership)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    limited = name != "unlimited"
    assert (memory_available(tmp_path, tmp_path / "cgroup") == 1500) == limited
    assert processor_quota(tmp_path, tmp_path / "cgroup") == (1.5 if limited else None)


def test_who_has_a_port_is_named() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        owner = owner_of(port)
        assert owner is not None and owner.startswith(f"process {os.getpid()} (")
        assert checkup.port(port, "the UI", owner).status == "warn"
    assert owner_of(port) is None
    assert checkup.port(port, "the UI", None).status == "ok"


def test_a_state_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert "takes files, locks and databases" in state_folder(tmp_path)
    assert "made by the first search" in state_folder(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_state_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(ValueError, match=r"must be a folder, but .*/runs is a file\. Remove it, or set REGATTA_HOME"):
        state_folder(tmp_path / "runs")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may write everywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_state_folder_that_cannot_be_written_is_told() -> None:
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))  # Where others may look: pytest's own folders are closed to them.
    try:
        folder.chmod(0o555)
        with (
            as_nobody(),
            pytest.raises(ValueError, match=r"must be writable, but: Permission denied\. Set"),
        ):
            state_folder(folder / "runs")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    with Ledger.open(folder, create=True) as opened:
        opened.ask([{"number": 0, "cell": "a", "index": 0}])
        opened.set_meta("status", "RUNNING")
    return folder


def test_a_ledger_is_read_and_left_as_it_was(study: Path) -> None:
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted(study.iterdir())]
    assert ledger(study) == "mine: 1 trial, its search was killed: the same command goes on"
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted(study.iterdir())] == before


def test_who_searches_a_study_is_named(study: Path) -> None:
    with driver_lock(study), Ledger.open(study, create=False) as opened:
        opened.set_meta("status", "FINISHED")  # now its write-ahead log has something in it
        assert f"running: process {os.getpid()} on {socket.gethostname()}" in ledger(study)
    assert ledger(study) == "mine: 1 trial"


def _garbage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + b"Z" * 9000)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_garbage, _cut, _empty])
def test_a_damaged_ledger_is_told(study: Path, damage: Any) -> None:
    damage(study / "study.db")
    with pytest.raises(ValueError, match=r"the ledger .* cannot be read \(.*\)\. Restore it from a copy"):
        ledger(study)


def test_a_ledger_of_a_later_version_is_told(study: Path) -> None:
    with closing(sqlite3.connect(study / "study.db")) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(ValueError, match=r"must be of version 1 at most, but is of 9\. Update Regatta\."):
        ledger(study)


def mlflow_database(path: Path, version: str) -> str:
    """What the doctor reads of one."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            f"CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('{version}');"
            "CREATE TABLE runs (a)"
        )
    return f"sqlite:///{path}"


def test_the_forms_of_mlflows_database_are_known() -> None:
    steps = schema_steps()
    assert len(steps) > 50
    assert list(steps.values()).count(False) == 1


@pytest.mark.parametrize("older", [True, False])
def test_a_database_of_another_mlflow_is_told_and_never_upgraded(older: bool, tmp_path: Path) -> None:
    version = next(name for name, followed in schema_steps().items() if followed) if older else "fffffffffffe"
    uri = mlflow_database(tmp_path / "mlflow.db", version)
    before = (tmp_path / "mlflow.db").read_bytes()
    remedy = "mlflow db upgrade sqlite:///" if older else "Install the MLflow that wrote it"
    with pytest.raises(ValueError, match=remedy):
        store(uri)
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_database_that_fits_is_read_and_one_that_is_none_is_told(tmp_path: Path) -> None:
    newest = next(name for name, followed in schema_steps().items() if not followed)
    assert store(mlflow_database(tmp_path / "mlflow.db", newest)).endswith("mlflow.db: 0 runs")
    assert store(f"sqlite:///{tmp_path}/none.db").endswith("made by the first search")
    (tmp_path / "text.db").write_text("not a database" * 99)
    with pytest.raises(ValueError, match=r"must be readable, but is not: .*\. Move it away"):
        store(f"sqlite:///{tmp_path}/text.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "text.db"]


class _Mlflow(BaseHTTPRequestHandler):
    """What an MLflow server with a password says."""

    def do_GET(self) -> None:
        known = self.headers["Authorization"] == "Basic bWU6c2VjcmV0"  # me:secret
        pages = {"/health": "OK", "/version": "3.17.2"}
        self.send_response((200 if known else 401) if self.path in pages else 404)
        self.end_headers()
        self.wfile.write(pages.get(self.path, "").encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing among the test's own output."""


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server in a thread."""
    server = HTTPServer(("127.0.0.1", 0), _Mlflow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_is_asked_with_the_credentials_that_mlflow_sends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store(f"http://me:secret@127.0.0.1:{port}") == f"http://127.0.0.1:{port}: MLflow 3.17.2"
    with pytest.raises(ValueError, match=r"must let you in, but answers 401\. Set MLFLOW_TRACKING_USERNAME"):
        store(f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert store(f"http://127.0.0.1:{port}").endswith("MLflow 3.17.2")
    with pytest.raises(ValueError, match=r"but answers 404\. Is it an MLflow server"):
        store(f"http://127.0.0.1:{port}/elsewhere")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://me:secret@127.0.0.1:1", "must answer within 3 s, but does not: .*refused.*Start it"),
        ("postgresql://me:secret@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db must answer within 3 s"),
        ("ftp://me:secret@host", "must begin with http://.*, but is 'ftp://me@host'"),
        ("./mlruns", "must begin with http://"),
        ("http://me:secret@[broken", r"must begin with .*, but is 'http://\[broken'"),
    ],
)
def test_a_store_that_cannot_be_had_is_told_without_its_password(uri: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as told:
        store(uri)
    assert "secret" not in str(told.value)


def doctor(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "REGATTA_HOME": str(home), **environment}
    return subprocess.run([REGATTA, "doctor", *words], capture_output=True, text=True, timeout=120, env=known)


def failed(done: subprocess.CompletedProcess[str]) -> set[str]:
    """What failed; a lack of memory or of disk is this machine's own affair."""
    lines = [line.split() for line in done.stdout.splitlines()[:-1]]
    assert done.stderr == "" and {words[0] for words in lines} <= {"ok", "warn", "fail"}
    assert done.returncode == any(words[0] == "fail" for words in lines)
    return {words[1] for words in lines if words[0] == "fail"} & {"python", "packages", "state", "studies", "tracking"}


@pytest.mark.slow
def test_the_doctor_prints_a_line_each_and_exits_with_1_when_something_failed(study: Path) -> None:
    done = doctor(study.parent)
    assert failed(done) == set()
    assert "ok   studies   mine: 1 trial" in done.stdout
    _garbage(study / "study.db")
    done = doctor(study.parent, MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:1")
    assert failed(done) == {"studies", "tracking"}
    assert "secret" not in done.stdout
    assert sorted(path.name for path in study.iterdir()) == ["study.db"]


@pytest.mark.slow
def test_the_doctor_refuses_an_open_scheduler(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--address", "tcp://10.0.0.5:8786")
    assert done.returncode == 2
    assert done.stderr.startswith("regatta: `--address` must begin with `tls://` beyond this machine")
