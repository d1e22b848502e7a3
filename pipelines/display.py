"""What the user sees while a search runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines import fronts
from search.cell_study import CellStudy
from search.objectives import ObjectiveStudy
from search.race import Race
from search.trial import TrialResult

LINE_SECONDS = 10.0
"""Without a terminal, a line is printed this often."""
REFRESH_SECONDS = 0.25
"""On a terminal, the picture is drawn this often."""


class Display:
    """Shows a race; `watch` is called whenever something may have changed."""

    def __init__(
        self, console: Console, *, note: Callable[[], str], limit: Callable[[], float] = lambda: math.inf
    ) -> None:
        """`limit`: seconds after which the race is ended, however much is left of it."""
        self._console = console
        self._note = note
        self._limit = limit
        self._started = time.monotonic()
        self._examples_before: int | None = None
        self._live: Live | None = None
        self._shown_at = -math.inf

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            # Drawn by `watch` alone: a thread of its own would read the race while it changes.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def watch(self, race: Race) -> None:
        """Show the race as it stands now, unless that was just done."""
        while race.told:
            self._console.print(race.told.popleft(), highlight=False, markup=False, soft_wrap=True)
        if self._examples_before is None:
            self._examples_before = examples_done(race)
        if time.monotonic() - self._shown_at < (LINE_SECONDS if self._live is None else REFRESH_SECONDS):
            return
        self._shown_at = time.monotonic()
        if self._live is None:
            self._console.print(self.headline(race), highlight=False, markup=False, soft_wrap=True)
        else:
            self._live.update(self._picture(race), refresh=True)

    def headline(self, race: Race) -> str:
        """One line: how far, how many of which kind, how fast, and for how long yet."""
        results = [result for study in race.study.cells.values() for result in study.results.values()]
        counts: Counter[str] = Counter(result.status for result in results)
        done = counts.total()
        elapsed = max(1e-9, time.monotonic() - self._started)
        rate = (examples_done(race) - (self._examples_before or 0)) / elapsed
        parts = [f"{done}/{race.study.planned} trials", f"{len(race.running)} running"]
        parts += [
            f"{counts[s]} {word}"
            for s, word in (
                ("PRUNED", "pruned"),
                ("DIVERGED", "diverged"),
                ("OOM", "out of memory"),
                ("TIMEOUT", "timed out"),
                ("FAILED", "failed"),
            )
            if counts[s]
        ]
        if race.study.resting:
            parts.insert(2, f"{race.study.resting} waiting at a rung")
        if rate > 0:
            parts.append(f"{rate:,.0f} examples/s")
        left = min(seconds_left(race), max(0.0, self._limit()))
        if math.isfinite(left):
            parts.append(f"{clock(left)} left")
        note = self._note()
        return " · ".join([*parts, note] if note else parts)

    def _picture(self, race: Race) -> RenderableType:
        done = sum(len(study.results) for study in race.study.cells.values())
        return Group(
            ProgressBar(total=race.study.planned, completed=done, width=min(60, self._console.width)),
            Text(self.headline(race)),
            Text(leader(race)),
            *([Text(rungs(race))] if race.study.at_rungs else []),
            grid(race),
        )


def grid(race: Race) -> Table:
    """Progress and best value so far: a row for every batch size, a column for every optimizer and schedule."""
    studies = list(race.study.cells.values())
    columns = list(dict.fromkeys((study.cell.optimizer, study.cell.schedule) for study in studies))
    one_optimizer = len({optimizer for optimizer, _ in columns}) == 1
    table = Table(box=None, pad_edge=False)
    table.add_column("batch size", justify="right")
    for optimizer, schedule in columns:
        table.add_column(schedule if one_optimizer else f"{optimizer} {schedule}", justify="right")
    for size in dict.fromkeys(study.cell.batch_size for study in studies):
        row = {(s.cell.optimizer, s.cell.schedule): s for s in studies if s.cell.batch_size == size}
        table.add_row(str(size), *(_entry(row[column]) for column in columns))
    return table


def _entry(study: CellStudy) -> Text:
    best = study.best()
    value = "" if best is None else f"{study.results[best.index].value:.4g}"
    done = len(study.results)
    style = "dim" if study.closed else "green" if done >= study.planned else ""
    return Text(f"{value:>8} {done:>3}/{study.planned}", style=style)


def leader(race: Race) -> str:
    """The best trial so far, in words."""
    ranking = race.study.leaders()
    if not ranking:
        return "no trial has ended yet"
    trial, result = ranking[0]
    rate = trial.params.get("learning_rate")
    at = "" if rate is None else f" at learning rate {rate:.3g}"
    study, came = race.study, f"{race.study.space.metrics.objective} {result.value:.4g}"
    if isinstance(study, ObjectiveStudy):
        came = ", ".join(map(" ".join, zip(study.objectives, fronts.values(study, result), strict=True)))
        came += f" (of {len(study.front())} on the front)" if study.front() else ""
    return f"best so far: {came}, {trial.cell}{at}"


def rungs(race: Race) -> str:
    """How many trials have come to each rung, and how many of them have gone on."""
    told = [f"{rung.came} came to {rung.progress:.0%}, {rung.gone_on} went on" for rung in race.study.at_rungs]
    return f"rungs: {'; '.join(told)}"


def examples_done(race: Race) -> int:
    """Examples trained on in everything that the ledger has."""
    ended = sum(result.examples for study in race.study.cells.values() for result in study.results.values())
    return ended + sum(segment.examples for segments in race.segments.values() for segment in segments)


def seconds_left(race: Race) -> float:
    """Time until the end if trials go on as they did at their batch size; infinite before the first has ended."""
    studies = list(race.study.cells.values())
    taken: dict[int, list[float]] = {}
    for study in studies:
        taken.setdefault(study.cell.batch_size, []).extend(share(r) for r in study.results.values())
    every = [seconds for values in taken.values() for seconds in values]
    if not every:
        return math.inf
    mean = sum(every) / len(every)
    left = 0.0
    for study in studies:
        here = taken[study.cell.batch_size]
        left += (study.planned - len(study.results)) * (sum(here) / len(here) if here else mean)
    # Of what is not asked yet, nobody knows where it will lie.
    left += (race.study.planned - sum(study.planned for study in studies)) * mean
    return left / max(1, race.slots)


def share(result: TrialResult) -> float:
    """Seconds of a worker that a trial has cost: of an array's, its part."""
    return result.wall_seconds / float(result.tags.get("width", 1))


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
