"""One call on a study: its ledger, its way to MLflow, and the rules for going on with what an earlier call left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.interrupts import Interrupts
from pipelines.recipe import Recipe, public, to_yaml
from search.executors import Executor
from search.gains import Gains, measure
from search.knowledge import Knowledge
from search.objectives import study_of
from search.race import Race
from search.records import examine
from search.space import SearchSpace, parameter_names
from search.study import Study
from search.survey import Survey
from tracking.ledger import Ledger
from tracking.ledger_file import LedgerUnwritable, driver_lock
from tracking.place import home, write
from tracking.sync import Sync
from tracking.sync_process import SyncProcess
from tracking.view import experiment_tags

VERSIONS = ("regatta", "torch", "pytorch-lightning", "optuna", "distributed", "mlflow")
CHANGEABLE = (
    *("trials", "refine", "extend", "enqueue", "choose"),
    *("seconds", "examples", "device_seconds", "stop"),
    *("keep_checkpoints", "segment_seconds", "arrays", "accumulate", "audit", "probes"),
)
"""Settings of a search that may change when its study goes on; everything else decides what a trial is."""
WIDTH = 120
"""Columns where there is no terminal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One call of `regatta search`, or of what follows a search."""

    recipe: Recipe
    folder: Path
    study: Study
    ledger: Ledger
    sync: Sync | SyncProcess | None
    console: Console
    interrupts: Interrupts


def screen() -> Console:
    """Where a pipeline speaks. A file or a pipe has no width: a table then takes what it needs."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def space_of(recipe: Recipe, knowledge: Knowledge | None = None) -> SearchSpace:
    """The part of a recipe that proposals are made from, and what it takes over from earlier studies."""
    return SearchSpace(
        model=recipe.model,
        data=recipe.data,
        training=recipe.training,
        metrics=recipe.metrics,
        search=recipe.search,
        knowledge=knowledge or Knowledge(),
    )


def recalled(ledger: Ledger) -> Knowledge:
    """What a study was told of others when it began."""
    return Knowledge(**ledger.meta("knowledge", {}))


@contextmanager
def opened(recipe: Recipe, folder: Path, knowledge: Knowledge | None = None) -> Iterator[Ledger]:
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
        examine(ledger)
        space = fingerprint(recipe)
        # A study of an earlier version may lack settings that there are now: what it did is their default.
        different = list(differences(ledger.meta("space", space), space, folder))
        if different and not ledger.withdraw():
            raise ValueError("\n".join(different))
        ledger.set_meta("space", space)
        ledger.set_meta("study", folder.name)
        ledger.set_meta("experiment", recipe.tracking.experiment or recipe.name)
        ledger.set_meta("metrics", asdict(recipe.metrics))
        ledger.set_meta("recipe", to_yaml(public(recipe)))
        ledger.set_meta("params", space)
        ledger.set_meta("tags", {**versions(), "mlflow.source.name": "regatta search"})
        ledger.set_meta("view", view(recipe))
        ledger.set_meta("knowledge", asdict(knowledge or Knowledge()))
        ledger.set_meta("bounds", bounds(space_of(recipe, knowledge)))
        ledger.set_meta("status", "RUNNING")
        write(folder / "recipe.yaml", to_yaml(public(recipe)))
        try:
            yield ledger
        except BaseException:
            with suppress(LedgerUnwritable):
                ledger.set_meta("status", "FAILED")
            raise


def bounds(space: SearchSpace) -> dict[str, tuple[float, float]]:
    """The learning rates that each cell is asked to search."""
    ranges = {cell.name: cell.ranges.get("learning_rate") for cell in space.cells()}
    return {
        name: (extent.low, extent.high)
        for name, extent in ranges.items()
        if extent is not None and extent.low is not None and extent.high is not None
    }


def fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What must stay the same for a study to go on."""
    search = {name: value for name, value in asdict(recipe.search).items() if name not in CHANGEABLE}
    # It says when a trial goes on, not what it is; studies of earlier versions lack it.
    del search["promotion"]["pooled"]
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


def view(recipe: Recipe, others: Sequence[str] = (), *, expected: bool = False) -> dict[str, str]:
    """How the study's runs first look in the MLflow UI: what differs between them, and what came of it."""
    search = recipe.search
    several = ["optimizer"] if len(search.optimizers) > 1 else []
    params = ["batch_size", *several, "schedule", *parameter_names(space_of(recipe).cells())]
    minimize = recipe.metrics.direction == "min"
    return experiment_tags(minimize=minimize, params=params, others=others, expected=expected)


def versions() -> dict[str, str]:
    """Versions of everything that matters, and the git commit of the folder that the user works in."""
    found = {f"version.{name}": metadata.version(name) for name in VERSIONS}
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = {"git_commit": git.stdout.strip()} if git.returncode == 0 else {}
    return {**found, "version.python": sys.version.split()[0], **commit}


@contextmanager
def syncing(recipe: Recipe, folder: Path) -> Iterator[SyncProcess | None]:
    """The background writer to MLflow, if the recipe wants one."""
    if not recipe.tracking.mlflow:
        yield None
        return
    sync = SyncProcess(folder, uri=recipe.tracking.uri, home=home(), system_metrics=recipe.tracking.system_metrics)
    try:
        yield sync
    finally:
        sync.close()


@contextmanager
def begun(ledger: Ledger, recipe: Recipe, folder: Path) -> Iterator[Session]:
    """A call on the study of an open ledger: signals are noted, and MLflow has its writer, until it ends."""
    with Interrupts() as interrupts, syncing(recipe, folder) as sync:
        yield Session(
            recipe=recipe,
            folder=folder,
            study=study_of(space_of(recipe, recalled(ledger))),
            ledger=ledger,
            sync=sync,
            console=screen(),
            interrupts=interrupts,
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
        session.ledger.set_meta("params", {**fingerprint(session.recipe), "metrics": asdict(metrics)})


def prepare_sync(session: Session) -> None:
    """Import MLflow, before there is anything to write: while workers start, a core is idle."""
    if session.sync is not None:
        session.sync.prepare()


def start_sync(session: Session) -> None:
    """Begin to write to MLflow: not before it is known that data and model can be built."""
    if session.sync is not None:
        session.sync.start()


def compare_tiers(session: Session, race: Race, executor: Executor) -> None:
    """Measure what training side by side brings, and say where trials will."""
    with session.interrupts.at_once():
        race.gains = measure(executor, race.study)
        session.console.print(tiers(race.gains), highlight=False, soft_wrap=True)


def survey_of(session: Session, race: Race, executor: Executor) -> Survey | None:
    """The same measured while trials train, where they come in any order; None where it comes first, or never.

    Of a grid every trial should train side by side, and where that is required, none alone.
    """
    search = session.study.space.search
    beside = search.strategy == "tune" and search.arrays == "auto"
    return Survey(executor, race) if beside else None


def note(session: Session) -> str:
    """What the display says of MLflow: nothing while all is well."""
    return "" if session.sync is None else behind(session.sync)


def behind(sync: Sync | SyncProcess) -> str:
    """What waits for MLflow, and why, where it is away or slow."""
    problem, waiting = sync.problem(), sync.pending()
    lacks = f"{waiting:,} trials with {sync.evaluations():,} evaluations wait for MLflow"
    if problem is None:
        return lacks if sync.is_late() else ""
    return f"{lacks} ({problem})" if waiting else problem


def tiers(gains: Gains) -> str:
    """Which trials train side by side, in a line."""
    wide = [f"{size} ({width})" for (size, _), width in gains.widths.items()]
    told = [f"side by side (how many) at batch size {', '.join(wide)}"] if wide else []
    alone: dict[str, list[str]] = {}
    for (size, _), reason in gains.reasons.items():
        alone.setdefault(reason, []).append(str(size))
    told += [f"alone at batch size {', '.join(sizes)}: {reason}" for reason, sizes in alone.items()]
    return "trials train " + ("; ".join(told) if told else "alone")
