"""The study of one cell: what to try next there, and what came back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial

from models.config import TrainConfig
from models.seeds import derive
from search import proposals
from search.config import RangeConfig
from search.space import EXTENSION, Cell, SearchSpace, beyond, edge_of
from search.trial import Phase, TrialConfig, TrialResult


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
            # When `trials` has been raised, what was refined before may be what would come next.
            self._explorations = self._sequence(self.space.search.trials, known=self._known("refine"))
        return self._explorations

    def _sequence(self, count: int, *, known: Collection[str] = ()) -> list[dict[str, Any]]:
        seed = derive(self.space.search.seed, self.cell.name, "explore")
        return proposals.quasi_random(self.cell.ranges, count=count, seed=seed, known=known)

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

    def example(self) -> TrainConfig:
        """The first of its quasi-random trainings, for what is to be found out before any trial."""
        return self.train_config(self._sequence(1)[0], index=0)

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


@dataclass(slots=True)
class TunedCell(CellStudy):
    """A cell that proposes nothing itself: the trials of the whole study that lie in it."""

    @property
    def planned(self) -> int:
        """Those asked: how many more will come, results decide."""
        return len(self.asked)

    def propose(self) -> tuple[Phase, dict[str, Any]] | None:
        """Nothing."""
        return None
