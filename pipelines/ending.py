"""How a search ends: its table and files, what is measured on the best, its report, and the rest of MLflow."""

from __future__ import annotations

import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from rich.markup import escape

from pipelines import fronts, reasons, results
from pipelines.best_files import write_best
from pipelines.session import Session, view
from search.executors import Executor
from search.expected import noted
from search.export import export
from search.objectives import ObjectiveStudy
from search.probing import Found, probe
from search.pruning_audit import audit
from search.race import Race
from tracking.files import announce, announce_notes
from tracking.fronts import note_front
from tracking.leaders import note_leaders
from tracking.rows import EXPECTED
from tracking.tables import write_tables

PATIENCE, AWAY, FAREWELL = 60.0, 15.0, 5.0
"""Seconds that the end waits for MLflow: while it takes what it lacks, while it is away, and after a signal."""
FILES = ("trials.csv", "curves.csv", "recipe.yaml", "best.yaml", "standalone")


def conclude(session: Session, *, complete: bool) -> None:
    """Write the study's files, and print the table, what it says, and what to do next."""
    study, folder, console = session.study, session.folder, session.console
    study.expect()
    session.ledger.set_meta(EXPECTED, noted(study.expected))
    note_leaders(session.ledger, study.expected, maximize=study.space.metrics.direction == "max")
    write_tables(folder)
    said = [*fronts.sentences(study), *filter(None, [reasons.told(study)])]
    if study.ranking():
        write_best(session.ledger, study, session.recipe)
        console.print(results.table(study))
    if isinstance(study, ObjectiveStudy) and study.several:
        note_front(session.ledger, [trial.number for trial, _ in study.front()])
        console.print(fronts.front_table(study))
    for sentence in said:
        console.print(escape(sentence), highlight=False)
    session.ledger.set_meta("description", results.description(study, said))
    others = results.other_metrics(study.ranking(), study.space.metrics)
    session.ledger.set_meta("view", view(session.recipe, others, expected=bool(study.expected)))
    session.ledger.set_meta("results", results.figures(study))
    announce(session.ledger, ["trials.csv"])
    announce_notes(session.ledger)
    session.ledger.set_meta("status", "FINISHED" if complete else "KILLED" if session.interrupts else "FAILED")
    session.ledger.set_meta("tags", {**session.ledger.meta("tags"), "reason": reason(session, complete=complete)})
    written = [name for name in FILES if (folder / name).exists()]
    console.print(escape(f"\nwritten to {folder}: {', '.join(written)}"), highlight=False, soft_wrap=True)
    again = escape(f"regatta search --config {shlex.quote(str(folder / 'recipe.yaml'))}")
    if not complete:
        if session.interrupts:
            console.print(f"{reason(session, complete=False)}; what was running is paused", highlight=False)
        console.print(f"to go on: [bold]{again}[/]", highlight=False, soft_wrap=True)
    elif study.ranking():
        propose(session, again)


def propose(session: Session, again: str) -> None:
    """What can be done with a search that has found something."""
    search, folder, console = session.study.space.search, session.folder, session.console
    console.print("next:", highlight=False)
    more = "as many trials again" + (" in every cell" if search.strategy == "compare" else "")
    for command, purpose in (
        ("make ui", "browse every curve in the MLflow UI"),
        (f"regatta verify --study {folder.name}", "train the best ones again on fresh seeds: which of them really is"),
        (f"regatta train --study {folder.name}", "train the best configuration for production"),
        (f"{again} --search.trials {2 * search.trials}", f"look closer: {more}"),
        (f"regatta export --study {folder.name}", "the same trials for optuna-dashboard"),
    ):
        console.print(f"  [bold]{command}[/]  [dim]{purpose}[/]", highlight=False, soft_wrap=True)


def reason(session: Session, *, complete: bool) -> str:
    """Why a call of the search has ended, for its run in MLflow."""
    if session.interrupts.received is not None:
        return f"interrupted: {session.interrupts.received.name}"
    return "complete" if complete else "it cannot go on"


def measure_best(session: Session, race: Race, executor: Executor) -> None:
    """What the report needs of the best configurations; their checkpoints are needed for nothing else."""
    found: Found = {}
    told = "measuring the best configurations: gradient noise, sharpness"
    with session.console.status(told), session.interrupts.at_once():
        found = probe(session.study, executor, race.gains)
    for name, sentence in found.get("deadly", {}).items():
        session.console.print(
            f"[yellow]{name} could not be measured: {escape(sentence)}[/]", highlight=False, soft_wrap=True
        )
    if not session.interrupts:
        session.ledger.set_meta("probes", {**found, "rungs": audit(session.study, session.ledger)})
        race.tidy()


def start_report(folder: Path) -> subprocess.Popen[str]:
    """`regatta report` for this study; it leaves MLflow to the search, which holds the study's lock."""
    # -P: a folder of the user's called `models` must not hide ours.
    command = [sys.executable, "-P", "-m", "pipelines.cli", "report", "--study", folder.name]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def told_by(report: subprocess.Popen[str]) -> str:
    """What the report has to say, or why there is none."""
    out, err = report.communicate()
    if report.returncode == 0:
        return out.strip()
    reason = err.strip().splitlines()[-1] if err.strip() else f"exit code {report.returncode}"
    return f"the report could not be written ({reason}); `regatta report` tries again."


def settle(session: Session, *, brief: bool = False) -> None:
    """What is not urgent: the report, the rest of MLflow, and Optuna's file; `brief`: only where the report is."""
    console = session.console
    # In a process of its own, beside the writer to MLflow: drawing takes seconds, and must not end a search.
    wanted = session.recipe.tracking.report and not session.interrupts
    report = start_report(session.folder) if wanted else None
    live = console.status("writing the report and the last trials to MLflow") if console.is_terminal else nullcontext()
    with live:
        if report is not None:
            told = told_by(report)
            console.print(escape(told.splitlines()[-1] if brief else told), highlight=False, soft_wrap=True)
        patience = FAREWELL if session.interrupts else PATIENCE
        if session.sync is not None and not session.sync.drain(patience, away=AWAY):
            why = session.sync.problem() or "it takes long"
            console.print(
                f"MLflow has not got everything yet ({escape(why)}): nothing is lost, `regatta sync` sends the rest.",
                highlight=False,
                soft_wrap=True,
            )
        if not session.interrupts:
            export(session.ledger, session.study.space, session.folder)
