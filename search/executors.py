"""Where segments run: what a race relies on, what else is asked there, and what runs them in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from models.segment import Segment, SegmentResult
from search.work import TRAIN, failed, find, run_segments, set_stop


class Runner(Protocol):
    """Runs segments, in whatever order, and hands back one result for each.

    Guarantees: `submit` does not block for training; every segment submitted comes back from `completed` exactly once,
    a lost worker or an exception as a FAILED result; after `request_stop`, running segments come back PAUSED soon.
    """

    @property
    def capacity(self) -> int:
        """Tasks worth having in flight."""
        ...

    @property
    def tasks(self) -> int:
        """Tasks in flight, each of one segment or several."""
        ...

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""
        ...

    @property
    def in_flight(self) -> int:
        """Segments submitted and not yet handed back."""
        ...

    def submit(self, segments: Sequence[Segment]) -> None:
        """Hand out segments that train together, one task for all of them."""
        ...

    def completed(self, timeout: float) -> list[SegmentResult]:
        """What has come back; waits up to `timeout` seconds for the first."""
        ...

    def request_stop(self) -> None:
        """Ask running segments to end at their next step."""
        ...

    def lost(self) -> str | None:
        """Why nothing will ever come back any more, if that is so."""
        ...


class Executor(Runner, Protocol):
    """A `Runner` that also runs other functions where it runs segments."""

    @property
    def share(self) -> int | None:
        """Bytes of its machine's memory that whoever runs a segment may take; None: as many as there are."""
        ...

    def call(self, function: str, payload: Any) -> Any:
        """Run a function, given by import path, once where segments run, and wait for its result."""
        ...

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        """The same for each of several payloads, at the same time as far as there are workers."""
        ...


class SerialExecutor:
    """Runs segments one after another in this process: for debugging, and for tests of everything around it."""

    def __init__(self, function: str = TRAIN) -> None:
        self._function = function
        self._waiting: deque[Sequence[Segment]] = deque()
        set_stop(False)

    @property
    def capacity(self) -> int:
        """One: nothing waits while something runs."""
        return 1

    @property
    def slots(self) -> int:
        """This process."""
        return 1

    @property
    def in_flight(self) -> int:
        """Segments submitted and not yet handed back."""
        return sum(len(segments) for segments in self._waiting)

    @property
    def share(self) -> None:
        """This process is not confined."""
        return None

    def submit(self, segments: Sequence[Segment]) -> None:
        """Keep them until `completed` is called."""
        self._waiting.append(segments)

    def completed(self, timeout: float) -> list[SegmentResult]:
        """Train the oldest ones now."""
        if not self._waiting:
            return []
        segments = self._waiting.popleft()
        payloads = [segment.to_json() for segment in segments]
        try:
            return [SegmentResult.from_json(result) for result in run_segments(self._function, payloads)]
        except Exception as error:  # As on a worker: what the function did not turn into a value itself.
            return [failed(segment, f"lost_worker: {type(error).__name__}: {error}") for segment in segments]

    @property
    def tasks(self) -> int:
        """Calls of `submit` not yet answered."""
        return len(self._waiting)

    def call(self, function: str, payload: Any) -> Any:
        """Call it here."""
        return find(function)(payload)

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        """One after the other."""
        return [self.call(function, payload) for payload in payloads]

    def request_stop(self) -> None:
        """Whatever runs next ends at its first step."""
        set_stop(True)

    def lost(self) -> str | None:
        """Never: this process is there."""
        return None
