"""What a training takes of a machine, measured alone in fresh processes: step time, memory, the largest batch."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.build import ConfigError
from models.config import TrainConfig
from models.memory import give_back, keep_freed_memory, return_freed_memory
from models.prepared import prepare
from models.segment import Segment
from models.train import out_of_memory, train_segment

SECONDS = 1.0
"""How long `measure` times steps."""
SETTLING = 10
"""Steps before the first that is timed: caches fill, kernels are chosen, allocators grow."""
LEAST = 30
"""Steps that are taken at least, unless they take `PATIENCE` times the seconds."""
PATIENCE = 10.0
STEPS = 10_000
"""Steps that a training has at least, so that the time runs out before it ends."""
TRIED = 3
"""Steps of a try whether a batch fits: the optimizer has its state from the second on."""
MARGIN = 0.05
"""Share of the memory that stays free: a later batch may need a little more."""
RATE = 1e-3
"""Factor on the learning rate: a training that diverges ends before it has been timed."""
KILLED = (signal.SIGKILL, signal.SIGABRT, signal.SIGBUS)
"""How a process ends for lack of memory: by the system, by a library's failed allocation, by full shared memory."""
FAILURES = ("OOM", "FAILED")
EMPTY = ("step_seconds", "step_seconds_p95", "examples_per_second", "peak_bytes", "reserved_bytes", "examples")


def measure(values: Mapping[str, Any]) -> dict[str, Any]:
    """Train a short stretch alone, in a process of its own.

    Args:
        values: `config`, a TrainConfig as JSON; optional `seconds` to train for, and `limit_bytes` (see
            `largest_batch`), with `loaded_bytes` that another process has taken of them already for libraries and data.

    Returns:
        `batch_size`; `step_seconds`, the median over the steps from the 10th on where there are any, with
        `step_seconds_p95` and `examples_per_second`; `peak_bytes`: on a GPU the most that tensors took, with what torch
        held for them as `reserved_bytes`; on a CPU the peak resident set less that of the same process before the
        training, libraries and data loaded, to within some hundred kB, as the system counts pages in portions;
        `kind`, `gpu` or `cpu`; `limit_bytes`; `examples` of the training set; `oom`, whether memory ran out; `reason`
        why there are no numbers, or None.
    """
    return in_fresh_process({"seconds": SECONDS, "least": LEAST, **values})


def largest_batch(values: Mapping[str, Any]) -> dict[str, Any]:
    """Double the batch size until memory or the training set runs out, each try in a process of its own.

    Args:
        values: `config`, a TrainConfig as JSON, with the batch size to begin with; optional `limit_bytes` that a
            process may take: of the GPU, or of the machine as private memory, libraries included; default: all of it.

    Returns:
        `largest` that trained with 5 % of the memory to spare, or None; `tried`, each with `batch_size`, `fits`,
        `peak_bytes` and `reason`; `limit_bytes`; `reason` why it went no further.
    """
    tried: list[dict[str, Any]] = []
    batch_size = int(values["config"]["batch_size"])
    while True:
        config = {**values["config"], "batch_size": batch_size}
        found = in_fresh_process({**values, "config": config, "seconds": 0.0, "least": TRIED})
        fits = found["reason"] is None
        tried.append({"batch_size": batch_size, "fits": fits, **{n: found[n] for n in ("peak_bytes", "reason")}})
        if not fits or 2 * batch_size > found["examples"]:
            break
        batch_size *= 2
    return {
        "largest": max((one["batch_size"] for one in tried if one["fits"]), default=None),
        "tried": tried,
        "limit_bytes": found["limit_bytes"],
        "reason": found["reason"] or f"the training set has {found['examples']} examples",
    }


def in_fresh_process(task: Mapping[str, Any]) -> dict[str, Any]:
    """Train for a while in a process that may run out of memory at no cost to this one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        # Not a daemon: the user's loaders may start processes.
        given = {**task, "threads": torch.get_num_threads()}
        process = context.Process(target=_answer, args=(there, given, folder))
        process.start()
        there.close()  # The only open end is now the process's own: if it dies, reading ends.
        try:
            found: dict[str, Any] = here.recv()
        except EOFError:
            process.join()
            found = _died(process.exitcode or 0)
        finally:
            process.kill()
            process.join()
            here.close()
    known = {"batch_size": task["config"]["batch_size"], "kind": kind_of(task), "limit_bytes": limit_of(task)}
    return {**dict.fromkeys(EMPTY), **known, **found}


def _died(exit_code: int) -> dict[str, Any]:
    if -exit_code in KILLED:
        name = signal.Signals(-exit_code).name
        return {"oom": True, "reason": f"oom_host: its process was ended by {name}, as where memory runs out"}
    return {"oom": False, "reason": f"its process ended with exit code {exit_code} and no answer"}


def kind_of(task: Mapping[str, Any]) -> str:
    """What a training trains on."""
    return "gpu" if task["config"]["accelerator"] != "cpu" and torch.cuda.is_available() else "cpu"


def limit_of(task: Mapping[str, Any]) -> int:
    """Bytes that a training may take: as asked, or all of the GPU, or of the machine (or container)."""
    if task.get("limit_bytes"):
        return int(task["limit_bytes"])
    if kind_of(task) == "gpu":
        return int(torch.cuda.get_device_properties(0).total_memory)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # Not there, or `max`.
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


# Below: in the fresh process


def _answer(connection: Connection, task: Mapping[str, Any], folder: str) -> None:
    with suppress(OSError):
        # Where the system itself runs out, this process goes first.
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        found = _train(task, folder)
    except Exception as error:  # Building the user's data may raise anything, for lack of memory too.
        text = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        found = {"oom": out_of_memory(error) is not None, "reason": text}
    connection.send(found)


def _train(task: Mapping[str, Any], folder: str) -> dict[str, Any]:
    config, gpu = short(TrainConfig.from_json(task["config"])), kind_of(task) == "gpu"
    # As in a worker.
    torch.set_num_threads(task["threads"])
    keep_freed_memory()
    loaded = task.get("loaded_bytes")
    if loaded is None:
        confine(limit_of(task), gpu=gpu)
    examples = prepare(config).examples
    if loaded is not None:
        # Libraries and data are what another process has loaded too: whatever it may take beyond, this one may.
        confine(limit_of(task) if gpu else limit_of(task) - loaded + resident("VmData"), gpu=gpu)
    segment = Segment(trial=0, config=config, folder=folder)
    # Libraries load parts of themselves in the first step: those are not what the training takes.
    result = train_segment(segment, stop=lambda: True)
    numbers: dict[str, Any] = {}
    if result.status not in FAILURES and not gpu:
        # Apart from the timing: a worker's allocator keeps what is freed, and its gaps differ from run to run.
        return_freed_memory()
        weighed = StepClock(0.0, task["least"], Memory(gpu=False))
        result = train_segment(segment, stop=weighed)
        numbers = weighed.taken or weighed.memory.taken()
        keep_freed_memory()
    if result.status not in FAILURES:
        clock = StepClock(task["seconds"], task["least"], Memory(gpu=gpu))
        result = train_segment(segment, stop=clock)
        numbers = {**(clock.taken or clock.memory.taken()), **clock.times(config.batch_size), **numbers}
    if result.status in FAILURES:
        return {"examples": examples, "oom": result.status == "OOM", "reason": result.reason.partition("\n")[0]}
    return {"examples": examples, **numbers, "oom": False, "reason": None}


def short(config: TrainConfig) -> TrainConfig:
    """The same steps, none of them interrupted by an evaluation, at a rate too small to diverge."""
    rate = None if config.learning_rate is None else config.learning_rate * RATE
    return dataclasses.replace(config, learning_rate=rate, min_steps=max(config.min_steps, STEPS), evaluations=1)


def confine(limit: int, *, gpu: bool) -> None:
    """Let this process take no more than a limit less the margin."""
    allowed = int((1.0 - MARGIN) * limit)
    if gpu:
        total = int(torch.cuda.get_device_properties(0).total_memory)
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
        return
    # Not the address space, much of which is never used. What is over raises here, instead of being killed.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard))


class StepClock:
    """Asked after every step whether to stop, it notes the time, and the memory that steps have taken."""

    def __init__(self, seconds: float, least: int, memory: Memory) -> None:
        self.seconds = seconds
        self.least = least
        self.memory = memory
        self.marks: list[Any] = []
        self.started = 0.0
        self.taken: dict[str, int] = {}

    def __call__(self) -> bool:
        """True after so many seconds and steps."""
        now = time.perf_counter()
        self.started = self.started or now
        if self.memory.gpu:
            # A mark in the GPU's own timeline: waiting for it at every step would change what is measured.
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
            self.marks.append(mark)
        else:
            self.marks.append(now)
        past, enough = now - self.started, len(self.marks) >= self.least
        over = (enough and past >= self.seconds) or 0.0 < PATIENCE * self.seconds <= past
        if over:
            # Not later: writing the checkpoint takes memory too, however small the batch.
            self.taken = self.memory.taken()
        return over

    def durations(self) -> NDArray[np.float64]:
        """Seconds of each step but the first."""
        if not self.memory.gpu:
            return np.diff(self.marks)
        torch.cuda.synchronize()
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return np.array([one.elapsed_time(other) / 1e3 for one, other in pairs])

    def times(self, batch_size: int) -> dict[str, float]:
        """Median and 95th percentile of the steps that count."""
        durations = self.durations()
        counted = durations[SETTLING - 1 :] if len(durations) >= SETTLING else durations
        if not len(counted):
            return {}
        median = float(np.median(counted))
        return {
            "step_seconds": median,
            "step_seconds_p95": float(np.quantile(counted, 0.95)),
            "examples_per_second": batch_size / median,
        }


class Memory:
    """The most that is taken from here on."""

    def __init__(self, *, gpu: bool) -> None:
        self.gpu = gpu
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return
        give_back()  # What the first step has freed counts as free.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew: see proc(5).
        self.before = resident("VmRSS")

    def taken(self) -> dict[str, int]:
        """`peak_bytes`, on a GPU `reserved_bytes` too."""
        if self.gpu:
            return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}
        return {"peak_bytes": max(0, resident("VmHWM") - self.before)}


def resident(name: str) -> int:
    """Bytes of this process: in memory now (VmRSS), at most (VmHWM), or private (VmData); at most if nobody tells."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
