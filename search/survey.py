"""What training side by side brings, measured while the first trials of a race train alone already."""

from __future__ import annotations

from concurrent.futures import Future
from threading import Thread
from typing import Any

from search.executors import Executor
from search.gains import PROBE, Inquiry
from search.race import Race
from search.study import Study

ALONE = 16
"""Trials that a race asks before it begins: spread over the whole grid, these would hardly fill an array."""


class Survey:
    """`search.gains.measure` beside a race, whose first results come that much sooner."""

    def __init__(self, executor: Executor, study: Study) -> None:
        self._executor = executor
        self._inquiry = Inquiry(study, slots=executor.slots)
        self._answers: Future[list[Any]] = Future()
        self._begun = self._over = False

    def look(self, race: Race) -> bool:
        """Begin when it is time; with the answers, give the race what they come to. True if it just did.

        Raises:
            Exception: whatever became of the measurement.
        """
        if not self._begun and len(race.trials) >= ALONE:
            self._begun = True
            Thread(target=self._ask, name="regatta-survey", daemon=True).start()
        if self._over or not self._answers.done():
            return False
        self._over = True
        race.gains = self._inquiry.gains(self._answers.result())
        return True

    def _ask(self) -> None:
        try:
            self._answers.set_result(self._executor.calls(PROBE, self._inquiry.questions))
        except BaseException as error:  # The race raises it, in the main thread.
            self._answers.set_exception(error)
