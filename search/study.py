"""The studies of a search, one for each cell: what to try next, and what came back. The only owner of Optuna."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from models.config import MetricsConfig, TrainConfig
from models.seeds import derive
from models.segment import SegmentResult
from search import proposals
from search.config import RangeConfig
from search.space import EXTENSION, Cell, SearchSpace, beyond, edge_of
from search.trial import Phase, TrialConfig, TrialResult

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(slots=True)
class CellStudy:
    """One cell: its trials in the order of asking, and the proposals that are still to come."""

    space: SearchSpace
    cell: Cell
    asked: list[TrialConfig] = field(default_factory=list)
    results: dict[int, TrialResult] = field(default_factory=dict)
    """Results by index in the cell."""
    closed: bool = False
    """Nothing more is asked: its batch size does not fit into memory."""
    _refinements: list[dict[str, Any]] | None = None
    _explorations: list[dict[str, Any]] | None = None
    _extensions: list[dict[str, Any]] | None = None
    _counts: Counter[Phase] = field(default_factory=Counter)
    _unfinished: Counter[Phase] = field(default_factory=Counter)
    _best: dict[Phase, tuple[float, int, TrialConfig]] = field(default_factory=dict)
    """Of each phase, kept as results come: what is looked up after every trial must not go through all of them."""

    def add(self, trial: TrialConfig) -> None:
        """Take in a trial that is asked."""
        self.asked.append(trial)
        self._counts[trial.phase] += 1
        self._unfinished[trial.phase] += 1

    def tell(self, trial: TrialConfig, result: TrialResult) -> None:
        """Take in a result."""
        self.results[trial.index] = result
        self._unfinished[trial.phase] -= 1
        if result.status == "COMPLETE" and result.value is not None:
            rank = (self.sign * result.value, trial.index, trial)
            self._best[trial.phase] = min(self._best.get(trial.phase, rank), rank, key=lambda rank: rank[:2])

    @property
    def sign(self) -> float:
        """What makes values losses."""
        return 1.0 if self.space.metrics.direction == "min" else -1.0

    def count(self, phase: Phase) -> int:
        """Trials asked in a phase."""
        return self._counts[phase]

    @property
    def waiting(self) -> bool:
        """Whether a result is still to come."""
        return len(self.results) < len(self.asked)

    @property
    def planned(self) -> int:
        """Trials that this cell will have had when it is done, as far as is known now."""
        if self.closed:
            return len(self.asked)
        total = len(self.explorations()) + self.count("extend") + self._planned_refinements()
        return max(total, len(self.asked))

    def _planned_refinements(self) -> int:
        if self._refinements is not None:
            return len(self._refinements)
        return max(self.space.search.refine if self.cell.ranges else 0, self.count("refine"))

    def explorations(self) -> list[dict[str, Any]]:
        """The quasi-random configurations of this cell."""
        if self._explorations is None:
            search = self.space.search
            self._explorations = proposals.quasi_random(
                self.cell.ranges,
                count=search.trials,
                seed=derive(search.seed, self.cell.name, "explore"),
                # When `trials` has been raised, what was refined before may be what would come next.
                known=self._known("refine"),
            )
        return self._explorations

    def propose(self) -> tuple[Phase, dict[str, Any]] | None:
        """The next configuration; None while results must come first, or when there are no more."""
        if self.closed:
            return None
        if self.count("explore") < len(self.explorations()):
            return "explore", self.explorations()[self.count("explore")]
        if self._unfinished["explore"]:
            return None
        if self._extensions is None:
            # With all quasi-random results there, they stay what they are.
            self._extensions = self.extensions()
        if self.count("extend") < len(self._extensions):
            return "extend", self._extensions[self.count("extend")]
        if self._unfinished["extend"]:
            return None
        refinements = self.refinements()
        if self.count("refine") < len(refinements):
            return "refine", refinements[self.count("refine")]
        return None

    def train_config(self, sampled: Mapping[str, Any], *, index: int) -> TrainConfig:
        """The training of one trial of this cell."""
        return self.space.train_config(self.cell, sampled, index=index)

    def extension(self) -> RangeConfig | None:
        """The stretch of learning rates beyond the edge at which the best quasi-random trial lies, if it does."""
        extent = self.cell.ranges.get("learning_rate")
        if not self.space.search.extend or extent is None:
            return None
        earlier = [trial.params["learning_rate"] for trial in self.asked if trial.phase == "extend"]
        if earlier:
            # A cell is extended once: raising the number of trials later does not move its edge again.
            return beyond(extent, "low" if earlier[0] < (extent.low or 0.0) else "high")
        best = self.best("explore")
        edge = None if best is None else edge_of(extent, best.params["learning_rate"], trials=self.count("explore"))
        return None if edge is None else beyond(extent, edge)

    def extensions(self) -> list[dict[str, Any]]:
        """The quasi-random configurations beyond the edge, as dense as those within."""
        stretch = self.extension()
        if stretch is None:
            return []
        return proposals.quasi_random(
            {**self.cell.ranges, "learning_rate": stretch},
            count=max(1, math.ceil(EXTENSION * self.space.search.trials)),
            seed=derive(self.space.search.seed, self.cell.name, "extend"),
        )

    def refinements(self) -> list[dict[str, Any]]:
        """Configurations around the best, all proposed at once from the results of the quasi-random trials."""
        if self._refinements is None:
            ranges = self.ranges()
            earlier = [{name: trial.params[name] for name in ranges} for trial in self._asked("refine")]
            lacking = self.space.search.refine - len(earlier)
            later = self._proposed(ranges, lacking) if ranges and lacking > 0 else []
            self._refinements = [*earlier, *later]
        return self._refinements

    def _proposed(self, ranges: dict[str, RangeConfig], count: int) -> list[dict[str, Any]]:
        told = [trial for trial, config in zip(self.frozen(), self.ended(), strict=True) if config.phase != "refine"]
        points = proposals.proposed(
            told,
            ranges,
            seed=derive(self.space.search.seed, self.cell.name, "refine"),
            maximize=self.space.metrics.direction == "max",
        )
        return proposals.different(points, ranges, count=count, known=self._known("explore", "extend", "refine"))

    def _known(self, *phases: Phase) -> set[str]:
        return {proposals.identity(trial.params, self.cell.ranges) for trial in self._asked(*phases)}

    def _asked(self, *phases: Phase) -> list[TrialConfig]:
        return [trial for trial in self.asked if trial.phase in phases]

    def ranges(self) -> dict[str, RangeConfig]:
        """The ranges, with the extension where there is one."""
        ranges = dict(self.cell.ranges)
        if "learning_rate" in ranges and self.count("extend"):
            ranges["learning_rate"] = proposals.widened(ranges["learning_rate"], self.extension())
        return ranges

    def ended(self) -> list[TrialConfig]:
        """Trials with a result, in the order of asking."""
        return [trial for trial in self.asked if trial.index in self.results]

    def frozen(self) -> list[FrozenTrial]:
        """The same, as Optuna's trials."""
        ranges = self.ranges()
        return [
            proposals.frozen(
                trial.params,
                ranges,
                status=self.results[trial.index].status,
                value=self.results[trial.index].value,
                attributes={"number": trial.number, "phase": trial.phase, "status": self.results[trial.index].status},
            )
            for trial in self.ended()
        ]

    def best(self, *phases: Phase) -> TrialConfig | None:
        """The complete trial with the best value, of the phases given or of all; ties go to the earlier one."""
        ranked = [rank for phase, rank in self._best.items() if not phases or phase in phases]
        return min(ranked, key=lambda rank: rank[:2])[2] if ranked else None


class Study:
    """A whole search: asks in turn from every cell, so that it is balanced whenever it is stopped.

    What it proposes depends on the recipe and on the results, not on the order in which they came, nor on the number
    of workers: rebuilt from the ledger, it goes on with the same proposals.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.cells = {cell.name: CellStudy(space, cell) for cell in space.cells()}
        self._numbers = 0
        self._ranked: list[tuple[float, int, TrialResult]] = []
        """Complete trials, the best first."""

    def aim(self, metrics: MetricsConfig) -> None:
        """Judge by these metrics: targets that were found after the study was laid out."""
        self.space = replace(self.space, metrics=metrics)
        for study in self.cells.values():
            study.space = self.space

    def restore(self, trials: Iterable[tuple[TrialConfig, TrialResult | None]]) -> None:
        """Take over what the ledger has, in the order of asking; cells that the recipe no longer has are left alone."""
        for config, result in trials:
            self._numbers = max(self._numbers, config.number + 1)
            if config.cell in self.cells:
                self.cells[config.cell].add(config)
                if result is not None:
                    self.tell(config, result)

    def ask(self) -> TrialConfig | None:
        """The next trial, from the cell that has been asked least; None while there is nothing to ask."""
        return self._next(self.cells.values())

    def ask_together(self, width: Callable[[Cell], int]) -> list[TrialConfig]:
        """The next trials that may share an array: up to `width`, from all cells of one batch size and optimizer."""
        first = self.ask()
        if first is None:
            return []
        cell = self.cells[first.cell].cell
        kin = [study for study in self.cells.values() if study.cell.kind == cell.kind]
        trials = [first]
        while len(trials) < width(cell) and (trial := self._next(kin)) is not None:
            trials.append(trial)
        return trials

    def _next(self, studies: Iterable[CellStudy]) -> TrialConfig | None:
        for study in sorted(studies, key=lambda study: len(study.asked)):
            proposal = study.propose()
            if proposal is not None:
                return self._trial(study, *proposal)
        return None

    def _trial(
        self, study: CellStudy, phase: Phase, sampled: dict[str, Any], point: Mapping[str, Any] | None = None
    ) -> TrialConfig:
        index = len(study.asked)
        trial = TrialConfig(
            number=self._numbers,
            cell=study.cell.name,
            index=index,
            phase=phase,
            params={**study.cell.axes, **sampled},
            train=study.train_config(sampled, index=index),
            point=point or {},
        )
        self._numbers += 1
        study.add(trial)
        return trial

    def tell(self, trial: TrialConfig, result: TrialResult) -> None:
        """Take in a result. Out of memory closes this batch size and all larger ones."""
        cell = self.cells[trial.cell]
        cell.tell(trial, result)
        if result.status == "COMPLETE" and result.value is not None:
            insort(self._ranked, (cell.sign * result.value, trial.number, result))
        if result.status == "OOM":
            for study in self.cells.values():
                if study.cell.batch_size >= trial.train.batch_size:
                    study.closed = True

    def until(self, trial: TrialConfig, progress: float) -> float:
        """Progress up to which a trial trains next; here always to its end."""
        return 1.0

    @property
    def rescales(self) -> bool:
        """Whether schedules are stretched over each stretch of a training."""
        return False

    def reaches(self, trial: TrialConfig, segments: Sequence[SegmentResult]) -> bool:
        """Take in what a trial has come to; whether it waits there until it is promoted. Here none does."""
        return False

    def promoted(self, *, idle: bool) -> list[int]:
        """Numbers of trials that have waited and go on now; `idle`: nothing else is left to do."""
        return []

    @property
    def resting(self) -> int:
        """How many trials wait until they are promoted."""
        return 0

    @property
    def known(self) -> list[str]:
        """What the study was told before it begins, a line each."""
        return []

    def given_up(self) -> list[int]:
        """Numbers of trials that wait and will never go on."""
        return []

    @property
    def may_ask(self) -> bool:
        """Whether another trial can be asked without waiting for a result. Only studies with rungs are asked."""
        return True

    def planned_by_kind(self) -> dict[tuple[int, str], int]:
        """Trials by batch size and optimizer, as far as is known now."""
        return self._by_kind(lambda study: study.planned)

    def first_by_kind(self) -> dict[tuple[int, str], int]:
        """Those of them that can be asked at once, before any result."""
        return self._by_kind(lambda study: len(study.explorations()))

    def _by_kind(self, count: Callable[[CellStudy], int]) -> dict[tuple[int, str], int]:
        found: Counter[tuple[int, str]] = Counter()
        for study in self.cells.values():
            found[study.cell.kind] += count(study)
        return found

    @property
    def is_over(self) -> bool:
        """Whether every trial has its result and no cell has another one to propose."""
        return not any(study.waiting or study.propose() for study in self.cells.values())

    @property
    def planned(self) -> int:
        """Trials that the search will have had when it is done, as far as is known now."""
        return sum(study.planned for study in self.cells.values())

    def trials(self) -> list[TrialConfig]:
        """All trials asked, by number."""
        return sorted((trial for study in self.cells.values() for trial in study.asked), key=lambda trial: trial.number)

    def ranking(self) -> list[tuple[TrialConfig, TrialResult]]:
        """The best trial of every cell that has one, best first."""
        sign = 1.0 if self.space.metrics.direction == "min" else -1.0
        best = [(trial, study.results[trial.index]) for study in self.cells.values() if (trial := study.best())]
        return sorted(best, key=lambda pair: (sign * _value(pair[1]), pair[0].number))

    def keepers(self, count: int) -> list[TrialResult]:
        """Results whose checkpoints are still needed: the best ones of all, and until the end every cell's best."""
        best = [result for _, result in self.ranking()]
        return [*best, *(result for result in self.top(count) if result not in best)]

    def top(self, count: int) -> list[TrialResult]:
        """The best trials of the whole study, best first."""
        return [result for *_, result in self._ranked[:count]]


def _value(result: TrialResult) -> float:
    assert result.value is not None, "only complete trials are ranked"
    return result.value
