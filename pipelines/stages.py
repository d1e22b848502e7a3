"""The stages of `regatta all`: what each depends on, leaves behind and runs, and why it has to."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.job import BEST, JOB, LAST, METRICS, OUTCOME, Job
from pipelines.bundle_file import NAME, read_bundle
from pipelines.recipe import Recipe, public
from pipelines.stage_record import Done, altered, read
from pipelines.studies import ledger_of
from pipelines.training_job import MODEL, PRODUCTION, REGISTERED, SENT, Request, differences, job_of, set_aside
from tracking.ledger_file import FILE, driver_lock

PAGE = "report.html"
VERIFICATION = {"top": 3, "seeds": 5}
MEASURED = ("metrics", "probes", "audit", "calibration", "verification")
"""Notes of the ledger that a report shows, besides the trials."""
OPTIONS = {"fit", "early_stopping", "trainer"}
"""Settings of a training that come from the command line of `regatta train`, not from the bundle."""

Inputs = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One pipeline, and how to tell whether it has anything to do."""

    name: str
    inputs: Callable[[Recipe, Path], Inputs]
    files: tuple[str, ...]
    """What it leaves; of files that several stages write, only the last one answers for them."""
    why: Callable[[Path, Inputs, Done | None], str | None]
    """Why it has to run; None: nothing has changed."""
    said: Callable[[Path, Inputs], str]
    """What there is, in a few words that a time of day can follow."""
    run: Callable[[Recipe, Path], int]


def plain(inputs: Inputs) -> Inputs:
    """As they come back from a file: lists, not tuples."""
    same: Inputs = json.loads(json.dumps(inputs))
    return same


def _pipeline(name: str, *arguments: Any, **options: Any) -> int:
    code: int = importlib.import_module(f"pipelines.run_{name}").main(*arguments, **options)
    return code


# -- search


def _recipe(recipe: Recipe, _: Path) -> Inputs:
    tree = asdict(public(recipe))
    del tree["cluster"]  # Where trials run changes nothing in them.
    return {"recipe": tree}


def _why_search(folder: Path, now: Inputs, done: Done | None) -> str | None:
    if not (folder / FILE).exists():
        return "the study is new"
    if done is None:
        return f"with {_counted(_trials(folder)['trials'])} of an earlier call"
    changed = [sentence.rstrip(".") for sentence in differences(done.inputs["recipe"], now["recipe"])]
    if changed:
        more = f" ({len(changed) - 1} more)" if len(changed) > 1 else ""
        return f"the recipe has changed: {changed[0]}{more}"
    return next(altered(folder, done), None)


# -- report and verify


def _trials(folder: Path, *, all_phases: bool = False) -> Inputs:
    """How many trials the search has, or the study with its verification, and a digest of what they came to."""
    with ledger_of(folder) as ledger:
        rows = [row for row in ledger.trials() if all_phases or row["config"]["phase"] != "confirm"]
        notes = [ledger.meta(name) for name in MEASURED] if all_phases else []
    content = json.dumps([rows, notes], sort_keys=True).encode()
    return {"trials": len(rows), "digest": hashlib.sha256(content).hexdigest()}


def _counted(number: int, word: str = "trial") -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _why(folder: Path, now: Inputs, done: Done | None) -> str | None:
    """Of a stage that depends on trials."""
    if done is None:
        return "it has not been done yet"
    if now == done.inputs:
        return next(altered(folder, done), None)
    more = now["trials"] - done.inputs["trials"]
    return f"the study has {_counted(more, 'more trial')}" if more > 0 else "the study has changed"


# -- train


def _request(folder: Path) -> Request:
    return Request(study=folder.name, config=None, fit="train", early_stopping=None, force=False, trainer={})


def _settings(_: Recipe, folder: Path) -> Inputs:
    bundle = read_bundle(folder / NAME)
    settings = job_of(bundle, _request(folder)).settings()
    # What fresh seeds say decides on the champion, not on the training.
    return {"settings": settings, "verification": bundle.verification, "mlflow": bundle.mlflow is not None}


def _why_train(folder: Path, now: Inputs, done: Done | None) -> str | None:
    changed = None if done is None else next(altered(folder, done), None)
    if not (folder / PRODUCTION / JOB).exists():
        return changed or "nothing is trained yet"
    if why := _replaced(folder, now, done):
        return f"{why}: trained anew, the earlier training is set aside"
    if done is None:
        return "a training is there"
    if now != done.inputs:
        return "the bundle has changed"
    if not (folder / PRODUCTION / MODEL).exists():
        return f"`{PRODUCTION}/{MODEL}` is gone"
    if now["mlflow"] and not all((folder / PRODUCTION / name).exists() for name in (SENT, REGISTERED)):
        return "MLflow has not got all of it"
    return changed


def _replaced(folder: Path, now: Inputs, done: Done | None) -> str | None:
    """Why the training that is there gives way to a new one; None: it is gone on with.

    One that was asked for with other options than these does not give way: `regatta train` refuses to replace it.
    """
    before = Job.read(folder / PRODUCTION / JOB).settings()
    different = {name for name, value in now["settings"].items() if before[name] != value}
    if different & OPTIONS:
        return None
    if different:
        return "the bundle has changed"
    damaged = [] if done is None else list(altered(folder, done))
    # With another job, it has been trained anew by hand.
    return damaged[0] if damaged and not any(JOB in words for words in damaged) else None


def _train(recipe: Recipe, folder: Path) -> int:
    now, production = plain(_settings(recipe, folder)), folder / PRODUCTION
    if (production / JOB).exists() and _replaced(folder, now, read(folder).get(TRAIN.name)):
        with driver_lock(production):
            set_aside(production)
    return _pipeline("train", _request(folder))


SEARCH = Stage(
    name="search",
    inputs=_recipe,
    files=("recipe.yaml",),
    why=_why_search,
    said=lambda folder, _: f"{_counted(_trials(folder)['trials'])}, ended",
    run=lambda recipe, _: _pipeline("search", recipe),
)
REPORT = Stage(
    name="report",
    inputs=lambda _, folder: _trials(folder, all_phases=True),
    files=(PAGE,),
    why=_why,
    said=lambda _, now: f"{_counted(now['trials'])}, written",
    run=lambda _, folder: _pipeline("report", folder.name, None),
)
VERIFY = Stage(
    name="verify",
    inputs=lambda _, folder: {**_trials(folder), **VERIFICATION},
    files=("verify.csv", NAME, "trials.csv", "curves.csv", "standalone/lightning.yaml", "standalone/train.py"),
    why=_why,
    said=lambda _, now: f"{now['seeds']} fresh seeds, ended",
    run=lambda _, folder: _pipeline("verify", folder.name, **VERIFICATION),
)
TRAIN = Stage(
    name="train",
    inputs=_settings,
    files=tuple(f"{PRODUCTION}/{name}" for name in (JOB, OUTCOME, LAST, BEST, METRICS)),
    why=_why_train,
    said=lambda _, now: f"{now['settings']['steps']:,} steps, ended",
    run=_train,
)
STAGES = (SEARCH, REPORT, VERIFY, TRAIN)
