"""A real MLflow server behind a door that drops, delays and refuses requests as it is told."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from pipelines.run_ui import free_port

Fate = Literal["pass", "drop", "lose", "slow", "500", "429"]
"""What becomes of a request. drop: it never arrives; lose: it is carried out, but its answer never comes back."""
SLOW = 5.0
"""Seconds that a slow request takes."""


class Door(ThreadingHTTPServer):
    """Passes requests on to the server behind it, as far as `fate` says; 0 is the first request's number."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.behind = behind
        self.fate: Callable[[int], Fate] = lambda number: "pass"
        self.requests = 0
        self.counting = threading.Lock()

    @property
    def uri(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def let(self, fate: Callable[[int], Fate]) -> None:
        """Another fate from here on, with requests counted from 0."""
        with self.counting:
            self.fate, self.requests = fate, 0

    def next_fate(self) -> Fate:
        """What becomes of the request that has just come."""
        with self.counting:
            self.requests += 1
            return self.fate(self.requests - 1)


class _Request(BaseHTTPRequestHandler):
    server: Door
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        fate, body = self.server.next_fate(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fate == "slow":
            time.sleep(SLOW)
        if fate in ("500", "429"):
            self.answer(int(fate), b"{}")
            return
        self.close_connection = fate in ("drop", "lose")
        if fate != "drop":
            status, content = self.passed_on(body)
            if fate != "lose":
                self.answer(status, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def passed_on(self, body: bytes) -> tuple[int, bytes]:
        headers = {name: text for name, text in self.headers.items() if name not in ("Host", "Accept-Encoding")}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_server(folder: Path) -> Iterator[Door]:
    """A server of its own with an empty database, and the door before it."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        with Door(port) as door:
            serving = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05})
            serving.start()
            yield door
            door.shutdown()
            serving.join()
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 90
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the MLflow server of this test does not answer")
