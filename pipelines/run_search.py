"""`regatta search`: race the trials of a recipe, keep everything, and say what came of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipelines import results
from pipelines.display import Display, clock
from pipelines.interrupts import Interrupts
from pipelines.recipe import Recipe, to_yaml
from pipelines.state import home, study_folder, write
from search.audit import audit, summary
from search.calibration import calibrate
from search.cluster import connected, dashboard_address
from search.executors import DaskExecutor, Executor
from search.export import export
from search.gains import Gains, measure
from search.race import Race, SearchFailed
from search.space import SearchSpace, parameter_names
from search.study import Study
from tracking.files import announce
from tracking.ledger import Ledger, driver_lock
from tracking.sync import Sync
from tracking.tables import write_tables
from tracking.view import experiment_tags

VERSIONS = ("regatta", "torch", "pytorch-lightning", "optuna", "distributed", "mlflow")
FILES = ("trials.csv", "curves.csv", "recipe.yaml", "best.yaml")
WIDTH = 120
"""Columns where there is no terminal."""
CHANGEABLE = ("trials", "refine", "extend", "keep_checkpoints", "segment_seconds", "arrays", "audit")
"""Settings of a search that may change when its study goes on; everything else decides what a trial is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One call of `regatta search`."""

    recipe: Recipe
    folder: Path
    study: Study
    ledger: Ledger
    sync: Sync | None
    console: Console
    interrupts: Interrupts


def main(recipe: Recipe) -> int:
    """Run or continue the study of a recipe; returns the exit code."""
    # A file or a pipe has no width: the table then takes what it needs.
    folder, console = study_folder(recipe.study_name), Console(width=None if sys.stdout.isatty() else WIDTH)
    with opened(recipe, folder) as ledger, Interrupts() as interrupts, syncing(recipe, folder) as sync:
        session = Session(
            recipe=recipe,
            folder=folder,
            study=Study(space_of(recipe)),
            ledger=ledger,
            sync=sync,
            console=console,
            interrupts=interrupts,
        )
        code = 1
        try:
            code = run(session)
        except SearchFailed as failure:
            console.print(f"[red]the search cannot go on:[/] {escape(str(failure))}", soft_wrap=True)
        finally:
            write_tables(folder)
        # In a process of its own, beside the writer to MLflow: drawing takes seconds, and must not end a search.
        report = None if interrupts or not recipe.tracking.report else start_report(folder)
        conclude(session, complete=code == 0 and not interrupts)
        settle(session, report)
        return interrupts.exit_code or code


def run(session: Session) -> int:
    """Start the workers and race, unless nothing is left to train."""
    recipe, console, study = session.recipe, session.console, session.study
    started = time.monotonic()
    aim(session)
    race = Race(study, session.ledger, str(session.folder / "checkpoints"))
    race.restore()
    if race.is_over:
        start_sync(session)
        console.print(f"[bold]{recipe.name}[/]: {len(study.trials())} trials, all done before", highlight=False)
    else:
        # Where the user stands is where their modules are found, as with `python script.py`.
        with connected(recipe.cluster, paths=[os.getcwd()]) as client:
            executor = DaskExecutor(client)
            introduce(session, preflight(executor, study), dashboard=dashboard_address(client))
            if recipe.metrics.calibrate and not session.interrupts:
                calibrated(session, executor)
            if not session.interrupts:
                race.gains = measure(executor, study)
                console.print(tiers(race.gains), highlight=False, soft_wrap=True)
            start_sync(session)
            with Display(console, note=lambda: note(session)) as display:
                race.run(executor, stopping=lambda: bool(session.interrupts), watch=display.watch)
            if study.space.search.audit and not session.interrupts:
                examine(session, executor)
        console.print(f"{len(study.trials())} trials in {clock(time.monotonic() - started)}", highlight=False)
    return 0


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


def aim(session: Session) -> None:
    """Let the study judge by targets that were found before its search began."""
    found = session.ledger.meta("calibration")
    if found is not None:
        metrics = replace(
            session.recipe.metrics, calibrate=False, target=found["target"], easier_target=found["easier_target"]
        )
        session.study.aim(metrics)
        session.ledger.set_meta("metrics", asdict(metrics))


def examine(session: Session, executor: Executor) -> None:
    """Train a share of the fused trials alone, and say how far they differ."""
    with session.console.status("auditing: training some trials again, alone"):
        found = audit(session.study, executor, folder=str(session.folder / "audit"))
    session.ledger.set_meta("audit", [asdict(difference) for difference in found])
    session.console.print(summary(found, session.recipe.metrics.objective), highlight=False, soft_wrap=True)


def start_sync(session: Session) -> None:
    """Begin to write to MLflow: not before, since its import would take the processor from the workers'."""
    if session.sync is not None:
        session.sync.start()


def preflight(executor: Executor, study: Study) -> dict[str, Any]:
    """Let one worker build the data and the model at every batch size, and with every optimizer and schedule.

    Raises:
        ValueError: with one sentence for every mistake that only the user's classes could show.
    """
    cells = list(study.cells.values())
    sizes = {cell.cell.batch_size: cell for cell in cells}
    kinds = {(cell.cell.optimizer, cell.cell.schedule): cell for cell in cells}
    chosen = {cell.cell.name: cell for cell in (*sizes.values(), *kinds.values())}
    configs = [
        cell.space.train_config(cell.cell, cell.explorations()[0], index=0).to_json() for cell in chosen.values()
    ]
    facts: dict[str, Any] = executor.call("models.preflight.check", configs)
    if facts["mistakes"]:
        raise ValueError("\n".join(facts["mistakes"]))
    return facts


def space_of(recipe: Recipe) -> SearchSpace:
    """The part of a recipe that proposals are made from."""
    return SearchSpace(
        model=recipe.model, data=recipe.data, training=recipe.training, metrics=recipe.metrics, search=recipe.search
    )


@contextmanager
def opened(recipe: Recipe, folder: Path) -> Iterator[Ledger]:
    """The study's ledger, new or as it was left, for this process alone.

    Raises:
        ValueError: if another process has it, or if the study was begun with another space.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the state folder must be writable, but {folder} is not: {error}. Set REGATTA_HOME."
        ) from error
    with driver_lock(folder), Ledger.open(folder, create=True) as ledger:
        space = fingerprint(recipe)
        # A study of an earlier version may lack settings that there are now: what it did is their default.
        different = list(differences(ledger.meta("space", space), space, folder))
        if different and not ledger.withdraw():
            raise ValueError("\n".join(different))
        ledger.set_meta("space", space)
        ledger.set_meta("study", folder.name)
        ledger.set_meta("experiment", recipe.tracking.experiment or recipe.name)
        ledger.set_meta("metrics", asdict(recipe.metrics))
        ledger.set_meta("recipe", to_yaml(recipe))
        ledger.set_meta("params", space)
        ledger.set_meta("tags", {**versions(), "mlflow.source.name": "regatta search"})
        ledger.set_meta("view", view(recipe))
        ledger.set_meta("status", "RUNNING")
        write(folder / "recipe.yaml", to_yaml(recipe))
        try:
            yield ledger
        except BaseException:
            ledger.set_meta("status", "FAILED")
            raise


def view(recipe: Recipe, others: Sequence[str] = ()) -> dict[str, str]:
    """How the study's runs first look in the MLflow UI: what differs between them, and what came of it."""
    search = recipe.search
    several = ["optimizer"] if len(search.optimizers) > 1 else []
    params = ["batch_size", *several, "schedule", *parameter_names(space_of(recipe).cells())]
    return experiment_tags(minimize=recipe.metrics.direction == "min", params=params, others=others)


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What must stay the same for a study to go on."""
    search = {name: value for name, value in asdict(recipe.search).items() if name not in CHANGEABLE}
    parts = {name: asdict(getattr(recipe, name)) for name in ("model", "data", "training", "metrics")}
    # As it comes back from the ledger: lists, not tuples.
    same: dict[str, Any] = json.loads(json.dumps({**parts, "search": search}))
    return same


def differences(before: dict[str, Any], now: dict[str, Any], folder: Path, where: str = "") -> Iterator[str]:
    """Yield one sentence for every setting in which a recipe differs from that of its study."""
    for key in dict.fromkeys([*before, *now]):
        old, new, name = before.get(key), now.get(key), f"{where}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, folder, f"{name}.")
        elif old != new:
            yield (
                f"`{name}` must stay {old!r}, with which the study in {folder} was begun, but got {new!r}. "
                "Give another `--study` name for a new study."
            )


def versions() -> dict[str, str]:
    """Versions of everything that matters, and the git commit of the folder that the user works in."""
    found = {f"version.{name}": metadata.version(name) for name in VERSIONS}
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = {"git_commit": git.stdout.strip()} if git.returncode == 0 else {}
    return {**found, "version.python": sys.version.split()[0], **commit}


@contextmanager
def syncing(recipe: Recipe, folder: Path) -> Iterator[Sync | None]:
    """The background writer to MLflow, if the recipe wants one."""
    if not recipe.tracking.mlflow:
        yield None
        return
    sync = Sync(folder, uri=recipe.tracking.uri, home=home(), system_metrics=recipe.tracking.system_metrics)
    try:
        yield sync
    finally:
        sync.close()


def note(session: Session) -> str:
    """What the display says of MLflow: nothing while all is well."""
    return (session.sync.problem() or "") if session.sync else ""


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
    steps = facts["steps"]
    console.print(
        "steps of a training by batch size: " + ", ".join(f"{size}: {steps[size]:,}" for size in steps), highlight=False
    )
    if session.recipe.cluster.dashboard:
        console.print(f"Dask: {dashboard}", highlight=False, soft_wrap=True)


def tiers(gains: Gains) -> str:
    """Which trials train side by side, in a line."""
    wide = [f"{size} ({width})" for (size, _), width in gains.widths.items()]
    told = [f"side by side (how many) at batch size {', '.join(wide)}"] if wide else []
    alone: dict[str, list[str]] = {}
    for (size, _), reason in gains.reasons.items():
        alone.setdefault(reason, []).append(str(size))
    told += [f"alone at batch size {', '.join(sizes)}: {reason}" for reason, sizes in alone.items()]
    return "trials train " + ("; ".join(told) if told else "alone")


def conclude(session: Session, *, complete: bool) -> None:
    """Write the study's files, and print the table, what it says, and what to do next."""
    study, folder, console = session.study, session.folder, session.console
    said = results.sentences(study)
    if study.ranking():
        write(folder / "best.yaml", results.best_yaml(study, name=folder.name, versions=versions()))
        console.print(results.table(study))
    for sentence in said:
        console.print(escape(sentence), highlight=False)
    session.ledger.set_meta("description", results.description(study, said))
    session.ledger.set_meta("view", view(session.recipe, results.other_metrics(study.ranking(), study.space.metrics)))
    session.ledger.set_meta("results", results.figures(study))
    announce(session.ledger, ["trials.csv"])
    session.ledger.set_meta("status", "FINISHED" if complete else "KILLED" if session.interrupts else "FAILED")
    written = [name for name in FILES if (folder / name).exists()]
    console.print(escape(f"\nwritten to {folder}: {', '.join(written)}"), highlight=False, soft_wrap=True)
    again = escape(f"regatta search --config {shlex.quote(str(folder / 'recipe.yaml'))}")
    if not complete:
        console.print(f"to go on: [bold]{again}[/]", highlight=False, soft_wrap=True)
        return
    console.print("next:", highlight=False)
    for command, purpose in (
        ("make ui", "browse every curve in the MLflow UI"),
        (f"{again} --search.trials {2 * study.space.search.trials}", "look closer: as many trials again in every cell"),
        (f"regatta export --study {folder.name}", "the same trials for optuna-dashboard"),
    ):
        console.print(f"  [bold]{command}[/]  [dim]{purpose}[/]", highlight=False, soft_wrap=True)


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


def settle(session: Session, report: subprocess.Popen[str] | None) -> None:
    """What is not urgent: the report, the rest of MLflow, and Optuna's file."""
    console = session.console
    live = console.status("writing the report and the last trials to MLflow") if console.is_terminal else nullcontext()
    with live:
        if report is not None:
            console.print(escape(told_by(report)), highlight=False, soft_wrap=True)
        if session.sync is not None and not session.sync.drain(60.0 if not session.interrupts else 5.0):
            why = session.sync.problem() or "it takes long"
            console.print(
                f"MLflow has not got everything yet ({escape(why)}): nothing is lost, `regatta sync` sends the rest.",
                highlight=False,
                soft_wrap=True,
            )
        if not session.interrupts:
            export(session.ledger, session.study.space, session.folder)
