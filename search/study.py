"""The studies of a search, one for each cell, as one: asked in turn, told of every result."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna

from models.config import MetricsConfig, TrainConfig
from models.segment import SegmentResult
from search.cell_study import CellStudy
from search.criterion import Criterion
from search.expected import Expectation
from search.parts import divides, half, parts
from search.promotion import Rung
from search.space import Cell, SearchSpace
from search.trial import Phase, TrialConfig, TrialResult

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """A whole search: asks in turn from every cell, so that it is balanced whenever it is stopped.

    What it proposes depends on the recipe and on the results, not on the order in which they came, nor on the number
    of workers: rebuilt from the ledger, it goes on with the same proposals.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.cells = {cell.name: CellStudy(space, cell) for cell in space.cells()}
        self.most: int | None = None
        """Examples that go through the model at once, at most; None while nothing has run out of memory."""
        self.too_large: int | None = None
        """The smallest batch size that was found not to fit before any trial; None if none was."""
        self._numbers = 0
        self._ranked: list[tuple[float, int, TrialResult]] = []
        """Complete trials, the best first."""
        self.expected: Mapping[int, Expectation] = {}
        """What complete trials' configurations come to on fresh seeds, by number, once that is worked out."""

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
        trial = self.fitted(trial)
        self._numbers += 1
        study.add(trial)
        return trial

    def fitted(self, trial: TrialConfig) -> TrialConfig:
        """A trial in as many parts as fit into memory by what is known now."""
        return replace(trial, train=self.divided(trial.train))

    def divided(self, train: TrainConfig) -> TrainConfig:
        """The same training, in parts that fit into memory by what is known now."""
        if self.most is None or not self.space.search.accumulate:
            return train
        return replace(train, accumulate=parts(train.batch_size, train.accumulate, most=self.most))

    def divide(self, train: TrainConfig) -> bool:
        """Take in that memory ran out: halve what goes through the model at once, unless that cannot be."""
        if not self.space.search.accumulate or not divides(train.batch_size, train.accumulate):
            return False
        most = half(train.batch_size, train.accumulate)
        self.most = most if self.most is None else min(self.most, most)
        return True

    def revise(self, trial: TrialConfig) -> None:
        """Put a trial in the place of the one of its number, which has not begun."""
        self.cells[trial.cell].asked[trial.index] = trial

    def tell(self, trial: TrialConfig, result: TrialResult) -> None:
        """Take in a result. Out of memory closes this batch size and all larger ones, unless they can be divided."""
        cell = self.cells[trial.cell]
        cell.tell(trial, result)
        if result.status == "COMPLETE" and result.value is not None:
            insort(self._ranked, (cell.sign * result.value, trial.number, result))
        if result.status == "OOM" and not self.divide(trial.train):
            self._close(trial.train.batch_size)

    def close(self, batch_size: int) -> None:
        """Leave out a batch size and all larger ones, which do not fit into memory: nothing of them is asked."""
        self.too_large = batch_size
        self._close(batch_size)

    def _close(self, batch_size: int) -> None:
        for study in self.cells.values():
            if study.cell.batch_size >= batch_size:
                study.closed = True

    def is_closed(self, batch_size: int) -> bool:
        """Whether nothing more is asked at a batch size."""
        return all(study.closed for study in self.cells.values() if study.cell.batch_size == batch_size)

    def has_trained(self, batch_size: int) -> bool:
        """Whether any trial at a batch size came to its end, so that it fits into memory."""
        return any(study.best() for study in self.cells.values() if study.cell.batch_size == batch_size)

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

    @property
    def at_rungs(self) -> list[Rung]:
        """How many trials have come to each rung, and gone on from it."""
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
            if not study.closed:
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

    @property
    def sign(self) -> float:
        """-1 where a large objective is good, otherwise 1."""
        return 1.0 if self.space.metrics.direction == "min" else -1.0

    def expect(self) -> None:
        """Work out what configurations are expected to come to; of a grid, whose cells are compared, nothing."""

    def ranking(self) -> list[tuple[TrialConfig, TrialResult]]:
        """The trial of every cell to recommend, the best first: by what is expected of it, else by what it came to."""
        if not self.expected:
            return self.leaders()
        known = [(trial, study.results[trial.index]) for study in self.cells.values() for trial in study.ended()]
        judged = [pair for pair in known if pair[0].number in self.expected]
        judged.sort(key=lambda pair: (self.sign * self.expected[pair[0].number].bound, pair[0].number))
        best: dict[str, tuple[TrialConfig, TrialResult]] = {}
        for trial, result in judged:
            best.setdefault(trial.cell, (trial, result))
        return list(best.values())

    def leaders(self) -> list[tuple[TrialConfig, TrialResult]]:
        """The trial of every cell with the best value, the best first."""
        best = [(trial, study.results[trial.index]) for study in self.cells.values() if (trial := study.best())]
        return sorted(best, key=lambda pair: (self.sign * _value(pair[1]), pair[0].number))

    @property
    def criterion(self) -> Criterion:
        """By what the best are compared on fresh seeds."""
        metrics = self.space.metrics
        return Criterion(name=metrics.objective, direction=metrics.direction, of=lambda result: result.value)

    def keepers(self, count: int) -> list[TrialResult]:
        """Results whose checkpoints are still needed: the best ones of all, and until the end every cell's best."""
        best = [result for _, result in self.leaders()]
        return [*best, *(result for result in self.top(count) if result not in best)]

    def top(self, count: int) -> list[TrialResult]:
        """The best trials of the whole study, best first."""
        return [result for *_, result in self._ranked[:count]]


def _value(result: TrialResult) -> float:
    assert result.value is not None, "only complete trials are ranked"
    return result.value
