"""`regatta ui`: the MLflow UI over the local store, on 127.0.0.1."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import FrameType

from rich.console import Console

from tracking.client import SQLITE
from tracking.health_store import store as looked_at
from tracking.place import home
from tracking.view import VIEW_KEY

HOST = "127.0.0.1"
START_SECONDS = 60


def main(port: int) -> int:
    """Serve the UI until it is interrupted; returns the server's exit code.

    Raises:
        ValueError: if there is nothing to show, if the store cannot be read, or if it is somewhere else.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        raise ValueError(f"`MLFLOW_TRACKING_URI` is {uri!r}: results are there, not here. Open that, or unset it.")
    store = home() / "mlflow.db"
    if not store.exists():
        raise ValueError(f"there must be results in {store}, but there are none yet. Run `regatta search` first.")
    # Of a database that it cannot use, the server says so in its log at most, and may try for minutes.
    looked_at(f"{SQLITE}{store}")
    chosen = port if is_free(port) else 0
    if not chosen:
        chosen = free_port()
        Console().print(f"port {port} is taken, so the UI is on {chosen}", highlight=False)
    # Without its job runner the server is up in half the time, with 2 processes instead of 10.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    signal.signal(signal.SIGTERM, _interrupt)
    log = home() / "mlflow-server.log"
    with log.open("w") as output:
        server = subprocess.Popen(serving(store, chosen), env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            answers = wait_for(chosen, server)
            if server.poll() is None:
                silent = f"the MLflow server does not answer after {START_SECONDS} s; {log} says why"
                found = f"MLflow UI: http://{HOST}:{chosen}{page(store)}" if answers else silent
                Console().print(found, highlight=False, soft_wrap=True)
                Console().print("Ctrl-C ends it", style="dim")
            code = server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            server.wait()
    if code:
        Console().print(
            f"the MLflow server ended with exit code {code}; {log} says why", highlight=False, soft_wrap=True
        )
    return code


def serving(store: Path, port: int) -> list[str]:
    """The command of a server over a database and the artifacts beside it, for this machine alone."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return [*command, "--backend-store-uri", f"{SQLITE}{store}", "--artifacts-destination", f"{home() / 'mlartifacts'}"]


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End as on Ctrl-C, so that the server does not outlive this process."""
    raise KeyboardInterrupt


def page(store: Path) -> str:
    """The page of the latest search's runs, with the columns and the order that it chose; the front page if unknown."""
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as database:
        latest = database.execute("SELECT experiment_id FROM runs ORDER BY start_time DESC LIMIT 1").fetchone()
    return f"/#/experiments/{latest[0]}/runs?viewStateShareKey={VIEW_KEY}" if latest else ""


def is_free(port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(port: int, server: subprocess.Popen[bytes]) -> bool:
    """Whether the server answers before it ends or time runs out."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.2)
    return False
