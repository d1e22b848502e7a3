"""The job that `regatta train` asks for: from bundle and command line, and beside what an earlier call has left."""

from __future__ import annotations

import ast
import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.job import BEST, JOB, LAST, METRICS, OUTCOME, Fit, Job
from pipelines.bundle import Bundle
from pipelines.schema import nearest
from pipelines.yaml_source import BAD, read_yaml
from tracking.gate import Promote

PRODUCTION = "production"
"""The folder of a study's production training."""
ASIDE = "before"
"""The folder of an earlier training while the one that `--force` puts in its place is under way."""
SENT = "mlflow.json"
"""The file that says that MLflow has all of a training."""
MODEL = "model"
"""The folder of the MLflow model that a complete training becomes."""
REGISTERED = "registered.json"
"""The file that says which version in MLflow's registry that is."""
KEPT = (JOB, OUTCOME, LAST, BEST, METRICS, SENT, MODEL, REGISTERED)

REFUSED = {
    **dict.fromkeys(
        ("max_epochs", "max_steps", "min_epochs", "min_steps", "max_time"),
        "the schedule ends with the bundle's steps. Change `budget` in the bundle, or use `--early_stopping`",
    ),
    **dict.fromkeys(
        ("limit_train_batches", "overfit_batches", "fast_dev_run", "reload_dataloaders_every_n_epochs"),
        "it changes how many steps an epoch has, and with them the schedule",
    ),
    **dict.fromkeys(
        ("check_val_every_n_epoch", "val_check_interval"), "`budget.evaluations` in the bundle says how often"
    ),
    **dict.fromkeys(
        ("callbacks", "logger", "plugins", "profiler", "default_root_dir", "enable_checkpointing", "barebones"),
        "checkpoints, curve and MLflow depend on it",
    ),
    "gradient_clip_val": "it is part of the configuration. Change `gradient_clip` in the bundle",
    "use_distributed_sampler": "every step is shared out among the devices anyway",
}
"""Arguments of the Trainer that a production training does not take, and why."""
TRAINERS = {"pytorch_lightning": "trainer/trainer.py", "lightning": "pytorch/trainer/trainer.py"}
"""Where the class lies in each of Lightning's two packages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line asks for."""

    study: str | None
    config: str | None
    fit: Fit
    early_stopping: int | None
    force: bool
    trainer: Mapping[str, str]
    """Arguments of Lightning's Trainer by name, as they were typed."""
    promote: Promote = "gate"
    """When the model becomes champion: always, if nothing shows that it is worse than the present one, or never."""


def job_of(bundle: Bundle, request: Request) -> Job:
    """The training that is asked for.

    Raises:
        ValueError: with one sentence for every argument that it cannot take.
    """
    given, mistakes = dict[str, Any](), list(unknown_arguments(request.trainer))
    for name, text in request.trainer.items():
        draft = read_yaml(text, lambda _line: "the command line")
        if name in REFUSED:
            mistakes.append(f"`--trainer.{name}` must be left out: {REFUSED[name]}.")
        elif draft.mistakes or draft.values is BAD:
            mistakes.append(f"`--trainer.{name}` cannot be read: {text!r}.")
        else:
            given[name] = draft.values
    passes = given.pop("accumulate_grad_batches", None)
    if passes is not None and (not isinstance(passes, int) or passes < 1):
        mistakes.append(f"`--trainer.accumulate_grad_batches` must be a whole number of at least 1, but got {passes}.")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    config = bundle.train_config()
    # The module and its optimizer are built for a precision, by us.
    precision = str(given.pop("precision", config.precision))
    progress = bool(given.pop("enable_progress_bar", True)) and sys.stdout.isatty()
    return Job(
        id=uuid.uuid4().hex,
        started=time.time(),
        config=replace(config, precision=precision),
        steps=bundle.budget.steps,
        fingerprint=None if bundle.fingerprint is None else asdict(bundle.fingerprint),
        code=bundle.code,
        fit=request.fit,
        early_stopping=request.early_stopping,
        trainer=given,
        accumulate=passes,
        force=request.force,
        progress=progress,
    )


def unknown_arguments(names: Collection[str]) -> Iterator[str]:
    """Yield a sentence for every name that is no argument of Lightning's Trainer."""
    known = trainer_arguments() if names else []
    for name in names:
        if known and name not in known:
            yield f"`--trainer.{name}` is not an argument of Lightning's Trainer{nearest(name, known)}"


def trainer_arguments() -> list[str]:
    """The names that the Trainer of either package takes, read from its source: its import takes seconds."""
    names: list[str] = []
    for package, file in TRAINERS.items():
        spec = find_spec(package)
        folders = (spec.submodule_search_locations if spec else None) or ()
        for source in (path for folder in folders if (path := Path(folder) / file).is_file()):
            tree = ast.parse(source.read_text(encoding="utf-8"))
            trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
            init = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
            names += [argument.arg for argument in (*init.args.args[1:], *init.args.kwonlyargs)]
    return list(dict.fromkeys(names))


def run_key(job: Job) -> str:
    """By which the job's run in MLflow is found, and the model that comes of it."""
    return f"{job.id}:production"


def resumed(asked: Job, folder: Path, *, force: bool) -> Job:
    """The job of an earlier call that this one goes on with, or the one asked for where there is none.

    With `force`, what there was is set aside until the new training has ended.

    Raises:
        ValueError: if the earlier one was another, and it is not to be replaced.
    """
    if not (folder / JOB).exists() or not (folder / LAST).exists():
        _clear(folder)
    elif force:
        set_aside(folder)
    else:
        before = Job.read(folder / JOB)
        _refuse_other(before, asked, folder)
        # What the earlier call found out, that the batch does not fit as it was, still holds.
        asked = replace(before, progress=asked.progress)
    asked.write(folder)
    return asked


def _refuse_other(before: Job, asked: Job, folder: Path) -> None:
    different = list(differences(before.settings(), asked.settings()))
    if asked.accumulate not in (None, before.accumulate):
        different.append(
            f"`trainer.accumulate_grad_batches` was {before.accumulate or 'left open'}, and is {asked.accumulate} now."
        )
    if different:
        told = [f"the training in {folder} has other settings: {sentence}" for sentence in different]
        raise ValueError("\n".join([*told, "Give `--force` to train anew in its place."]))


def set_aside(folder: Path) -> None:
    """Keep an earlier training until the one that is to replace it has ended."""
    aside = folder / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name in KEPT:
        if (folder / name).exists():
            (folder / name).rename(aside / name)


def take_back(folder: Path) -> None:
    """Undo what a call has written before it was refused: an earlier training is there again."""
    aside = folder / ASIDE
    if not (folder / LAST).exists():
        _clear(folder)
    if aside.exists():
        for file in aside.iterdir():
            file.replace(folder / file.name)
        aside.rmdir()


def settle(folder: Path) -> None:
    """Drop the earlier training that this one has replaced."""
    shutil.rmtree(folder / ASIDE, ignore_errors=True)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    for name in KEPT:
        (folder / name).unlink(missing_ok=True)


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield a sentence for every leaf in which two trees differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}".removeprefix("."))
    elif before != now:
        yield f"`{name}` was {before}, and is {now} now."
