"""One search from its start to its end, by the same command again and again, through whatever faults are planned."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from mlflow_server import Server
from soak_faults import Fault, Undo, cause, needs_worker

from tracking.ledger_file import FILE

REGATTA = str(Path(sys.executable).with_name("regatta"))
HERE = Path(__file__).resolve().parent
MARK = "REGATTA_SOAK"
"""A variable of the environment by which every process that a search has started is found."""
GRACE = 10.0
"""Seconds that processes have to end after their driver."""
STUCK = 240.0
"""Seconds without any progress after which a search is said to hang."""
TICK = 0.2


@dataclass(slots=True)
class Course:
    """What happens on the way, and what is left."""

    command: Sequence[str]
    home: Path
    logs: Path
    server: Server
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    driver: psutil.Popen | None = None
    starts: int = 0
    began: float = 0.0
    struck: float = 0.0
    """When the last start and the last fault were."""
    ended: int = 0
    """Trials that had ended when the ledger was last read."""
    caused: list[Fault] = field(default_factory=list)
    before: int = 0
    """Faults before the last start."""
    undo: list[tuple[float, Undo]] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)
    """On which anything of the search has listened."""
    missed: list[Fault] = field(default_factory=list)
    """Faults that were to hit a worker when there was no training left, and so no worker any more."""
    all_ended: bool = False
    """Whether the command has ended by itself: what it does when it starts again, it does without workers."""
    complaints: list[str] = field(default_factory=list)
    """What should not have happened."""

    def run(self, faults: Sequence[Fault]) -> float:
        """Start the command again after every end until all faults have come and it ends by itself; returns seconds."""
        begun, due = time.monotonic(), deque(faults)
        seen, moved = (0, 0, 0), begun
        try:
            while not self.is_over(due):
                while self.all_ended and due and needs_worker(due[0]):
                    self.missed.append(due.popleft())
                self.undo_some()
                if self.driver is None and not self.undo:
                    self.start()
                self.ports |= set(self.listening())
                done = self.finished()
                if due and self.driver is not None and self.is_due(due, done) and self.strike(due[0]):
                    due.popleft()
                now = (done, len(self.caused), self.starts)
                if now != seen:
                    seen, moved = now, time.monotonic()
                if time.monotonic() - moved > STUCK:
                    self.complaints.append(f"no progress in {STUCK:.0f} s, see {self.log}")
                    break
                time.sleep(TICK)
            return time.monotonic() - begun
        finally:
            self.end()

    def is_over(self, due: Sequence[Fault]) -> bool:
        """Whether the command has ended by itself, with nothing more to come; looks how it ended, if it did."""
        if self.driver is None or self.driver.poll() is None:
            return False
        code, self.driver = self.driver.returncode, None
        told = self.log.read_text(errors="replace")
        # Of this start: a driver that was told to stop may be frozen, or wait for MLflow, through the faults after it.
        expected = {0} | {
            {"driver": -9, "Ctrl-C": 130, "full disk": 1}.get(fault.kind, 0) for fault in self.caused[self.before :]
        }
        expected |= {1} if "A worker died while it started" in told else set()
        if code not in expected or "Traceback" in told:
            self.complaints.append(f"start {self.starts} ended with {code}, see {self.log}")
        self.all_ended = self.all_ended or code == 0
        return code == 0 and not due

    @property
    def log(self) -> Path:
        """What the last start has said."""
        return self.logs / f"{self.starts:03}.log"

    def start(self) -> None:
        """The same command once more, in a process group of its own, as a shell starts it."""
        self.starts += 1
        self.before = len(self.caused)
        self.began = time.monotonic()
        with self.log.open("w") as log:
            self.driver = psutil.Popen(
                [REGATTA, *self.command],
                cwd=HERE,
                env={**os.environ, "REGATTA_HOME": str(self.home), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finished(self) -> int:
        """How many trials have ended."""
        for path in self.home.glob(f"*/{FILE}"):
            with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path)) as connection:
                statement = "SELECT count(*) FROM trials WHERE status != 'RUNNING'"
                self.ended = max(self.ended, int(connection.execute(statement).fetchone()[0]))
        return self.ended

    def is_due(self, due: Sequence[Fault], done: int) -> bool:
        """Whether it is time for the first: after its delay, or at once where the next one is late already."""
        fault, *others = due
        late = bool(others) and done >= others[0].after
        return done >= fault.after and (late or time.monotonic() - max(self.began, self.struck) >= fault.delay)

    def strike(self, fault: Fault) -> bool:
        """Cause a fault, unless what it is to hit is not there."""
        assert self.driver is not None
        try:
            workers = list(self.workers())
            if needs_worker(fault) and not workers:
                return False
            undo = cause(fault, driver=self.driver, workers=workers, server=self.server, home=self.home)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False
        self.caused.append(fault)
        self.struck = time.monotonic()
        self.undo.append((self.struck + fault.lasts, undo))
        print(f"  {fault.kind} after {fault.after} trials, start {self.starts}", flush=True)
        return True

    def undo_some(self) -> None:
        """Undo what has lasted long enough."""
        late = [undo for end, undo in self.undo if end <= time.monotonic()]
        self.undo = [(end, undo) for end, undo in self.undo if end > time.monotonic()]
        for undo in late:
            undo()

    def workers(self) -> Iterator[psutil.Process]:
        """The processes in which trials train."""
        assert self.driver is not None
        for child in self.driver.children():
            with suppress(psutil.NoSuchProcess):
                if any("forkserver" in word for word in child.cmdline()):
                    yield from child.children()

    def family(self) -> Iterator[psutil.Process]:
        """Every process that any start of the command has left or still has."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def listening(self) -> Iterator[int]:
        """Ports on which the driver and its children listen now."""
        if self.driver is None:
            return
        try:
            processes = [self.driver, *self.driver.children(recursive=True)]
            for process in processes:
                yield from (c.laddr.port for c in process.net_connections() if c.status == psutil.CONN_LISTEN)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return

    def end(self) -> None:
        """Undo everything, and leave nothing running if it was cut short."""
        for _, undo in self.undo:
            undo()
        self.undo = []
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()

    def left_over(self) -> list[str]:
        """Processes that are still there some seconds after the end, and ports that nobody else has taken since."""
        processes = psutil.wait_procs(list(self.family()), timeout=GRACE)[1]
        left = [f"process {process.pid} is left over: {' '.join(process.cmdline())[:80]}" for process in processes]
        mine = {None, *(process.pid for process in processes)}
        sockets = [c for c in psutil.net_connections() if c.status == psutil.CONN_LISTEN and c.pid in mine]
        return [*left, *(f"port {c.laddr.port} is still open" for c in sockets if c.laddr.port in self.ports)]
