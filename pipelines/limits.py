"""The limits that end a search before its last trial: time, devices, examples, and that it no longer pays."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator

from pipelines.display import clock, examples_done
from pipelines.increments import SPENT
from pipelines.session import Session
from search.paying import plateau
from search.race import Race
from search.trial import TrialResult
from tracking.rows import PAUSED

ENDED = "ended"
"""The note of why the search has ended; empty while it runs."""


class Limits:
    """Says when a search has had what its recipe allows; running trials then pause, as after Ctrl-C."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = float(session.ledger.meta(SPENT) or 0.0)
        search = session.recipe.search
        wanted = search.device_seconds is not None or search.examples is not None
        self._examples_before, self._workers_before = session.ledger.spent() if wanted else (0, 0.0)
        self._started = time.monotonic()
        self._judged = 0
        self.setting = ""
        """Which setting has ended it; empty while none has."""
        self.why = ""
        """The same in words."""

    @property
    def seconds(self) -> float:
        """Seconds of search so far, earlier calls included."""
        return self._before + time.monotonic() - self._started

    @property
    def seconds_left(self) -> float:
        """Seconds until `search.seconds` ends the search; infinite where it is not set."""
        limit = self._session.recipe.search.seconds
        return math.inf if limit is None else limit - self.seconds

    def over(self, race: Race) -> bool:
        """Whether one is reached; once it is, it stays so."""
        if not self.setting:
            self.setting, self.why = next(self._reached(race), ("", ""))
        return bool(self.setting)

    def _reached(self, race: Race) -> Iterator[tuple[str, str]]:
        search = race.study.space.search
        if search.seconds is not None and self.seconds >= search.seconds:
            yield "seconds", f"after {clock(search.seconds)} of search"
        if search.examples is not None and examples_done(race) >= search.examples:
            yield "examples", f"after {search.examples:,} examples"
        if search.device_seconds is not None and self._device_seconds(race) >= search.device_seconds:
            yield "device_seconds", f"after {clock(search.device_seconds)} of training, summed over devices"
        if settled := self._settled(race):
            yield "stop", f"it no longer pays: {settled}"

    def _device_seconds(self, race: Race) -> float:
        """Workers that share a GPU share its seconds."""
        return (self._workers_before + race.worker_seconds) / self._session.recipe.cluster.per_gpu

    def _settled(self, race: Race) -> str:
        study = race.study
        results: list[TrialResult] = [result for cell in study.cells.values() for result in cell.results.values()]
        # Only a result can change it, and this is asked four times a second.
        if study.space.search.stop is None or len(results) == self._judged:
            return ""
        self._judged = len(results)
        return plateau(results, study.space.search.stop, maximize=study.space.metrics.direction == "max")

    def note(self, race: Race) -> None:
        """Keep what this call has taken, and why the search has ended."""
        self._session.ledger.set_meta(SPENT, self.seconds)
        done = sum(len(cell.results) for cell in race.study.cells.values())
        cut = self.why or "interrupted"
        self._session.ledger.set_meta(ENDED, f"{done} of {race.study.planned} trials" if race.is_over else cut)
        at_rungs = (number for number, segments in race.segments.items() if segments)
        paused = {*race.running, *(segment.trial for segment in race.waiting), *at_rungs}
        self._session.ledger.set_meta(PAUSED, {str(number): cut for number in sorted(paused)})

    def sentence(self, race: Race) -> str:
        """Why it ended before its last trial, and how it goes on."""
        recipe = shlex.quote(str(self._session.folder / "recipe.yaml"))
        waiting = len(race.waiting) + race.study.resting
        paused = f"; {waiting} trials are paused where they were" if waiting else ""
        join = ":" if self.setting == "stop" else ""
        return (
            f"Ended by `search.{self.setting}`{join} {self.why}{paused}. To go on: regatta search --config {recipe} "
            f"--search.{self.setting} {self._more(race)}"
        )

    def _more(self, race: Race) -> str:
        """What this call had to use up, once more."""
        if self.setting == "stop":
            return "null"
        limit = getattr(race.study.space.search, self.setting)
        used = {
            "seconds": self._before,
            "examples": self._examples_before,
            "device_seconds": self._workers_before / self._session.recipe.cluster.per_gpu,
        }
        granted = limit - used[self.setting]
        # A total such as 1200.3, which `+600` came to after 600.3, grants 600 again.
        return f"+{round(granted if granted > 0 else limit, 2):.15g}"
