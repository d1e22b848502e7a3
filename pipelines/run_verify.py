"""`regatta verify`: train the best configurations again on fresh seeds, say which to use, then try the test split."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipelines import results
from pipelines.best_files import write_best
from pipelines.display import Display, clock
from pipelines.ending import settle
from pipelines.session import Session, aim, begun, compare_tiers, note, start_sync
from pipelines.studies import ledger_of, recipe_of
from pipelines.workers import workers
from search.checkpoints import discard
from search.executors import Executor
from search.failure import SearchFailed
from search.race import Race
from search.resuming import recall, restore
from search.standings import Outcome, Standing, figure, judge, lost, ties
from search.verification import SEEDS, TOP, Verification, is_tested, on_test_split
from tracking.files import announce
from tracking.ledger_file import driver_lock
from tracking.place import existing_study
from tracking.tables import write_rows, write_tables

CSV = "verify.csv"
NO_COLUMNS = ("params", "described", "objectives")
FIRST = ("name", "cell", "trial", "chosen", "baseline", "search_value", "mean", "sd", "regression", "values")


def main(study: str | None, top: int = TOP, seeds: int = SEEDS) -> int:
    """Verify the best of a study, the last one if none is named, or go on with it; returns the exit code.

    Raises:
        ValueError: if there is no such study, if nothing in it has completed, or if too little is asked for.
    """
    if top < 1:
        raise ValueError(f"`top` must be at least 1, but got {top}.")
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2 (one training has no spread), but got {seeds}.")
    folder = existing_study(study)
    with driver_lock(folder), ledger_of(folder) as ledger:
        recipe = recipe_of(ledger)
        with begun(ledger, recipe, folder) as session:
            return verify(session, top=top, seeds=seeds)


def verify(session: Session, *, top: int, seeds: int) -> int:
    """All stages; returns the exit code."""
    searched, ledger = session.study, session.ledger
    aim(session)
    recall(searched, ledger)
    searched.expect()
    race = Race(Verification(searched, top=top, seeds=seeds), ledger, str(session.folder / "verification"))
    restore(race)
    ledger.set_meta("status", "RUNNING")
    code = 0
    try:
        run(session, race)
    except SearchFailed as failure:
        code = 1
        session.console.print(f"[red]the verification cannot go on:[/] {escape(str(failure))}", soft_wrap=True)
    finally:
        # The run in MLflow is the search's: what becomes of a verification, its own trials tell.
        ledger.set_meta("status", "FINISHED" if searched.is_over else "KILLED")
        write_tables(session.folder)
    settle(session, brief=True)
    return session.interrupts.exit_code or code


def run(session: Session, race: Race) -> None:
    """Start the workers and go through the stages, unless all of them were gone through before."""
    if race.is_over:
        start_sync(session)
        outcome, tested = judged(session, race), tested_before(session)
        if tested is not None and is_tested(outcome.chosen, tested):
            session.console.print(f"[bold]{session.folder.name}[/]: {planned(race)}, all done before", highlight=False)
            conclude(session, outcome, tested)
            return
    with workers(session) as (executor, _):
        go_through(session, race, executor)


def go_through(session: Session, race: Race, executor: Executor) -> None:
    """Train what is lacking, compare, use the test split once."""
    if not race.is_over:
        train(session, race, executor)
    if session.interrupts:
        again = escape(f"regatta verify --study {shlex.quote(session.folder.name)}")
        session.console.print(f"to go on: [bold]{again}[/]", highlight=False, soft_wrap=True)
        return
    outcome = judged(session, race)
    with session.console.status("measuring the chosen configuration on the test split"):
        tested = on_test_split(finalists_of(race), outcome.chosen, executor, earlier=tested_before(session))
    conclude(session, outcome, tested)
    tidy(finalists_of(race), outcome)


def tested_before(session: Session) -> dict[str, Any] | None:
    """What an earlier call has seen of the test split."""
    found: dict[str, Any] | None = (session.ledger.meta("verification") or {}).get("test")
    return found


def finalists_of(race: Race) -> Verification:
    """The study of a race that verifies."""
    assert isinstance(race.study, Verification), "this race has been made for a verification"
    return race.study


def planned(race: Race) -> str:
    """How much there is to do, in words."""
    configurations, trainings = len(race.study.cells), race.study.planned
    some = "configuration" if configurations == 1 else "configurations"
    return f"{configurations} {some} on fresh seeds, {trainings} trainings"


def train(session: Session, race: Race, executor: Executor) -> None:
    """Race through the trainings that are lacking."""
    console, started = session.console, time.monotonic()
    done = sum(len(cell.results) for cell in race.study.cells.values())
    left = f" ({done} done before)" if done else ""
    console.print(f"[bold]{session.folder.name}[/]: {planned(race)}{left}", highlight=False)
    if not session.interrupts:
        compare_tiers(session, race, executor)
    start_sync(session)
    with Display(console, note=lambda: note(session)) as display:
        interrupted = lambda: bool(session.interrupts)  # noqa: E731
        race.run(executor, stopping=interrupted, hurried=interrupted, watch=display.watch)
    ended = sum(len(cell.results) for cell in race.study.cells.values()) - done
    console.print(f"{ended} trainings in {clock(time.monotonic() - started)}", highlight=False)


def judged(session: Session, race: Race) -> Outcome:
    """The comparison, with the step times that the search has measured."""
    steps = (session.ledger.meta("probes") or {}).get("steps") or {}
    ended = sum(len(cell.results) for cell in session.study.cells.values())
    return judge(finalists_of(race), step_seconds=steps, searched=ended)


def conclude(session: Session, outcome: Outcome, tested: Mapping[str, Any]) -> None:
    """Keep the verdict, and say it."""
    ledger, console = session.ledger, session.console
    said = [*outcome.sentences, test_sentence(tested)]
    ledger.set_meta("verification", {**asdict(outcome), "sentence": " ".join(said), "test": dict(tested)})
    ledger.set_meta("verified", figures(outcome, tested))
    ledger.set_meta("description", results.description(session.study, said))
    write_rows(session.folder / CSV, rows(outcome, tested), FIRST)
    announce(ledger, [CSV])
    write_best(ledger, session.study, session.recipe)
    console.print(table(outcome, metric=session.study.space.metrics.objective))
    for sentence in said:
        console.print(escape(sentence), highlight=False)
    console.print(escape(f"\nwritten to {session.folder}: {CSV}, best.yaml"), highlight=False, soft_wrap=True)
    command = escape(f"regatta train --study {shlex.quote(session.folder.name)}")
    console.print(f"next: [bold]{command}[/]  [dim]train {outcome.chosen} for production[/]", highlight=False)


def test_sentence(tested: Mapping[str, Any]) -> str:
    """What the test split said, or why it said nothing."""
    if not tested["metrics"]:
        return f"The test split was not used: {tested['reason']}."
    shown = [
        f"{name} {found['mean']:.4g}" + ("" if found["sd"] is None else f" (SD {found['sd']:.2g})")
        for name, found in tested["metrics"].items()
    ]
    counts = {len(found["values"]) for found in tested["metrics"].values()}
    text = f"Test split, {tested['name']} at the end of {max(counts)} trainings: {', '.join(shown)}."
    if tested["before"]:
        text += f" The split was used before, for {', '.join(tested['before'])}: this is no first look."
    return text


def tidy(verification: Verification, outcome: Outcome) -> None:
    """Remove the checkpoints of what lost; what cannot be told from the best may be the choice when seeds are added."""
    kept = {one.name for one in ties(outcome.finalists)}
    for finalist in verification.finalists:
        if finalist.cell.name not in kept:
            for result in finalist.results.values():
                discard(result.checkpoint)


def figures(outcome: Outcome, tested: Mapping[str, Any]) -> dict[str, float]:
    """Key figures of the choice, as metrics of the search's run in MLflow."""
    one = outcome.choice
    known = {"value": one.mean, "sd": one.sd, "regression": one.regression, "seeds": len(one.values)}
    known |= dict(one.objectives)
    known |= {name: found["mean"] for name, found in tested["metrics"].items()}
    known |= {f"{name}_sd": found["sd"] for name, found in tested["metrics"].items()}
    return {f"verified/{name}": float(x) for name, x in known.items() if x is not None and math.isfinite(x)}


def rows(outcome: Outcome, tested: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row per finalist, the best first."""
    return [
        {
            **one.params,
            **{name: value for name, value in asdict(one).items() if name not in NO_COLUMNS},
            **{f"mean_{name}": value for name, value in one.objectives.items()},
            **{name: " ".join(repr(value) for value in getattr(one, name)) for name in ("values", "judged")},
            "chosen": one.name == outcome.chosen,
            **(_tested(tested) if one.name == tested["name"] else {}),
        }
        for one in outcome.finalists
    ]


def _tested(tested: Mapping[str, Any]) -> dict[str, Any]:
    found = tested["metrics"]
    return {name: found[name]["mean"] for name in found} | {f"{name}_sd": found[name]["sd"] for name in found}


def table(outcome: Outcome, *, metric: str) -> Table:
    """The finalists, the best first; the choice in bold."""
    by = "" if outcome.judged_by == metric else f", compared by {outcome.judged_by}"
    title = f"{metric} on fresh seeds{by}"
    made = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    made.add_column("configuration", no_wrap=True)
    others = [name for name in dict.fromkeys(chain(*(one.objectives for one in outcome.finalists))) if name != metric]
    by_another = outcome.judged_by not in (metric, *others)
    for name in ("in the search", "mean", "SD", "seeds", *others, *([outcome.judged_by] if by_another else [])):
        made.add_column(name, justify="right", overflow="fold")
    made.add_column("best less this (interval)", justify="right", no_wrap=not by)
    made.add_column("the best is")
    made.add_column("costs", justify="right")
    for one in outcome.finalists:
        more = [_mean(one.objectives.get(name)) for name in others] + [_mean(one.judged_mean)] * by_another
        made.add_row(*_cells(one, more), style="bold" if one.name == outcome.chosen else None)
    return made


def _mean(value: float | None) -> str:
    return "never" if value is None else figure(value)


def _cells(one: Standing, more: Sequence[str]) -> list[str]:
    never = lost(one) - one.diverged
    counts = ((one.diverged, "diverged"), (never, "never arrived"), (one.failed, "failed"))
    return [
        one.name,
        f"{one.search_value:.4g}",
        "" if one.mean is None else f"{one.mean:.4g}",
        "" if one.sd is None else f"{one.sd:.2g}",
        ", ".join([str(len(one.values)), *(f"{count} {word}" for count, word in counts if count)]),
        *more,
        _difference(one),
        "" if one.outcome == "best" else one.outcome,
        f"{one.cost:.3g} s" if one.cost_unit == "seconds" else f"{one.cost:,.0f} examples",
    ]


def _difference(one: Standing) -> str:
    if one.difference is None or one.low is None or one.high is None or not math.isfinite(one.difference):
        return ""  # There is none to a training that diverged.
    known = math.isfinite(one.low + one.high)
    interval = f" ({figure(one.low, 2)} to {figure(one.high, 2)})" if known else ""
    return figure(one.difference, 2) + interval
