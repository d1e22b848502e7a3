"""`regatta search`: race the trials of a recipe, keep everything, and say what came of it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from rich.markup import escape

from models.user_code import changes
from pipelines import results
from pipelines.display import Display, clock
from pipelines.ending import conclude, measure_best, settle
from pipelines.knowledge import knowledge_of
from pipelines.limits import ENDED, Limits
from pipelines.reasons import came_to_nothing
from pipelines.recipe import Recipe
from pipelines.session import (
    Session,
    aim,
    begun,
    compare_tiers,
    note,
    opened,
    prepare_sync,
    space_of,
    start_sync,
    survey_of,
    tiers,
)
from pipelines.workers import workers
from search.audit import audit, summary
from search.calibration import calibrate
from search.executors import Executor
from search.failure import SearchFailed
from search.objectives import study_of
from search.race import MOST_EXAMPLES, TOO_LARGE, Race
from search.resuming import restore
from search.room import look
from search.study import Study
from search.survey import Survey
from tracking.place import study_folder
from tracking.rows import EXPECTED, PAUSED
from tracking.tables import write_tables


def main(recipe: Recipe) -> int:
    """Run or continue the study of a recipe; returns the exit code."""
    folder = study_folder(recipe.study_name)
    knowledge = knowledge_of(recipe, folder)
    study_of(space_of(recipe, knowledge))  # What it refuses, it refuses before anything is written.
    with opened(recipe, folder, knowledge) as ledger, begun(ledger, recipe, folder) as session:
        code = 0
        try:
            run(session)
        except SearchFailed as failure:
            code = 1
            session.ledger.set_meta(ENDED, f"it failed: {str(failure).splitlines()[0]}")
            session.console.print(f"[red]the search cannot go on:[/] {escape(str(failure))}", soft_wrap=True)
            conclude(session, complete=False)
        except BaseException:
            # What ended it is what is told, not that the tables could not be written either.
            with suppress(OSError):
                write_tables(folder)
            raise
        settle(session)
        return session.interrupts.exit_code or code or int(came_to_nothing(session.study))


def run(session: Session) -> None:
    """Start the workers and race, unless nothing is left to train; then what follows from it."""
    recipe, console, study = session.recipe, session.console, session.study
    started = time.monotonic()
    aim(session)
    race = Race(study, session.ledger, str(session.folder / "checkpoints"))
    restore(race)
    before = Limits(session)
    if (race.is_over or before.over(race)) and session.ledger.meta("probes") is not None:
        start_sync(session)
        told = "all done before" if race.is_over else before.sentence(race)
        done = f"[bold]{recipe.name}[/]: {len(study.trials())} trials, {escape(told)}"
        console.print(done, highlight=False, soft_wrap=True)
        conclude(session, complete=True)
        return
    prepare_sync(session)
    with workers(session) as (executor, dashboard):
        if not session.interrupts:
            with session.interrupts.at_once():
                look_ahead(session, executor, dashboard=dashboard)
        start_sync(session)
        if recipe.metrics.calibrate and not session.interrupts:
            calibrated(session, executor)
        survey = survey_of(session, race, executor)
        if survey is None and not session.interrupts:
            compare_tiers(session, race, executor)
        told = train(session, race, executor, survey=survey)
        if study.space.search.audit and not session.interrupts:
            examine(session, executor)
        console.print(f"{len(study.trials())} trials in {clock(time.monotonic() - started)}", highlight=False)
        console.print(escape(told), highlight=False, soft_wrap=True)
        conclude(session, complete=not session.interrupts)
        if not session.interrupts:
            measure_best(session, race, executor)


def look_ahead(session: Session, executor: Executor, *, dashboard: str) -> None:
    """Build everything once, say what is about to happen, and see that it fits into memory."""
    with session.console.status("building the data and the model"):
        facts = preflight(executor, session.study)
    remember(session, facts["origin"])
    introduce(session, facts, dashboard=dashboard)
    make_room(session, executor)


def make_room(session: Session, executor: Executor) -> None:
    """Leave out batch sizes that do not fit into memory, or let them train in parts; say so, and note it."""
    study, ledger = session.study, session.ledger
    with session.console.status("looking whether the largest batches fit into memory"):
        for sentence in look(study, executor, per_gpu=session.recipe.cluster.per_gpu):
            session.console.print(f"[yellow]{escape(sentence)}[/]", highlight=False, soft_wrap=True)
    for name, value in ((MOST_EXAMPLES, study.most), (TOO_LARGE, study.too_large)):
        if value is not None:
            ledger.set_meta(name, value)


def train(session: Session, race: Race, executor: Executor, *, survey: Survey | None) -> str:
    """Race until nothing is left, or until a signal or a limit ends it; returns what is to be said of that."""
    limits = Limits(session)

    def watch(race: Race) -> None:
        if survey is not None and survey.look():
            race.told.append(tiers(race.gains))
        display.watch(race)

    session.ledger.set_meta(ENDED, "")
    for name in (PAUSED, EXPECTED):
        session.ledger.set_meta(name, {})
    with Display(session.console, note=lambda: note(session), limit=lambda: limits.seconds_left) as display:
        try:
            race.run(
                executor,
                stopping=lambda: bool(session.interrupts) or limits.over(race),
                hurried=lambda: bool(session.interrupts),
                watch=watch,
            )
        finally:
            limits.note(race)
    if limits.setting and not session.interrupts and not race.is_over:
        return limits.sentence(race)
    return f"ended: {session.ledger.meta(ENDED)}"


def calibrated(session: Session, executor: Executor) -> None:
    """Find the targets, unless an earlier call of this search has, and say what they are."""
    if session.ledger.meta("calibration") is None:
        with session.console.status("calibrating: training the smallest batch size to set the target"):
            found = calibrate(
                session.study.space, executor, session.folder / "calibration", lambda: bool(session.interrupts)
            )
        if found is None:
            return
        session.ledger.set_meta("calibration", asdict(found))
    aim(session)
    found, metrics = session.ledger.meta("calibration"), session.study.space.metrics
    session.console.print(
        f"{results.target(metrics)} is the target, {found['easier_target']:.4g} the easier one: from "
        f"{len(found['best'])} trainings of {found['cell']}, its rate tuned before, in {clock(found['seconds'])}",
        highlight=False,
        soft_wrap=True,
    )


def examine(session: Session, executor: Executor) -> None:
    """Train a share of the fused trials alone, and say how far they differ."""
    with session.console.status("auditing: training some trials again, alone"):
        found = audit(session.study, executor, folder=str(session.folder / "audit"))
    session.ledger.set_meta("audit", [asdict(difference) for difference in found])
    session.console.print(summary(found, session.recipe.metrics.objective), highlight=False, soft_wrap=True)


def remember(session: Session, origin: dict[str, Any]) -> None:
    """Note what the trials are made of; of code that has changed since the first ones, say so and keep theirs."""
    before = (session.ledger.meta("origin") or {}).get("code")
    for sentence in changes(before or {}, origin["code"]) if before is not None else ():
        session.console.print(
            f"[yellow]{escape(sentence)}[/] Earlier trials had other code: a new `--study` begins anew.",
            highlight=False,
            soft_wrap=True,
        )
    session.ledger.set_meta("origin", origin if before is None else {**origin, "code": before})


def preflight(executor: Executor, study: Study) -> dict[str, Any]:
    """Let one worker build the data and the model at every batch size, and with every optimizer and schedule.

    Raises:
        ValueError: with one sentence for every mistake that only the user's classes could show.
    """
    cells = list(study.cells.values())
    sizes = {cell.cell.batch_size: cell for cell in cells}
    kinds = {(cell.cell.optimizer, cell.cell.schedule): cell for cell in cells}
    chosen = {cell.cell.name: cell for cell in (*sizes.values(), *kinds.values())}
    configs = [cell.example().to_json() for cell in chosen.values()]
    facts: dict[str, Any] = executor.call("models.preflight.check", configs)
    if facts["mistakes"]:
        raise ValueError("\n".join(facts["mistakes"]))
    return facts


def introduce(session: Session, facts: dict[str, Any], *, dashboard: str) -> None:
    """Say what is about to happen."""
    study, console = session.study, session.console
    done = len([trial for cell in study.cells.values() for trial in cell.ended()])
    left = f" ({done} done before)" if done else ""
    console.print(
        f"[bold]{session.recipe.name}[/]: {facts['examples']:,} training examples, {facts['parameters']:,} parameters, "
        f"{len(study.cells)} cells, {study.planned} trials{left}",
        highlight=False,
    )
    for line in study.known:
        console.print(escape(line), highlight=False, soft_wrap=True)
    steps = facts["steps"]
    console.print(
        "steps of a training by batch size: " + ", ".join(f"{size}: {steps[size]:,}" for size in steps), highlight=False
    )
    if session.recipe.cluster.dashboard:
        console.print(f"Dask: {dashboard}", highlight=False, soft_wrap=True)
