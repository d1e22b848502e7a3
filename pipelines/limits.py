"""The limits that end a search before its last trial: seconds and examples, counted over all calls."""

from __future__ import annotations

import shlex
import time

from pipelines.display import clock, examples_done
from pipelines.session import Session
from search.race import Race

SPENT = "seconds_spent"
"""The note of how long earlier calls have searched."""


class Limits:
    """Says when a search has had what its recipe allows; running trials then pause, as after Ctrl-C."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = float(session.ledger.meta(SPENT) or 0.0)
        self._started = time.monotonic()
        self.reached = ""
        """Which limit, in words; empty while there is none."""

    @property
    def seconds(self) -> float:
        """Seconds of search so far, earlier calls included."""
        return self._before + time.monotonic() - self._started

    def over(self, race: Race) -> bool:
        """Whether one is reached; once it is, it stays so."""
        search = race.study.space.search
        if not self.reached and search.seconds is not None and self.seconds >= search.seconds:
            self.reached = f"{clock(search.seconds)} of search"
        if not self.reached and search.examples is not None and examples_done(race) >= search.examples:
            self.reached = f"{search.examples:,} examples"
        return bool(self.reached)

    def note(self) -> None:
        """Keep what this call has taken."""
        self._session.ledger.set_meta(SPENT, self.seconds)

    def sentence(self, race: Race) -> str:
        """Why it ended before its last trial, and how it goes on."""
        search = race.study.space.search
        limit = "seconds" if self.reached.endswith("search") else "examples"
        more = 2 * (getattr(search, limit) or 0)
        recipe = shlex.quote(str(self._session.folder / "recipe.yaml"))
        waiting = len(race.waiting) + race.study.resting
        paused = f"; {waiting} trials are paused where they were" if waiting else ""
        return (
            f"Ended by `search.{limit}` after {self.reached}{paused}. To go on: regatta search --config {recipe} "
            f"--search.{limit} {more:.12g}"
        )
