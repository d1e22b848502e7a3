"""`Sync` in a process of its own: MLflow's import and its requests would hold Python's lock where a search decides."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tracking.sync import FAREWELL, Sync

LOOK = 0.2
"""Seconds between two looks of the process at what has changed."""
SLACK = 5.0
"""Seconds that an answer may be late: where the machine is full, both sides wait for their turn."""

logger = logging.getLogger(__name__)


class SyncProcess:
    """A `Sync` elsewhere, told by lines of JSON. Like that one it never raises into, nor waits for, the search.

    The process leaves the terminal's signals to the search, and ends with it, however that ends.
    """

    def __init__(self, folder: Path, *, uri: str | None, home: Path, system_metrics: bool = False) -> None:
        # By its standard input: a URI may hold a password, and everyone may read a command line.
        self._about = {"folder": str(folder), "uri": uri, "home": str(home), "system_metrics": system_metrics}
        self._process: subprocess.Popen[str] | None = None
        self._listener = threading.Thread(target=self._listen, name="regatta-sync", daemon=True)
        self._changed = threading.Condition()
        self._state: dict[str, Any] = {"pending": 0, "evaluations": 0, "late": False, "problem": None}
        self._drains = 0
        self._drained: dict[int, bool] = {}
        self._begun = self._closing = False

    def prepare(self) -> None:
        """Import MLflow while the workers start, and touch nothing yet; returns at once."""
        # -P: a folder of the user's called `tracking` must not hide ours.
        command = [sys.executable, "-P", "-m", "tracking.sync_process"]
        self._process = subprocess.Popen(
            command,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._tell(self._about)
        self._listener.start()

    def start(self) -> None:
        """Begin; returns at once."""
        if self._process is None:
            self.prepare()
        self._begun = True
        self._tell({"begin": True})

    def pending(self) -> int:
        """How many trials MLflow lacks something of, as last seen."""
        return int(self._state["pending"])

    def evaluations(self) -> int:
        """How many evaluations it lacks, as last seen."""
        return int(self._state["evaluations"])

    def is_late(self) -> bool:
        """Whether MLflow has lacked something for long: it is away, or slower than the search."""
        return bool(self._state["late"])

    def problem(self) -> str | None:
        """Why MLflow is behind, in one line; None while all is well."""
        problem: str | None = self._state["problem"]
        return problem

    def drain(self, timeout: float = math.inf, *, away: float = math.inf) -> bool:
        """Wait until MLflow has everything that is in the ledger now; false if it has not after `timeout` seconds.

        False too once the store has been away for `away` seconds of them: it will hardly come just then. And at once
        where it has never begun, because the search failed before.
        """
        if not self._begun:
            return False
        self._drains += 1
        number = self._drains
        self._tell({"drain": number, "timeout": timeout, "away": away})
        with self._changed:
            self._changed.wait_for(
                lambda: number in self._drained or not self._is_alive(),
                None if math.isinf(timeout) else timeout + SLACK,
            )
            return self._drained.get(number, False)

    def close(self) -> None:
        """Stop after the request under way. What is left in the ledger is sent next time."""
        self._closing = True
        if self._process is None:
            return
        self._tell({"close": True})
        try:
            self._process.wait(2 * FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join()
        with suppress(OSError):
            self._stdin.close()

    def _is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def _stdin(self) -> IO[str]:
        assert self._process is not None and self._process.stdin is not None, "it was started, with a pipe"
        return self._process.stdin

    def _tell(self, words: dict[str, Any]) -> None:
        """One line; that nobody reads it any more is told by `_listen`."""
        with suppress(OSError, ValueError):
            self._stdin.write(json.dumps(words) + "\n")
            self._stdin.flush()

    def _listen(self) -> None:
        """Take in every line, and at last that there will be no other one."""
        assert self._process is not None and self._process.stdout is not None, "it was started, with a pipe"
        with self._process.stdout as lines:
            for line in lines:
                self._take(json.loads(line))
        code = self._process.wait()
        if not self._closing:
            self._take({"problem": f"the process that writes to MLflow has ended (exit code {code})"})

    def _take(self, said: dict[str, Any]) -> None:
        with self._changed:
            before = self.problem()
            if "drained" in said:
                self._drained[said.pop("drained")] = said.pop("whole")
            self._state |= said
            self._changed.notify_all()
        if before is None and (problem := self.problem()) is not None:
            logger.warning("MLflow is behind, the search goes on: %s", problem)


# -- in the process


def main() -> None:
    """Do what the lines of the standard input say, until one of them says that it is over."""
    with _channel() as say:
        about = json.loads(sys.stdin.readline())
        sync = Sync(
            Path(about["folder"]),
            uri=about["uri"],
            home=Path(about["home"]),
            system_metrics=about["system_metrics"],
        )
        sync.prepare()
        threading.Thread(target=_report, args=[sync, say], name="regatta-report", daemon=True).start()
        for line in sys.stdin:
            words = json.loads(line)
            if "begin" in words:
                sync.start()
            elif "close" in words:
                sync.close()
                return
            else:  # In a thread, so that the end is seen meanwhile.
                threading.Thread(target=_drain, args=[sync, say, words], name="regatta-drain", daemon=True).start()
    # The search was killed. Another one may have its ledger already, and writes the same.
    os._exit(1)


@contextmanager
def _channel() -> Iterator[Callable[[dict[str, Any]], None]]:
    """What writes lines to where the standard output went, which nobody else reaches any more: libraries print."""
    lock = threading.Lock()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as lines:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def say(words: dict[str, Any]) -> None:
            with lock, suppress(OSError):
                lines.write(json.dumps(words) + "\n")
                lines.flush()

        yield say


def _state(sync: Sync) -> dict[str, Any]:
    return {
        "pending": sync.pending(),
        "evaluations": sync.evaluations(),
        "late": sync.is_late(),
        "problem": sync.problem(),
    }


def _report(sync: Sync, say: Callable[[dict[str, Any]], None]) -> None:
    """Whatever changes."""
    before: dict[str, Any] = {}
    while True:
        if (now := _state(sync)) != before:
            say(now)
            before = now
        time.sleep(LOOK)


def _drain(sync: Sync, say: Callable[[dict[str, Any]], None], words: dict[str, Any]) -> None:
    timeout = None if math.isinf(words["timeout"]) else words["timeout"]
    whole = sync.drain(timeout, away=words["away"])
    say({"drained": words["drain"], "whole": whole, **_state(sync)})


if __name__ == "__main__":
    main()
