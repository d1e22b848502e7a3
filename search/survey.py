"""What training side by side brings, measured while the first trials of a race train alone already."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from typing import Any

from search.executors import Executor
from search.gains import FEWEST, PROBE, Inquiry
from search.race import Race

WORTH = 1.5
"""Beside a race no array is tried that could not make a step so many times as fast: of large batches, whose steps are
long, the trial takes longest and brings least."""
STEP_SECONDS = "step_seconds"
"""The note of the step times measured: array trials of a search that is gone on with may end before new ones are."""


class Survey:
    """`search.gains.measure` beside a race, whose first results come that much sooner.

    At most half of the workers measure at a time. What is known of a kind of trial counts from then on. Where few
    trials are left, nothing is measured.
    """

    def __init__(self, executor: Executor, race: Race) -> None:
        self._executor, self._race = executor, race
        self._inquiry = Inquiry(race.study, slots=executor.slots)
        race.gains = self._inquiry.gains((), noted=race.ledger.meta(STEP_SECONDS))
        self._answers: list[Any] = []
        self._news: SimpleQueue[list[Any] | BaseException] = SimpleQueue()
        ended = sum(len(cell.ended()) for cell in race.study.cells.values())
        if race.study.planned - ended >= FEWEST:
            Thread(target=self._ask, name="regatta-survey", daemon=True).start()

    def look(self) -> bool:
        """With news, give the race what is known now. True if that is all there will be.

        Raises:
            Exception: whatever became of the measurement.
        """
        if self._news.empty():
            return False
        news = self._news.get()
        if isinstance(news, BaseException):
            raise news
        self._answers += news
        ledger = self._race.ledger
        self._race.gains = self._inquiry.gains(self._answers, noted=ledger.meta(STEP_SECONDS))
        ledger.set_meta(STEP_SECONDS, self._race.gains.noted)
        return len(self._answers) == len(self._inquiry.questions)

    def _ask(self) -> None:
        count, together = len(self._inquiry.questions), max(1, self._executor.slots // 2)
        answers: list[Any] = []
        try:
            for first in range(0, max(1, count), together):
                questions = self._inquiry.informed(answers, worth=WORTH)[first : first + together]
                news = self._executor.calls(PROBE, questions)
                self._news.put(news)
                answers += news
        except BaseException as error:  # The race raises it, in the main thread.
            self._news.put(error)
