"""Where segments run: in this process, or on the workers of a Dask cluster. The only place that submits to Dask."""

from __future__ import annotations

import importlib
import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from distributed import Client, Future, KilledWorker, get_worker

from models.segment import Segment, SegmentResult, Status
from search.cluster import end_of

TRAIN = "models.train.train_segment"
"""The function that trains a segment, by name: the driver of a search does not import torch."""
TRAIN_ARRAY = "models.array.train_array"
"""The function that trains several segments side by side."""
PUT_BACK = "models.process.put_back"
"""What keeps the traces of one training out of the next."""
IN_FLIGHT = 2
"""Tasks handed out per worker: one runs while the next one already waits there."""
BEGUN = "regatta-begun"
"""Dask's topic under which workers say which task they begin."""

_stop = threading.Event()
"""Set in a worker process when running segments should end at their next step."""
_training = threading.Lock()
"""A worker may have several threads, but torch's random generators belong to the process: one training at a time."""


class Executor(Protocol):
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

    def call(self, function: str, payload: Any) -> Any:
        """Run a function, given by import path, once where segments run, and wait for its result."""
        ...

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        """The same for each of several payloads, at the same time as far as there are workers."""
        ...

    def request_stop(self) -> None:
        """Ask running segments to end at their next step."""
        ...

    def lost(self) -> str | None:
        """Why nothing will ever come back any more, if that is so."""
        ...


def find(function: str) -> Any:
    """A function by its import path."""
    module, _, name = function.rpartition(".")
    return getattr(importlib.import_module(module), name)


def run_segments(function: str, payloads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a worker does: plain JSON values in and out, so that nothing of a user's is ever pickled."""
    segments = [Segment.from_json(payload) for payload in payloads]
    with _training, find(PUT_BACK)([segment.config for segment in segments]):
        if function == TRAIN and len(segments) > 1:
            return [result.to_json() for result in find(TRAIN_ARRAY)(segments, stop=_stop.is_set)]
        train = find(function)
        return [train(segment, stop=_stop.is_set).to_json() for segment in segments]


def set_stop(value: bool) -> None:
    """Raise or lower this process's stop flag."""
    if value:
        _stop.set()
    else:
        _stop.clear()


def failed(segment: Segment, reason: str) -> SegmentResult:
    """The result of a segment that never gave one."""
    return SegmentResult(
        trial=segment.trial,
        from_step=segment.from_step,
        to_step=segment.from_step,
        total_steps=0,
        status="FAILED",
        reason=reason,
    )


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


class DaskExecutor:
    """Runs segments on the workers of a Dask client that has passed the preflight of `search.cluster`."""

    def __init__(self, client: Client, function: str = TRAIN) -> None:
        self._client = client
        self._function = function
        self._running: dict[str, tuple[Future[Any], Sequence[Segment]]] = {}
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._submitted = 0
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
        return sum(len(segments) for _, segments in self._running.values())

    def submit(self, segments: Sequence[Segment]) -> None:
        """Send one task; its key is new every time, so that Dask never takes two for the same."""
        self._submitted += 1
        key = f"segment-{segments[0].trial}-{segments[0].from_step}-{self._submitted}"
        payloads = [segment.to_json() for segment in segments]
        future = self._client.submit(_begin, self._function, payloads, key=key, pure=False)
        self._running[key] = (future, segments)
        future.add_done_callback(lambda done: self._done.put(done.key))

    def completed(self, timeout: float) -> list[SegmentResult]:
        """Everything that has come back, gathered in one go."""
        try:
            keys = [self._done.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._done.empty():
            keys.append(self._done.get())
        finished = {key: self._running.pop(key) for key in keys}
        # A result whose worker has died since is computed again meanwhile; None: it failed, then or now.
        gathered = self._client.gather({key: future for key, (future, _) in finished.items()}, errors="skip")
        results: list[SegmentResult] = []
        for key, (future, segments) in finished.items():
            if gathered[key] is not None:
                results.extend(SegmentResult.from_json(value) for value in gathered[key])
            else:
                results.extend(self._lost(future, segments))
        return results

    def _lost(self, future: Future[Any], segments: Sequence[Segment]) -> list[SegmentResult]:
        error = future.exception() if future.status == "error" else None
        if not isinstance(error, KilledWorker):
            why = future.status if error is None else f"{type(error).__name__}: {error}"
            return [failed(segment, f"lost_worker: {why}") for segment in segments]
        last = error.last_worker.address
        kind, how = end_of(self._client, last)
        # Dask blames all that a dead worker had. What only waited there, or trained beside others, is tried again.
        begun = [key for _, key in self._client.get_events(BEGUN)].count(future.key)
        if len(segments) > 1 or begun < 2:
            kind = "lost_worker"
        status: Status = "OOM" if kind == "oom_host" else "FAILED"
        reason = f"{kind}: two workers that had it died, the last one at {last} ({how})"
        return [replace(failed(segment, reason), status=status) for segment in segments]

    @property
    def tasks(self) -> int:
        """Tasks sent and not yet handed back."""
        return len(self._running)

    def call(self, function: str, payload: Any) -> Any:
        """One task, waited for."""
        return self.calls(function, [payload])[0]

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        """A task each, all waited for."""
        futures = [self._client.submit(_call, function, payload, pure=False) for payload in payloads]
        try:
            return [future.result() for future in futures]
        except KilledWorker as error:
            _, how = end_of(self._client, error.last_worker.address)
            raise ValueError(
                f"`{function}` must leave its worker alive, but two died of it, the last one so: {how}. "
                "See whether the model and the data can be built and trained by themselves."
            ) from error

    def request_stop(self) -> None:
        """Raise the flag in every worker process."""
        # A worker that is dying just now needs no flag.
        self._client.run(set_stop, True, on_error="ignore")

    def lost(self) -> str | None:
        """Whether the scheduler is gone."""
        return None if self._client.status in ("running", "connecting") else f"the Dask client is {self._client.status}"


def _begin(function: str, payloads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    worker = get_worker()
    worker.log_event(BEGUN, worker.get_current_task())
    return run_segments(function, payloads)


def _call(function: str, payload: Any) -> Any:
    return find(function)(payload)
