"""The study of the strategy `tune`: one sampler over the whole grid; its trials wait at rungs for promotion."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from optuna.trial import TrialState

from models.seeds import derive
from models.segment import SegmentResult
from search.cell_study import TunedCell
from search.config import PromotionConfig
from search.courses import Courses
from search.joint import BATCH_SIZE, OPTIMIZER, JointSpace, Point
from search.placing import enqueued
from search.prior_points import Priors
from search.promotion import Rung
from search.rungs import Rungs
from search.samplers import (
    LEVELS,
    SEQUENCES,
    Asker,
    Known,
    check_sampler,
    elsewhere,
    first_points,
    identity,
    sampler_of,
    sequence,
)
from search.space import Cell, SearchSpace
from search.study import Study
from search.trial import Phase, TrialConfig, TrialResult

STARTUP = 16
"""Quasi-random trials before a sampler that learns from results is asked: none of ours learns from fewer. Where more of
one shape train side by side, as many more fill its first array: they take little time, and no results are lacking."""
AHEAD = 64
"""Points of a sequence among which those of one shape are looked for, to be trained side by side."""
ROUNDS = 12
"""A sampler is asked for at most this part of all trials at once, so that it learns from results in between."""


class TuneStudy(Study):
    """Asks one sampler for points of the whole space; its cells only say where those lie.

    What a sequence proposes depends on the recipe alone. What a sampler proposes depends on the results that had come
    when it was asked, and so on the number of workers.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Lay it out.

        Raises:
            ValueError: if there is no such sampler, or if it does not take its arguments.
        """
        super().__init__(space)
        search = space.search
        check_sampler(search.sampler, search.sampler_args)
        self.cells = {cell.name: TunedCell(space, cell) for cell in space.cells()}
        self.joint = JointSpace(space)
        self._priors = Priors(self.joint, search.priors, seed=search.seed)
        self._enqueued = enqueued(self.joint, search.enqueue)
        self._earlier = [Known(state=TrialState.COMPLETE, **known) for known in space.knowledge.results]
        self._maximize = space.metrics.direction == "max"
        self._rungs = self._rungs_of(search.promotion)
        self._trials: dict[int, TrialConfig] = {}
        self._courses = Courses(self._rungs, self._trials, result_of=self._result, maximize=self._maximize)
        self._seen: set[str] = set()
        self._exhausted = False
        self._ahead: deque[Point] | None = None
        """What is still to come of the sequence."""
        self._beyond: list[Point] = []
        """Its further points, with which a sampler's first arrays are filled."""

    def _rungs_of(self, promotion: PromotionConfig) -> Rungs:
        return Rungs(promotion)

    @property
    def known(self) -> list[str]:
        """What it was told before it begins, a line each."""
        told = [f"asked first: {one.described}" for one in self._enqueued]
        return [*told, *self._priors.described, *self.space.knowledge.said]

    # -- asking

    def restore(self, trials: Iterable[tuple[TrialConfig, TrialResult | None]]) -> None:
        """Take over what the ledger has; rungs that were reached are told by `reaches`."""
        known = list(trials)
        for trial, _ in known:
            if trial.point and trial.cell in self.cells:
                self._keep(trial)
        super().restore(known)

    def ask(self) -> TrialConfig | None:
        """The next trial; None when all have been asked."""
        return next(iter(self.ask_together(lambda _: 1)), None)

    def ask_together(self, width: Callable[[Cell], int]) -> list[TrialConfig]:
        """The next trials, which may share an array: all of one batch size and optimizer."""
        search = self.space.search
        left = search.trials - len(self._trials)
        if left < 1 or self._exhausted:
            return []
        found = self._laid_down(width, left)
        if not found and search.sampler not in SEQUENCES:
            found = self._proposed(width, min(left, self._at_once))
            seed = derive(search.seed, "tune", "elsewhere", self._numbers)
            found = found or [("explore", one, {}) for one in elsewhere(self.joint, seed=seed, refused=self._refused)]
        self._exhausted = not found
        return [self._made(*one) for one in found]

    def _laid_down(self, width: Callable[[Cell], int], left: int) -> list[tuple[Phase, Point, Mapping[str, Any]]]:
        """The next points that were named; then those of the sequence, or of a sampler's those that it begins with."""
        phase: Phase = "enqueue"
        named = [*(one.point for one in self._enqueued), *map(dict, self.space.knowledge.best)]
        coming = [point for point in named if not self._refused(point)]
        if not coming:
            phase = "explore"
            coming = self._coming()
        if not coming:
            return []
        cells = [self.joint.cell_of(point) for point in coming]
        in_order = phase == "enqueue" or self.space.search.sampler in SEQUENCES
        # A sampler begins with those that fill an array: of them there are results first.
        first = cells[0] if in_order else max(cells, key=width)
        most = min(left, max(1, width(first)))
        found = [point for point, cell in zip(coming, cells, strict=True) if cell.kind == first.kind][:most]
        if phase == "explore":
            found += self._further(first, min(most, self._at_once) - len(found))
        return [(phase, point, {}) for point in found]

    def _further(self, cell: Cell, lacking: int) -> list[Point]:
        """So many more points of its sequence that may share an array with trials of a cell, as far as there are."""
        kin = (one for one in self._beyond if self.joint.cell_of(one).kind == cell.kind and not self._refused(one))
        return list(islice(kin, max(0, lacking)))

    @property
    def _at_once(self) -> int:
        """How many a sampler is asked for at once, or begins with at once beyond its first."""
        return max(1, self.space.search.trials // ROUNDS)

    def _coming(self) -> list[Point]:
        """The next points of the sequence that are not refused; what once was is refused for good, and is dropped."""
        if self._ahead is None:
            first, self._beyond = self._sequence()
            self._ahead = deque(first)
        coming: list[Point] = []
        while self._ahead and len(coming) < AHEAD:
            point = self._ahead.popleft()
            if not self._refused(point):
                coming.append(point)
        self._ahead.extendleft(reversed(coming))
        return coming

    def _sequence(self) -> tuple[list[Point], list[Point]]:
        """All points of a sequence; or those that a sampler begins with, and further ones."""
        search = self.space.search
        own = search.sampler in SEQUENCES
        startup = max(0, STARTUP - len(self._earlier))
        name, first = (search.sampler, search.trials) if own else ("qmc", min(startup, search.trials))
        kinds = {cell.cell.kind for cell in self.cells.values()}
        count = first if own else first * len(kinds)
        levels = search.sampler_args.get("levels", LEVELS)
        seed = derive(search.seed, "tune", name)
        points = sequence(name, self.joint, seed=seed, levels=levels, priors=self._priors)
        found = first_points(points, count)
        return found[:first], found[first:]

    def _proposed(self, width: Callable[[Cell], int], most: int) -> list[tuple[Phase, Point, Mapping[str, Any]]]:
        """A batch from the sampler: the first is free, the others lie at its batch size and optimizer."""
        search = self.space.search
        seed = derive(search.seed, "tune", self._numbers)
        sampler = sampler_of(search.sampler, search.sampler_args, seed=seed)
        asker = self._asker(sampler)
        found: list[tuple[Phase, Point, Mapping[str, Any]]] = []
        fixed: dict[str, Any] = {}
        batch: set[str] = set()
        while len(found) < most:
            drawn = self._priors.drawn(self._numbers + len(found))
            asked = asker.ask(fixed, lambda point: self._refused(point) or identity(point) in batch, drawn=drawn)
            if asked is None:
                break
            batch.add(identity(asked[0]))
            found.append(("propose", *asked))
            fixed = {name: value for name, value in asked[0].items() if name in (BATCH_SIZE, OPTIMIZER)}
            most = min(most, max(1, width(self.joint.cell_of(asked[0]))))
        return found

    def _asker(self, sampler: Any) -> Asker:
        return Asker(self.joint, list(self._known()), sampler, maximize=self._maximize)

    def _refused(self, point: Point) -> bool:
        return identity(point) in self._seen or self.cells[self.joint.cell_of(point).name].closed

    def _made(self, phase: Phase, point: Point, attributes: Mapping[str, Any]) -> TrialConfig:
        cell = self.cells[self.joint.cell_of(point).name]
        plain = self._trial(cell, phase, self.joint.sampled(point), point=point)
        trial = cell.asked[-1] = replace(plain, noted=attributes)
        self._keep(trial)
        return trial

    def _keep(self, trial: TrialConfig) -> None:
        self._trials[trial.number] = trial
        self._courses.moves(trial)
        self._seen.add(identity(trial.point))

    def revise(self, trial: TrialConfig) -> None:
        """Put a trial in the place of the one of its number, which has not begun."""
        super().revise(trial)
        self._trials[trial.number] = trial
        self._courses.moves(trial)

    def _known(self) -> Iterator[Known]:
        """Every trial as its sampler is to see it, in the order of asking; before them, those of an earlier study."""
        yield from self._earlier
        yield from self._courses.known()

    def expect(self) -> None:
        """Work it out from all trials, those that wait at a rung or ended there too."""
        self.expected = self._courses.expected(self.joint.everything())

    def _result(self, trial: TrialConfig) -> TrialResult | None:
        return self.cells[trial.cell].results.get(trial.index)

    # -- rungs

    def until(self, trial: TrialConfig, progress: float) -> float:
        """The next rung at which the trial is compared, or its end."""
        return self._rungs.until(trial, progress)

    @property
    def rescales(self) -> bool:
        """As the recipe says."""
        return self.space.search.promotion.rescale

    def reaches(self, trial: TrialConfig, segments: Sequence[SegmentResult]) -> bool:
        """Take in what a trial has come to; whether it waits at a rung now."""
        self._courses.moves(trial)
        return self._rungs.reaches(trial, segments, self.space.metrics)

    def promoted(self, *, idle: bool) -> list[int]:
        """Trials that go on now; `idle`: nothing else is left to do."""
        return self._rungs.promoted(idle=idle)

    def given_up(self) -> list[int]:
        """Trials that will never go on: they end where they are."""
        return self._rungs.given_up()

    def tell(self, trial: TrialConfig, result: TrialResult) -> None:
        """Take in a result."""
        super().tell(trial, result)
        self._courses.moves(trial)
        self._rungs.ended(trial, result)

    @property
    def resting(self) -> int:
        """How many trials wait at a rung."""
        return self._rungs.resting

    @property
    def at_rungs(self) -> list[Rung]:
        """All rungs, the lowest first."""
        return self._rungs.counts

    # -- how far

    @property
    def may_ask(self) -> bool:
        """Whether there are trials left to ask."""
        return not self._exhausted and len(self._trials) < self.space.search.trials

    @property
    def is_over(self) -> bool:
        """Whether every trial has its result and no other one is to come."""
        return not self.may_ask and not any(study.waiting for study in self.cells.values())

    def planned_by_kind(self) -> dict[tuple[int, str], int]:
        """All trials, spread evenly over the grid: where they will lie, their results decide."""
        kinds = dict.fromkeys(study.cell.kind for study in self.cells.values() if not study.closed)
        return dict.fromkeys(kinds, -(-self.planned // len(kinds)))

    def first_by_kind(self) -> dict[tuple[int, str], int]:
        """No more of them than are looked ahead at: whoever trains beside many others comes late to its first rung."""
        return {kind: min(count, AHEAD) for kind, count in self.planned_by_kind().items()}

    @property
    def planned(self) -> int:
        """Trials that the search will have had when it is done."""
        return len(self._trials) if self._exhausted else max(self.space.search.trials, len(self._trials))
