"""What the trials of a search for the best have come to: as a sampler is told of them, and as they are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from optuna.trial import TrialState

from search.config import RangeConfig
from search.expected import Expectation, Seen, expectations
from search.foreseen import Course, Outlook
from search.joint import SCHEDULE
from search.rungs import Rungs
from search.samplers import Known, state_of
from search.trial import TrialConfig, TrialResult


class Courses:
    """Looks again only at trials that have moved on since it was last asked."""

    def __init__(
        self,
        rungs: Rungs,
        trials: Mapping[int, TrialConfig],
        *,
        result_of: Callable[[TrialConfig], TrialResult | None],
        maximize: bool,
    ) -> None:
        """`rungs`, `trials` by number and `result_of` are those of the study, as it goes on."""
        self._rungs, self._trials, self._result_of = rungs, trials, result_of
        self._sign = -1.0 if maximize else 1.0
        self._outlook = Outlook(stages=rungs.stages)
        self._views: dict[int, Known] = {}
        self._moved: set[int] = set()

    def moves(self, trial: TrialConfig) -> None:
        """This trial has been asked, has come to something, or is another one than before."""
        if trial.number in self._trials:
            self._moved.add(trial.number)

    def known(self) -> list[Known]:
        """Every trial as a sampler is to see it, in the order of asking."""
        anew = self._outlook.take({number: self._course(self._trials[number]) for number in self._moved})
        for number in sorted(anew):
            self._views[number] = self._view(self._trials[number])
        self._moved.clear()
        return list(self._views.values())

    def expected(self, extents: Mapping[str, RangeConfig]) -> dict[int, Expectation]:
        """What complete trials' configurations are expected to come to on fresh seeds, by number.

        `extents`: the coordinates of the trials' points.
        """
        self.known()
        # The same from the same trials, in whatever order they came back.
        self._outlook.renew()
        seen = {number: self._seen(number, end) for number, end in sorted(self._outlook.ends.items())}
        return expectations(seen, extents, logarithmic=self._outlook.logarithmic, sign=self._sign)

    def _view(self, trial: TrialConfig) -> Known:
        end, losses = self._outlook.ends.get(trial.number), enumerate(self._rungs.losses(trial.number))
        return Known(
            point=trial.point,
            state=state_of(self._result_of(trial), waits=False) if end is None else TrialState.COMPLETE,
            value=None if end is None else self._sign * end,
            rungs={rung: self._sign * loss for rung, loss in losses if math.isfinite(loss)},
            attributes=trial.noted,
        )

    def _course(self, trial: TrialConfig) -> Course | None:
        """What a trial has come to that is complete, or waits, or goes on; None of one that broke off, or is none."""
        result, losses = self._result_of(trial), list(self._rungs.losses(trial.number))
        if result is not None and result.status == "COMPLETE" and result.value is not None:
            losses.append(self._sign * result.value)
        elif result is not None and result.status != "PRUNED":
            return None
        return Course(str(trial.params[SCHEDULE]), losses)

    def _seen(self, number: int, end: float) -> Seen:
        trial = self._trials[number]
        result = self._result_of(trial)
        complete = result is not None and result.status == "COMPLETE"
        return Seen(point=trial.point, loss=end, doubt=self._outlook.doubt(number), complete=complete)
