"""Writes what a study hands to production: best.yaml, and the folder of files that need none of Regatta."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import models
from models import standalone
from models.config import TrainConfig
from models.plan import steps_in_epoch
from models.user_code import class_paths
from pipelines.bundle import MlflowSection
from pipelines.bundle_file import NAME, to_yaml
from pipelines.bundling import Origin, bundle_of, full_arguments
from pipelines.recipe import Recipe
from pipelines.session import versions
from pipelines.yaml_source import write_yaml
from search.study import Study
from search.trial import TrialConfig, TrialResult
from tracking.files import announce
from tracking.ledger import Ledger
from tracking.place import write

FOLDER = "standalone"


def write_best(ledger: Ledger, study: Study, recipe: Recipe) -> None:
    """Write the bundle of the best configuration, or of the one that verification chose, and announce it to MLflow."""
    folder = ledger.path.parent
    verification = _by_this_rule(study, ledger.meta("verification"))
    trial, result = chosen(study, verification)
    origin = Origin(
        name=recipe.name,
        study=folder.name,
        metrics=study.space.metrics,
        noted=ledger.meta("origin"),
        versions=versions(),
        verification=verification,
        mlflow=MlflowSection(experiment=recipe.tracking.experiment or recipe.name, uri=recipe.tracking.uri)
        if recipe.tracking.mlflow
        else None,
    )
    if result.number not in {one.number for one in study.top(study.space.search.keep_checkpoints)}:
        result = dataclasses.replace(result, checkpoint=None)  # It is no longer there.
    said = write_standalone(folder, trial, result, origin)
    write(folder / NAME, to_yaml(bundle_of(trial, result, origin, standalone_files=said)))
    announce(ledger, [NAME])


def _by_this_rule(study: Study, verification: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A verification, unless another `search.choose` has been asked for since."""
    by = study.criterion.name
    return verification if (verification or {}).get("judged_by", by) == by else None


def chosen(study: Study, verification: Mapping[str, Any] | None) -> tuple[TrialConfig, TrialResult]:
    """The trial that verification chose, or the best of the search where there was none."""
    named = (verification or {}).get("chosen")
    numbers = {finalist["name"]: finalist["trial"] for finalist in (verification or {}).get("finalists", ())}
    for cell in study.cells.values():
        for trial in cell.ended():
            if named is not None and trial.number == numbers.get(named):
                return trial, cell.results[trial.index]
    return study.ranking()[0]


def write_standalone(folder: Path, trial: TrialConfig, result: TrialResult, origin: Origin) -> str:
    """Write the folder in place of an earlier one; returns its name, or why there is none."""
    config = dataclasses.replace(trial.train, schedule_args=full_arguments(trial.train))
    noted, target = origin.noted, folder / FOLDER
    why = standalone.refusal(config)
    if noted is None:
        why = "the study is one of an earlier version; `regatta search` on its recipe goes through it again"
    if why is not None or noted is None:
        shutil.rmtree(target, ignore_errors=True)
        return f"none: {why}"
    temporary = folder / f".{FOLDER}.{uuid4().hex[:8]}"
    try:
        temporary.mkdir()
        what = f"trial {trial.number} of the study {origin.study}"
        for name, text in _files(config, noted, what=what, total=result.steps):
            (temporary / name).write_text(text, encoding="utf-8")
        if any(path.startswith("models.") for path in class_paths([config.model, config.data])):
            ours = shutil.ignore_patterns("__pycache__")
            shutil.copytree(Path(models.__file__).parent, temporary / "models", ignore=ours)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return FOLDER


def _files(config: TrainConfig, noted: Mapping[str, Any], *, what: str, total: int) -> Iterator[tuple[str, str]]:
    lightning = noted["lightning"]
    steps = steps_in_epoch(
        noted["fingerprint"]["examples"],
        config.batch_size,
        accumulate=config.accumulate,
        drop_last=noted["drop_last"],
    )
    values = standalone.lightning_config(config, lightning=lightning, total=total, steps_per_epoch=steps)
    yield "lightning.yaml", write_yaml(values)
    yield "train.py", standalone.script(config, what=what, lightning=lightning, total=total)
