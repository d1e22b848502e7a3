"""Which faults a soak causes and when, and how: real signals to real processes, and a disk that is really full."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil
from mlflow_server import Server

Kind = Literal["driver", "worker", "server", "frozen worker", "frozen driver", "frozen server", "Ctrl-C", "full disk"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WEIGHTS = (9, 11, 6, 3, 2, 2, 5, 3)
"""How often each kind comes, of about forty faults."""
LONGEST = 4.0
"""Seconds that a process stays frozen, a server away or a disk full, at most."""
SMALL = 1 << 30
"""A file system larger than this is not filled up."""
LEAST = 1 << 16
"""Bytes beyond which no file may grow in place of that: what is printed goes to a file too, and stays below it."""
FILLING = "full"
"""Name of the file that fills a file system."""

Undo = Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One event of a soak."""

    kind: Kind
    after: int
    """It comes once so many trials have ended."""
    delay: float
    """Seconds after that, or after the start of the command if that is later."""
    lasts: float
    """Seconds until it is undone, where it can be."""
    which: int
    """Chooses among the workers."""


def plan(seed: int, *, kills: int, trials: int) -> list[Fault]:
    """So many faults over the course of a search, its start and its end included; every kind if there are enough."""
    luck = random.Random(seed)
    kinds = [*KINDS, *luck.choices(KINDS, WEIGHTS, k=kills)][:kills]
    luck.shuffle(kinds)
    return [
        Fault(
            kind=kind,
            after=after,
            delay=luck.uniform(0, 2) if luck.random() < 0.7 else luck.uniform(2, 12),
            lasts=luck.uniform(1, LONGEST),
            which=luck.randrange(1000),
        )
        for kind, after in zip(kinds, sorted(luck.randint(0, trials) for _ in kinds), strict=True)
    ]


def cause(fault: Fault, *, driver: psutil.Popen, workers: Sequence[psutil.Process], server: Server, home: Path) -> Undo:
    """Cause a fault, and return what undoes it.

    Raises:
        psutil.NoSuchProcess: it came too late.
    """
    deeds: dict[Kind, Callable[[], Undo | None]] = {
        "driver": driver.kill,
        "worker": lambda: one_of(workers, fault).kill(),
        "server": lambda: killed(server),
        "frozen worker": lambda: frozen(one_of(workers, fault)),
        "frozen driver": lambda: frozen(driver),
        "frozen server": lambda: frozen_server(server),
        "Ctrl-C": lambda: os.killpg(driver.pid, signal.SIGINT),
        "full disk": lambda: full(home, [driver, *workers]),
    }
    return deeds[fault.kind]() or nothing


def nothing() -> None:
    """What is done to undo what cannot be undone: the next start has to do with it."""


def one_of(workers: Sequence[psutil.Process], fault: Fault) -> psutil.Process:
    """The worker that a fault hits."""
    return workers[fault.which % len(workers)]


def killed(server: Server) -> Undo:
    """End the server at once; it is started again on its port."""
    server.kill()
    return server.start


def frozen_server(server: Server) -> Undo:
    """Stop the server, which then takes connections and answers nothing."""
    server.send(signal.SIGSTOP)
    return lambda: server.send(signal.SIGCONT)


def needs_worker(fault: Fault) -> bool:
    """Whether it can only come while there is a worker."""
    return fault.kind in ("worker", "frozen worker")


def frozen(process: psutil.Process) -> Undo:
    """Stop a process until it is told to go on."""
    process.send_signal(signal.SIGSTOP)

    def thaw() -> None:
        if process.is_running():
            process.send_signal(signal.SIGCONT)

    return thaw


def full(home: Path, processes: Sequence[psutil.Process]) -> Undo:
    """Leave no room on the file system of `home` if it is a small one of its own, else let no file grow."""
    whole = os.statvfs(home)
    if os.path.ismount(home) and whole.f_blocks * whole.f_frsize <= SMALL:
        return filled(home / FILLING)
    for process in processes:
        process.rlimit(resource.RLIMIT_FSIZE, (LEAST, resource.RLIM_INFINITY))

    def lift() -> None:
        for process in processes:
            if process.is_running():
                process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return lift


def filled(file: Path) -> Undo:
    """Write a file until nothing goes in any more."""
    with file.open("wb", buffering=0) as sink:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    sink.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return lambda: file.unlink(missing_ok=True)
