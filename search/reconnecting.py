"""An executor that waits for a lost scheduler, and then hands out again what was under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from models.segment import Segment, SegmentResult
from search.cluster import connected
from search.cluster_config import ClusterConfig
from search.dask_executor import DaskExecutor
from search.executors import Executor
from search.failure import ClusterAbsent, SearchFailed
from search.work import untouched

ATTEMPT_SECONDS = 2.0
"""How long one attempt to find the scheduler again may take; Ctrl-C takes effect after it."""
WAIT = 0.25
"""Seconds between two attempts that are answered at once."""


class ReconnectingExecutor:
    """Hands all on to an executor on a scheduler, and to another one when the first has lost its connection.

    Until there is one, nothing comes back; then everything that was under way is submitted again, from the checkpoints
    that it began with.
    """

    def __init__(
        self,
        first: DaskExecutor,
        connect: Callable[[], AbstractContextManager[DaskExecutor]],
        *,
        seconds: float,
        tell: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> None:
        """`connect` raises ClusterAbsent while there is no scheduler; `seconds`: for how long it is tried."""
        self._executor: DaskExecutor | None = first
        self._connect, self._seconds, self._tell, self._stopping = connect, seconds, tell, stopping
        self._connection = ExitStack()
        self._under_way: list[Sequence[Segment]] = []
        self._capacity, self._slots = first.capacity, first.slots
        self._lost_at = 0.0
        self._stopped = False

    @property
    def capacity(self) -> int:
        """That of the workers there are, or were."""
        return self._capacity

    @property
    def slots(self) -> int:
        """One per worker."""
        return self._slots

    @property
    def share(self) -> int | None:
        """What a worker may take of its machine's memory; waits for a lost scheduler."""
        return self._awaited().share

    @property
    def tasks(self) -> int:
        """Calls of `submit` not yet answered."""
        return len(self._under_way)

    @property
    def in_flight(self) -> int:
        """Segments submitted and not yet handed back."""
        return sum(len(segments) for segments in self._under_way)

    def submit(self, segments: Sequence[Segment]) -> None:
        """Send one task, now or as soon as there is a scheduler again."""
        self._under_way.append(segments)
        executor = self._present()
        if executor is not None:
            executor.submit(segments)

    def completed(self, timeout: float) -> list[SegmentResult]:
        """What has come back; while the scheduler is lost, an attempt to find it."""
        executor = self._present()
        if executor is None:
            return self._paused() if self._stopped else self._attempt(timeout)
        results = executor.completed(timeout)
        ended = {result.trial for result in results}
        remaining = [[one for one in segments if one.trial not in ended] for segments in self._under_way]
        self._under_way = [segments for segments in remaining if segments]
        return results

    def call(self, function: str, payload: Any) -> Any:
        """One task, waited for."""
        return self.calls(function, [payload])[0]

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        """A task each, all waited for; all of them once more where the scheduler was lost meanwhile."""
        while True:
            executor = self._awaited()
            try:
                return executor.calls(function, payloads)
            except SearchFailed:
                if executor.lost() is None:
                    raise

    def request_stop(self) -> None:
        """Raise the flag in every worker process; without a scheduler, nothing runs of which anybody would hear."""
        self._stopped = True
        executor = self._present()
        if executor is not None:
            executor.request_stop()

    def lost(self) -> str | None:
        """Whether the scheduler has been away for too long."""
        if self._present() is not None or time.monotonic() - self._lost_at < self._seconds:
            return None
        return f"The Dask scheduler was lost, and has not come back with a worker within {self._seconds:g} s"

    def close(self) -> None:
        """Let go of the scheduler in use."""
        self._connection.close()

    def _present(self) -> DaskExecutor | None:
        """The executor in use; none once its connection is lost."""
        if self._executor is not None and self._executor.lost() is not None:
            self._executor.close()
            self._connection.close()
            self._executor, self._lost_at = None, time.monotonic()
            self._tell(
                f"The connection to the Dask scheduler was lost. For {self._seconds:g} s, a scheduler with a worker at "
                "the same address is waited for; what was under way then goes on from its checkpoints."
            )
        return self._executor

    def _attempt(self, pause: float) -> list[SegmentResult]:
        """Look for the scheduler, and hand out again what was under way; of which nothing is back yet."""
        try:
            executor = self._connection.enter_context(self._connect())
        except (ClusterAbsent, OSError):
            time.sleep(pause)
            return []
        self._executor, self._capacity, self._slots = executor, executor.capacity, executor.slots
        workers = "1 worker" if executor.slots == 1 else f"{executor.slots} workers"
        self._tell(f"The Dask scheduler is back with {workers}; segments handed out again: {self.in_flight}.")
        for segments in self._under_way:
            executor.submit(segments)
        return []

    def _awaited(self) -> DaskExecutor:
        while (executor := self._present()) is None:
            why = "Interrupted while the Dask scheduler was away" if self._stopping() else self.lost()
            if why is not None:
                raise SearchFailed(f"{why}.")
            self._attempt(WAIT)
        return executor

    def _paused(self) -> list[SegmentResult]:
        ended = [untouched(segment) for segments in self._under_way for segment in segments]
        self._under_way = []
        return ended


@contextmanager
def lasting(
    first: DaskExecutor,
    config: ClusterConfig,
    *,
    paths: list[str],
    tell: Callable[[str], None],
    stopping: Callable[[], bool],
) -> Iterator[Executor]:
    """An executor that outlives the loss of a scheduler of the user's, for `reconnect_seconds`.

    Args:
        first: on the connection that there is; of workers that the search has started itself, it is all there will be.
        paths: folders in which workers of this machine find the user's modules.
        tell: is given a sentence when the scheduler is lost, and when it is back.
        stopping: whether a call that waits for the scheduler should end.
    """
    if config.address is None or not config.reconnect_seconds:
        yield first
        return

    @contextmanager
    def connect() -> Iterator[DaskExecutor]:
        with connected(config, paths=paths, patience=ATTEMPT_SECONDS) as client:
            yield DaskExecutor(client, first.function)

    executor = ReconnectingExecutor(first, connect, seconds=config.reconnect_seconds, tell=tell, stopping=stopping)
    try:
        yield executor
    finally:
        executor.close()
