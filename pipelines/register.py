"""What becomes of a complete production training: a model folder, and a version in MLflow's registry."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.job import JOB, METRICS, Job, Outcome, read_curve, write_json
from pipelines.bundle import Bundle
from pipelines.bundle_file import NAME
from pipelines.training_job import MODEL, REGISTERED, run_key
from tracking.client import SETTINGS
from tracking.gate import Promote, Standing
from tracking.place import home, write
from tracking.registry import Candidate, ModelRegistry, Registered, portability
from tracking.runs import WriteRefused


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A complete production training, and what is wanted of its model."""

    bundle: Bundle
    text: str
    """Of the bundle's file."""
    folder: Path
    promote: Promote


def make_model(finished: Finished) -> str | None:
    """Write the model folder, unless an earlier call has; returns what went wrong."""
    target = finished.folder / MODEL
    if target.exists():
        return None
    temporary = target.with_name(f".{MODEL}")
    # An earlier call may have been killed; nobody else is at work here.
    shutil.rmtree(temporary, ignore_errors=True)
    command = [sys.executable, "-m", "pipelines.model_files", str(finished.folder), str(temporary)]
    environment = {**SETTINGS, **os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(temporary, ignore_errors=True)
        return next(iter(reversed(done.stderr.strip().splitlines())), f"its process ended with {done.returncode}")
    write(temporary / NAME, finished.text)
    temporary.rename(target)
    return None


def register(finished: Finished) -> Iterator[str]:
    """Say what the model is, register it unless an earlier call has, and say what to do with it."""
    bundle, model = finished.bundle, finished.folder / MODEL
    portable, reason = portability(model)
    if not portable:
        yield f"the model is weights only, which load where Regatta and its class are: {reason}"
    if bundle.mlflow is None:
        yield "not registered, since the study is not in MLflow (`tracking.mlflow: false`)"
        yield f"next: regatta predict --model {shlex.quote(str(model))} --input FILE"
        return
    standing = standing_of(bundle, finished.folder)
    found = remembered(finished, standing)
    again = " before" if found is not None else ""
    try:
        found = found or registered(finished, standing, uri=bundle.mlflow.uri)
    except ConnectionError as error:
        yield f"the model is not registered yet ({error}): the same command registers it"
        return
    except WriteRefused as error:
        yield f"MLflow refuses to register the model: {error}"
        return
    alias = f"as {found.alias}" if found.alias else "without an alias"
    yield f"registered{again} {found.name} version {found.version} {alias}: {found.reason}"
    which = f"{found.name}@{found.alias}" if found.alias else f"{found.name}/{found.version}"
    uri = f" --uri {shlex.quote(bundle.mlflow.uri)}" if bundle.mlflow.uri else ""
    yield f"next: regatta predict --model models:/{which}{uri} --input FILE"


def remembered(finished: Finished, standing: Standing) -> Registered | None:
    """What an earlier call came to; None where there is something to decide.

    There is if the configuration has been verified since, if the model is to be champion always, or if the earlier
    call was to leave the aliases alone and this one is not.
    """
    path = finished.folder / REGISTERED
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if before.get("standing") != standing.tags() or finished.promote == "always":
        return None
    found = Registered(**before["registered"])
    return found if found.alias is not None or finished.promote == "never" else None


def registered(finished: Finished, standing: Standing, *, uri: str | None) -> Registered:
    """Register the model, and remember that.

    Raises:
        ConnectionError: if MLflow is away.
        WriteRefused: if it answers no.
    """
    found = ModelRegistry(uri, home()).register(candidate_of(finished, standing))
    write_json(finished.folder / REGISTERED, {"standing": standing.tags(), "registered": asdict(found)})
    return found


def candidate_of(finished: Finished, standing: Standing) -> Candidate:
    """The model as the registry takes it."""
    bundle, model = finished.bundle, finished.folder / MODEL
    assert bundle.mlflow is not None, "a bundle of a study that has MLflow"
    portable, reason = portability(model)
    tags = {"portable": str(portable).lower()} | ({} if portable else {"portable_reason": reason})
    return Candidate(
        name=bundle.name,
        experiment=bundle.mlflow.experiment,
        key=run_key(Job.read(finished.folder / JOB)),
        folder=model,
        standing=standing,
        tags={**tags, "study": bundle.study, "trial": str(bundle.trial), "bundle": str(bundle.bundle)},
        promote=finished.promote,
    )


def standing_of(bundle: Bundle, folder: Path) -> Standing:
    """What the gate compares: fresh seeds of the configuration, and what its production training came to."""
    finalist = _finalist(bundle)
    values = [math.inf if value is None else float(value) for value in finalist.get("values", ())]
    finite = [value for value in values if math.isfinite(value)]
    return Standing(
        metric=bundle.metrics.objective,
        select=bundle.metrics.select,
        direction=bundle.metrics.direction,
        values=finite,
        diverged=len(values) - len(finite),
        validation=_validation(bundle),
        production=_production(bundle, folder),
    )


def _finalist(bundle: Bundle) -> Mapping[str, Any]:
    """The bundle's configuration among those that were verified; nothing where it is not."""
    verification = bundle.verification or {}
    named = [one for one in verification.get("finalists", ()) if one["name"] == verification.get("chosen")]
    return next((one for one in named if one["trial"] == bundle.trial), {})


def _validation(bundle: Bundle) -> str:
    """Digest of the validation data; of their description, where they cannot be told by their content."""
    if bundle.fingerprint is not None and bundle.fingerprint.validation is not None:
        return bundle.fingerprint.validation
    described = json.dumps(asdict(bundle.data), sort_keys=True)
    return f"described:{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def _production(bundle: Bundle, folder: Path) -> float | None:
    outcome, curve = Outcome.read(folder), read_curve(folder / METRICS)
    of_best = outcome.best if outcome is not None else {}
    point = of_best if bundle.metrics.select == "best" else (curve[-1] if curve else {})
    value = point.get(bundle.metrics.objective)
    return None if value is None else float(value)
