"""Segments on the workers of a Dask cluster. The only place that submits to Dask."""

from __future__ import annotations

import queue
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from distributed import Client, Future, KilledWorker

from models.segment import Segment, SegmentResult, Status
from search.cluster import end_of
from search.failure import DeadlyCall, SearchFailed
from search.work import TRAIN, failed, set_stop, untouched
from search.worker import BEGUN, begin, call

IN_FLIGHT = 2
"""Tasks handed out per worker: one runs while the next one already waits there."""
ENDS: Mapping[str, Status] = {"oom_host": "OOM", "timeout": "TIMEOUT"}
"""Status of a trial that has cost its workers, by how the last one ended; others: FAILED."""
STRIKES = 2
"""So many workers that died while they had begun a task, and it is not tried again."""
KILLS = 3
"""The same where the last one was killed by SIGKILL: that comes from outside, and may hit one task twice by chance."""
LOSSES = 6
"""The same of workers that died before they had, as far as is known: other tasks are to blame, but not for ever."""


@dataclass(frozen=True, slots=True)
class _Task:
    """Segments on their way, and what has become of workers that had them."""

    future: Future[Any]
    segments: Sequence[Segment]
    strikes: int = 0
    losses: int = 0


class DaskExecutor:
    """Runs segments on the workers of a Dask client that has passed the preflight of `search.cluster`."""

    def __init__(self, client: Client, function: str = TRAIN) -> None:
        self._client = client
        # A client that has lost its scheduler finds it again by itself, but what it had on its way there is gone.
        self._connection = client.scheduler_comm
        self.function = function
        self._running: dict[str, _Task] = {}
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._name = uuid4().hex[:8]
        self._submitted = 0
        self._stopping = False
        # Whoever answers is there; what the client remembers of its scheduler may be old.
        self._slots = len(client.run(set_stop, False))

    @property
    def capacity(self) -> int:
        """Two per worker: one runs, one waits."""
        return IN_FLIGHT * self.slots

    @property
    def slots(self) -> int:
        """One per worker."""
        return self._slots

    @property
    def in_flight(self) -> int:
        """Segments submitted and not yet handed back."""
        return sum(len(task.segments) for task in self._running.values())

    @property
    def share(self) -> int | None:
        """That of the worker with the least: any of them may get any segment."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return min((worker["memory_limit"] for worker in workers if worker["memory_limit"]), default=None)

    def submit(self, segments: Sequence[Segment]) -> None:
        """Send one task."""
        self._send(segments)

    def _send(self, segments: Sequence[Segment], *, strikes: int = 0, losses: int = 0) -> None:
        """Its key is new every time, also on this client, so that Dask never takes two for the same."""
        self._submitted += 1
        key = f"segment-{segments[0].trial}-{segments[0].from_step}-{self._submitted}-{self._name}"
        payloads = [segment.to_json() for segment in segments]
        future = self._client.submit(begin, self.function, payloads, key=key, pure=False)
        self._running[key] = _Task(future, segments, strikes, losses)
        future.add_done_callback(lambda done: self._done.put(done.key))

    def completed(self, timeout: float) -> list[SegmentResult]:
        """Everything that has come back, gathered in one go."""
        try:
            keys = [self._done.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._done.empty():
            keys.append(self._done.get())
        try:
            return self._collect(keys) if self.lost() is None else []
        except OSError:
            if self.lost() is None:
                raise
            return []

    def _collect(self, keys: Sequence[str]) -> list[SegmentResult]:
        finished = {key: self._running.pop(key) for key in keys}
        # A result whose worker has died since is computed again meanwhile; None: it failed, then or now.
        gathered = self._client.gather({key: task.future for key, task in finished.items()}, errors="skip")
        results: list[SegmentResult] = []
        for key, task in finished.items():
            if gathered[key] is not None:
                results.extend(SegmentResult.from_json(value) for value in gathered[key])
            elif self.lost() is None:
                results.extend(self._lost(task))
        return results

    def _lost(self, task: _Task) -> list[SegmentResult]:
        """What is said of a task that gave no result; nothing if it is sent once more."""
        error = task.future.exception() if task.future.status == "error" else None
        if not isinstance(error, KilledWorker):
            why = task.future.status if error is None else f"{type(error).__name__}: {error}"
            return [failed(segment, f"lost_worker: {why}") for segment in task.segments]
        # Once more than one where the scheduler is not ours, and tries again by itself.
        strikes = task.strikes + [key for _, key in self._client.get_events(BEGUN)].count(task.future.key)
        if self._stopping:
            return [untouched(segment) for segment in task.segments]
        last, lasting = error.last_worker, task.losses + 1 < LOSSES
        kind, how = ("", "") if strikes < STRIKES and lasting else end_of(self._client, last)
        if strikes < (KILLS if how == signal.SIGKILL.name else STRIKES) and lasting:
            self._send(task.segments, strikes=strikes, losses=task.losses + 1)
            return []
        if len(task.segments) > 1 or strikes < STRIKES:
            kind = "lost_worker"  # Who trained beside others is tried again, alone.
        reason = f"{kind}: {task.losses + 1} workers that had it died, the last one at {last.address} ({how})"
        return [replace(failed(segment, reason), status=ENDS.get(kind, "FAILED")) for segment in task.segments]

    @property
    def tasks(self) -> int:
        """Tasks sent and not yet handed back."""
        return len(self._running)

    def call(self, function: str, payload: Any) -> Any:
        """One task, waited for."""
        return self.calls(function, [payload])[0]

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        """A task each, all waited for; before segments that wait for their worker, since whoever calls waits too."""
        futures = [self._called(function, payload) for payload in payloads]
        try:
            return [self._answer(future, function, payload) for future, payload in zip(futures, payloads, strict=True)]
        except (CancelledError, OSError) as error:
            why = self.lost()
            if why is None:
                raise
            raise SearchFailed(f"{why}.") from error

    def _called(self, function: str, payload: Any) -> Future[Any]:
        return self._client.submit(call, function, payload, pure=False, priority=1)

    def _answer(self, future: Future[Any], function: str, payload: Any) -> Any:
        with suppress(KilledWorker):
            return future.result()
        try:
            return self._called(function, payload).result()
        except KilledWorker as error:
            _, how = end_of(self._client, error.last_worker)
            raise DeadlyCall(
                f"`{function}` must leave its worker alive, but two died of it, the last one so: {how}. "
                "See whether the model and the data can be built and trained by themselves."
            ) from error

    def request_stop(self) -> None:
        """Raise the flag in every worker process."""
        self._stopping = True
        # A worker that is dying just now needs no flag, and without a scheduler there is nobody to raise one.
        with suppress(OSError):
            self._client.run(set_stop, True, on_error="ignore")

    def lost(self) -> str | None:
        """Whether the scheduler is gone, or was: then nothing that was on its way comes back."""
        intact = self._client.status == "running" and self._client.scheduler_comm is self._connection
        return None if intact else "The connection to the Dask scheduler was lost"

    def close(self) -> None:
        """Let go of the scheduler, before this process ends."""
        self._client.close()
