"""The race: ask, submit, take what comes back, commit it to the ledger, decide, go on."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from models.segment import Segment, SegmentResult
from search.checkpoints import discard
from search.executors import Runner
from search.failure import SearchFailed
from search.gains import Gains
from search.packing import pack, spread
from search.study import Study
from search.trial import TrialConfig, TrialResult, summarise
from tracking.ledger import Ledger

FAILURES = 5
"""So many trials in a row that fail in the user's code, and the search ends: the next ones would too."""
WAIT = 0.25
"""Seconds to wait for results before looking at the stop flag and the display again."""
GRACE = 5.0
"""Seconds for running segments to end in after a signal: with all that follows, the search ends within ten. One that
has not ended by then, since it hangs or its steps are long, is lost: its trial goes on from the checkpoint before."""
MOST_EXAMPLES = "most_examples"
"""The note of how many examples go through the model at once, at most."""
TOO_LARGE = "too_large"
"""The note of the smallest batch size that was found not to fit into memory before any trial."""
OVERHEAD = 20.0
"""A segment trains at least this many times as long as the one before spent on set-up, validation and checkpoint."""
INFRASTRUCTURE = ("lost_worker", "checkpoint")
"""Reasons of a failure that is not the trial's own: it is tried again, once."""


@dataclass(slots=True)
class Race:
    """What is under way. Everything here can be rebuilt from the ledger."""

    study: Study
    ledger: Ledger
    folder: str
    """Where checkpoints go (path or fsspec URL)."""
    waiting: deque[Segment] = field(default_factory=deque)
    trials: dict[int, TrialConfig] = field(default_factory=dict)
    segments: defaultdict[int, list[SegmentResult]] = field(default_factory=lambda: defaultdict(list))
    running: dict[int, Segment] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)
    gains: Gains = field(default_factory=Gains)
    """What training side by side was measured to bring."""
    told: deque[str] = field(default_factory=deque)
    """What the user has still to be told."""
    failures: int = 0
    """Trials in a row that failed in the user's code."""
    slots: int = 1
    """Segments that train at the same time."""
    worker_seconds: float = 0.0
    """Seconds of workers that this call has had back; members of an array share its seconds."""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train."""
        return not self.waiting and not self.running and self.study.is_over

    def run(
        self,
        executor: Runner,
        *,
        stopping: Callable[[], bool],
        watch: Callable[[Race], None],
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """Race until nothing is left to ask and nothing runs, or until `stopping` says so.

        Where `hurried` says so too, a segment that has not ended `GRACE` later is not waited for.

        Raises:
            ValueError: a mistake in the recipe that only training could show.
            SearchFailed: everything fails, or the cluster is gone.
        """
        told_to_stop, end = False, math.inf
        self.slots = executor.slots
        while time.monotonic() < end:
            if stopping() and not told_to_stop:
                told_to_stop = True
                executor.request_stop()
            end = min(end, time.monotonic() + GRACE if hurried() else math.inf)
            if not told_to_stop:
                self.fill(executor)
            watch(self)
            if not executor.in_flight:
                if not told_to_stop and not self.is_over:
                    raise SearchFailed("No worker takes any work, though trials are left.")
                break
            for result in executor.completed(WAIT):
                self.take(result)
            lost = executor.lost()
            if lost is not None:
                raise SearchFailed(f"{lost}. Everything that came back before is kept.")

    def fill(self, executor: Runner) -> None:
        """Keep every worker busy: paused trials first, then new ones."""
        self.promote()
        free = max(0, executor.capacity - executor.tasks)
        packs = pack(self.waiting, width=self.width_of)
        fresh: list[TrialConfig] = []
        while len(packs) < free and (trials := self.study.ask_together(lambda cell: self.gains.together(cell.kind))):
            fresh.extend(trials)
            packs.extend(pack([self.first_segment(trial) for trial in trials], width=self.width_of))
        if fresh:
            self.ledger.ask([trial.to_json() for trial in fresh])
        packs = spread(packs, executor.slots - executor.tasks)
        for segments in packs[:free]:
            self.running |= {segment.trial: segment for segment in segments}
            executor.submit([replace(segment, fused=self.width_of(segment) > 1) for segment in segments])
        self.waiting = deque(segment for segments in packs[free:] for segment in segments)

    def promote(self) -> None:
        """Let trials that wait at a rung go on, where they may; with nothing else left to do, end the others."""
        idle = not self.running and not self.waiting and not self.study.may_ask
        numbers = self.study.promoted(idle=idle)
        self.waiting.extend(self.next_segment(self.trials[n], self.segments[n][-1]) for n in numbers)
        if idle and not numbers:
            for number in self.study.given_up():
                self.prune(number)

    def prune(self, number: int) -> None:
        """End a trial at the rung that it has waited at."""
        trial, segments = self.trials[number], self.segments.pop(number)
        result = self.gains.timed(trial, summarise(number, segments, self.study.space.metrics))
        why = f"not promoted at {segments[-1].to_step / segments[-1].total_steps:.0%} of its training"
        result = replace(result, reason=why, checkpoint=None)
        if self.ledger.finish(result.to_json()):
            self.study.tell(trial, result)
        discard(segments[-1].checkpoint)

    def width_of(self, segment: Segment) -> int:
        """How many trials like this one train side by side; what has failed once is tried again alone.

        So is what memory divides: width and step time were measured on whole batches.
        """
        config, whole = segment.config, self.study.space.training.accumulate
        alone = segment.trial in self.retried or config.accumulate > whole
        return 1 if alone else self.gains.width((config.batch_size, config.optimizer))

    def first_segment(self, trial: TrialConfig) -> Segment:
        """A trial from its start."""
        self.trials[trial.number] = trial
        return Segment(
            trial=trial.number,
            config=trial.train,
            until=self.study.until(trial, 0.0),
            rescale=self.study.rescales,
            folder=self.folder,
            max_seconds=self.study.space.search.segment_seconds,
        )

    def next_segment(self, trial: TrialConfig, done: SegmentResult) -> Segment:
        """A trial from where a segment left it."""
        overhead = done.wall_seconds - done.seconds
        return replace(
            self.first_segment(trial),
            from_step=done.to_step,
            until=self.study.until(trial, done.to_step / done.total_steps),
            checkpoint=done.checkpoint,
            sha256=done.sha256,
            max_seconds=max(self.study.space.search.segment_seconds, OVERHEAD * overhead),
        )

    def take(self, result: SegmentResult) -> None:
        """Decide what a segment's result means: go on, try again, or the end of the trial."""
        segment = self.running.pop(result.trial)
        self.worker_seconds += result.wall_seconds / float(result.tags.get("width", 1))
        kind = result.reason.partition(":")[0]
        if kind == "config":
            raise ValueError(result.reason.removeprefix("config: "))
        if result.status == "PAUSED":
            self.pause(segment, result)
        elif result.status == "FAILED" and kind in INFRASTRUCTURE and result.trial not in self.retried:
            self.retried.add(result.trial)
            self.waiting.appendleft(self.again(segment, kind))
        elif result.status == "OOM" and self.study.divide(segment.config):
            self.divide(segment, result)
        else:
            self.finish(result)

    def pause(self, segment: Segment, result: SegmentResult) -> None:
        """Commit what it has got to; it goes on before anything new is asked."""
        if result.to_step == segment.from_step:
            self.waiting.appendleft(segment)
            return
        if self.ledger.record(result.to_json()):
            self.segments[result.trial].append(result)
            discard(segment.checkpoint)
        trial, segments = self.trials[result.trial], self.segments[result.trial]
        if not self.study.reaches(trial, segments):
            self.waiting.appendleft(self.next_segment(trial, segments[-1]))

    def again(self, segment: Segment, kind: str) -> Segment:
        """The same segment; or, if its checkpoint is lost, the trial from its start, which comes to the same."""
        if kind != "checkpoint":
            return segment
        self.ledger.restart(segment.trial)
        self.segments.pop(segment.trial, None)
        discard(segment.checkpoint)
        return self.first_segment(self.trials[segment.trial])

    def divide(self, segment: Segment, result: SegmentResult) -> None:
        """Go on in smaller parts: this trial from its start if it was there, and all that have not begun."""
        most, size = self.study.most, segment.config.batch_size
        self.ledger.set_meta(MOST_EXAMPLES, most)
        self.told.append(
            f"out of memory at batch size {size} with {size // segment.config.accumulate} examples at once: from now "
            f"on trials train in parts of at most {most} examples, whose gradients make one step"
        )
        self.waiting = deque(self.fitted(waiting) for waiting in self.waiting)
        if segment.from_step:
            # MLflow has its parameters and its first evaluations: neither is ever changed.
            self.finish(result)
        else:
            self.waiting.appendleft(self.fitted(segment))

    def fitted(self, segment: Segment) -> Segment:
        """The same segment in parts that fit into memory, if its trial has not begun."""
        before = self.trials[segment.trial]
        trial = before if segment.from_step else self.study.fitted(before)
        if trial == before:
            return segment
        self.ledger.revise(trial.to_json())
        self.study.revise(trial)
        return self.first_segment(trial)

    def finish(self, last: SegmentResult) -> None:
        """Commit a trial's result and tell the study; of all finished trials the best few keep their checkpoint."""
        trial = self.trials[last.trial]
        earlier = self.segments.pop(last.trial, [])
        result = self.gains.timed(trial, summarise(trial.number, [*earlier, last], self.study.space.metrics))
        kept = {best.number for best in self.study.keepers(self.keep)}
        self.ledger.record(last.to_json(), result.to_json())
        self.study.reaches(trial, [*earlier, last])
        self.study.tell(trial, result)
        now_kept = {best.number for best in self.study.keepers(self.keep)}
        if earlier:
            discard(earlier[-1].checkpoint)
        for number in (kept | {trial.number}) - now_kept:
            discard(self.checkpoint_of(number))
        self.count_failures(result)

    @property
    def keep(self) -> int:
        """How many finished trials keep their checkpoint."""
        return self.study.space.search.keep_checkpoints

    def tidy(self) -> None:
        """At the end: only the best few of all keep their checkpoint."""
        kept = {best.number for best in self.study.top(self.keep)}
        for result in self.study.keepers(self.keep):
            if result.number not in kept:
                discard(result.checkpoint)

    def checkpoint_of(self, number: int) -> str | None:
        """The final checkpoint of a finished trial."""
        trial = self.trials[number]
        return self.study.cells[trial.cell].results[trial.index].checkpoint

    def count_failures(self, result: TrialResult) -> None:
        """End a search in which everything fails, with the common reason."""
        self.failures = self.failures + 1 if result.status in ("FAILED", "TIMEOUT") else 0
        if self.failures >= FAILURES:
            raise SearchFailed(f"{FAILURES} trials in a row failed, the last one with:\n{result.reason}")
