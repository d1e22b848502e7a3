"""A real MLflow server that is killed, frozen and started again on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from pipelines.run_ui import free_port

PATIENCE = 120.0
"""Seconds to wait for its first answer."""


class Server:
    """`mlflow server` on SQLite, in a process group of its own; in use as a context."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.database, self._folder, self.port = folder / "server.db", folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self.start()
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Begin, unless it runs, with the database as it was left; does not wait for it to answer."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Return as soon as it answers."""
        end = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < end, f"the MLflow server does not answer, see {self._folder / 'server.log'}"
            time.sleep(0.2)

    def send(self, which: signal.Signals) -> None:
        """A signal to it and to the processes that it has started."""
        if self._process is not None:
            os.killpg(self._process.pid, which)

    def kill(self) -> None:
        """End it at once; killing it twice is fine."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except OSError:
            return False
        return True
