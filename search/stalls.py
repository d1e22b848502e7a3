"""The watch over a training that makes no progress: its stacks are written down, and its worker process is ended."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from models.pulse import signs

FACTOR = 10.0
"""A training may be silent for so many times its own longest silence before: what is slow is not what hangs."""
TICK = 0.5
"""Seconds between two looks at a training."""
STACKS = "stacks"
"""The folder of what processes were doing when they were ended, beside that of the checkpoints."""
EXIT_CODE = 75
"""Of a worker process that was ended for its silence (EX_TEMPFAIL of sysexits.h)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """A training that gave no sign of life for too long."""

    seconds: float
    """How long, as far as this process was running meanwhile."""
    where: str
    """Function, file and line at which the training stands."""
    stacks: str
    """The file with what every thread of the process was doing; empty if it cannot be written."""


@dataclass(slots=True)
class Silence:
    """How long a training has given no sign of life, and how long is too long. It counts in looks, not by the clock.

    Of the time between two looks, at most two ticks count: a process that was stopped or starved was not silent.
    """

    least: float
    """Seconds of silence that any training may take."""
    seconds: float = 0.0
    longest: float = 0.0
    seen: int = field(default=-1)

    def look(self, signs: int, elapsed: float) -> bool:
        """Whether it is silent for too long, after so many signs of life and seconds since the last look."""
        if signs != self.seen:
            self.seen, self.longest, self.seconds = signs, max(self.longest, self.seconds), 0.0
        else:
            self.seconds += min(elapsed, 2 * TICK)
        return self.seconds > max(self.least, FACTOR * self.longest)


@contextmanager
def watched(least: float | None, *, folder: str, name: str, end: Callable[[Stall], None]) -> Iterator[None]:
    """Watch over the training in this block and thread.

    Args:
        least: seconds of silence that any training may take; None: as many as it likes.
        folder: of its checkpoints; its stacks are written beside, or with temporary files if that is a URL.
        name: of the file for them.
        end: called with what was found; it does not return.
    """
    if least is None:
        yield
        return
    over, thread = threading.Event(), threading.get_ident()

    def watch() -> None:
        silence, before = Silence(least), time.monotonic()
        while not over.wait(TICK):
            now = time.monotonic()
            if silence.look(signs(), now - before) and not over.is_set():
                end(Stall(seconds=silence.seconds, where=_where(thread), stacks=_write_stacks(folder, name)))
            before = now

    threading.Thread(target=watch, name="regatta-stalls", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _where(thread: int) -> str:
    frame = sys._current_frames()[thread]
    code = frame.f_code
    return f"{code.co_name}, {code.co_filename} line {frame.f_lineno}"


def _write_stacks(folder: str, name: str) -> str:
    """Write what every thread is doing, innermost call last; returns the file, or nothing if there can be none."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [f"{socket.gethostname()}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n"]
    for ident, frame in sys._current_frames().items():
        parts.append(f"\n{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}")
    path = (Path(tempfile.gettempdir()) if "://" in folder else Path(folder).with_name(STACKS)) / name
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(parts), encoding="utf-8")
        return str(path)
    return ""
