"""The process that workers are forked from: it imports torch and Lightning once, while the driver is still starting."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker

from search.resources import gpus

PRELOAD = "search.preload"
"""Imports what every worker needs and nobody's own code can change: 3 to 5 s."""
ENVIRONMENT: Mapping[str, str] = {
    # Of a worker's threads its setup decides; these are what numpy's libraries start of their own.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Large pages for what torch allocates, where glibc can ask for them.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""What must be there before a worker's process starts, unless the user has set it otherwise."""
SAFE_PATH, OURS = "PYTHONSAFEPATH", "regatta"
"""Keeps a folder of the user's called `torch` from being imported here; the value says that nobody else has set it."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""
TERMINAL = {signal.SIGINT, signal.SIGHUP} if sys.platform != "win32" else {signal.SIGINT}
"""Signals that a terminal sends to all processes: what becomes of the workers, the driver decides."""


def method() -> str:
    """How workers start. A fork would take over what CUDA's driver keeps, so with GPUs each imports all by itself."""
    return "forkserver" if sys.platform == "linux" and not gpus() else "spawn"


def start() -> None:
    """Start the process and return at once; do nothing where there is one, or where workers are not forked."""
    if method() != "forkserver":
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOAD])
    # First: it unblocks the signals when it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL)
    try:
        with _environment():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    """It would end by itself, but in the midst of its imports only after them, and otherwise in a second."""
    pid = getattr(forkserver, "_forkserver")._forkserver_pid  # noqa: B009 (unknown to typeshed)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def settle() -> None:
    """In a worker: let a DataLoader start its processes as in a script of the user's, not as the worker was started.

    One that was forked also ends with the process that it is forked from. With that goes what the driver knows of it:
    another worker takes its place, and this one must not go on.
    """
    # Forked from the process that workers are forked from, they would outlive their worker.
    forks = sys.platform == "linux" and sys.version_info < (3, 14)
    multiprocessing.set_start_method("fork" if forks else "spawn", force=True)
    if forkserver.get_inherited_fds() is None:
        return
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _environment() -> Iterator[None]:
    """What the process takes over, for as long as it starts."""
    before = dict(os.environ)
    os.environ.update({**ENVIRONMENT, SAFE_PATH: OURS, **before})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
