"""MLflow's model registry: the folder of a model, its version under a name, and the aliases that the gate gives it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tracking.gate import Alias, Decision, Promote, Standing, decide, kept
from tracking.mlflow_runs import MlflowWriter
from tracking.place import write
from tracking.runs import KEY, WriteRefused

REASON = "reason"
"""The tag of a version that says why it has its alias, or none."""
VERSIONS = "mlflow.modelVersions"
"""MLflow's own tag of a logged model."""
FLAVOR = "regatta"
"""Of a model that is no program: its weights and its configuration, for the code that it was trained with."""
WEIGHTS, CONFIG, MLMODEL = "weights.pt", "config.json", "MLmodel"
SERVING = ("mlflow", "torch", "numpy")
"""What loads and runs an exported program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A trained model to be registered."""

    name: str
    experiment: str
    key: str
    """That of its production run in MLflow, by which its version is found again, too."""
    folder: Path
    """An MLflow model."""
    standing: Standing
    tags: Mapping[str, str]
    """What else the version says of itself."""
    promote: Promote


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A version, and what was decided about it."""

    name: str
    version: str
    alias: Alias | None
    reason: str


class ModelRegistry(MlflowWriter):
    """The registry of an MLflow store, beside its runs. What a method has returned from is stored.

    Raises as a `RunWriter` does: `ConnectionError` when the store is away, `WriteRefused` when it answers no.
    """

    def register(self, candidate: Candidate) -> Registered:
        """Make a version of a model and give it its alias; of one that has a version already, decide again.

        May be repeated after an interruption at any point: nothing is registered twice.
        """
        link = next((path for path in candidate.folder.rglob("*") if path.is_symlink()), None)
        if link is not None:  # MLflow would send what lies behind it.
            raise WriteRefused(f"a model's files must lie in its own folder, but {link} is a link; put the file there")
        self.experiment(candidate.experiment)
        run_id = self.find_run(candidate.key)
        if run_id is None:
            raise WriteRefused("the run of its training is gone from MLflow; `regatta train --force` trains anew")
        self._create_name(candidate.name)
        champion, version = self._champion(candidate.name), self._version(candidate)
        decision = _decided(candidate, champion, version)
        tags = {**candidate.standing.tags(), **candidate.tags, REASON: decision.reason}
        if version is None:
            version = self._create_version(candidate, run_id, {**tags, KEY: candidate.key})
        else:
            self._tag(version, tags)
        self._describe(version, decision.reason)
        self._give(decision.alias, version)
        return Registered(
            name=candidate.name, version=str(version.version), alias=decision.alias, reason=decision.reason
        )

    def _create_name(self, name: str) -> None:
        try:
            with self._calling():
                self._client.create_registered_model(name)
        except WriteRefused:
            # It is there already; a name that cannot be is refused here.
            with self._calling():
                self._client.get_registered_model(name)

    def _champion(self, name: str) -> Any:
        # A version that is searched for does not name its aliases.
        with self._calling(2):
            number = self._client.get_registered_model(name).aliases.get("champion")
            return None if number is None else self._client.get_model_version(name, str(number))

    def _version(self, candidate: Candidate) -> Any:
        query = f"name = '{candidate.name}' and tags.`{KEY}` = '{candidate.key}'"
        with self._calling():
            found = self._client.search_model_versions(query, max_results=1)
        return found[0] if found else None

    def _create_version(self, candidate: Candidate, run_id: str, tags: Mapping[str, str]) -> Any:
        model = self._logged_model(candidate, run_id)
        with self._calling(2):
            # Its place, not `models:/ID`, which MLflow looks up in the store of the global tracking URI.
            version = self._client.create_model_version(
                candidate.name, model.artifact_location, run_id, tags=dict(tags), model_id=model.model_id
            )
            # By which the page of the model finds its version.
            known = json.dumps([{"name": candidate.name, "version": version.version}])
            self._client.set_logged_model_tags(model.model_id, {VERSIONS: known})
        return version

    def _logged_model(self, candidate: Candidate, run_id: str) -> Any:
        """The model of a run with its files; one that an earlier call has not completed is completed."""
        query = f"tags.`{KEY}` = '{candidate.key}'"
        with self._calling():
            found = self._client.search_logged_models([self.experiment_id], query, max_results=1)
        if found and found[0].status == "READY":
            return found[0]
        with self._calling(4):
            model = (
                found[0]
                if found
                else self._client.create_logged_model(
                    self.experiment_id,
                    # Only here, MLflow takes no full stop.
                    name=candidate.name.replace(".", "_"),
                    source_run_id=run_id,
                    tags={KEY: candidate.key},
                )
            )
            outputs = self._client.get_run(run_id).outputs
            if model.model_id not in [one.model_id for one in (outputs.model_outputs if outputs else ())]:
                self._client.log_outputs(run_id, [self._entities.LoggedModelOutput(model.model_id, step=0)])
            self._sign(candidate.folder, model.model_id, run_id)
            self._client.log_model_artifacts(model.model_id, str(candidate.folder))
            return self._client.finalize_logged_model(model.model_id, "READY")

    def _sign(self, folder: Path, model_id: str, run_id: str) -> None:
        """Write into the model's own description where it has been logged."""
        described = self._mlflow.models.Model.load(str(folder))
        described.model_id, described.run_id = model_id, run_id
        write(folder / MLMODEL, described.to_yaml())

    def _tag(self, version: Any, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            with self._calling():
                self._client.set_model_version_tag(version.name, version.version, key, value)

    def _describe(self, version: Any, text: str) -> None:
        """Say it in the column of the registry's page that people read."""
        with self._calling():
            self._client.update_model_version(version.name, version.version, text[:1].upper() + text[1:])

    def _give(self, alias: Alias | None, version: Any) -> None:
        """Set an alias; a challenger that has become champion is no challenger any more."""
        if alias is None:
            return
        with self._calling(3):
            present = self._client.get_registered_model(version.name).aliases
            self._client.set_registered_model_alias(version.name, alias, version.version)
            if alias == "champion" and str(present.get("challenger")) == str(version.version):
                self._client.delete_registered_model_alias(version.name, "challenger")


def _decided(candidate: Candidate, champion: Any, version: Any) -> Decision:
    if champion is not None and version is not None and champion.version == version.version:
        return kept(candidate.standing)
    present = None if champion is None else Standing.of_tags(champion.tags)
    return decide(candidate.standing, present, candidate.promote)


def save_program(module: Any, path: Path, *, example: Any, output: Any) -> Any:
    """Export a module's `forward` into an MLflow model that needs none of its classes; returns the program read back.

    Args:
        example: array of at least two rows, as `forward` takes them.
        output: what it gives for them.

    Raises:
        Exception: whatever torch raises at a module that it cannot export.
    """
    mlflow, flavor = importlib.import_module("mlflow"), importlib.import_module("mlflow.pytorch")
    described = mlflow.models.Model()
    flavor.save_model(
        module,
        str(path),
        mlflow_model=described,
        serialization_format="pt2",
        signature=mlflow.models.infer_signature(example, output),
        input_example=example,
        metadata={"portable": True},
        # Left to itself, MLflow loads the model in a further process to find out.
        pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in SERVING],
    )
    # Weights in a program stay on the device that it was exported on: MLflow would ask for a GPU wherever there is one.
    described.flavors["python_function"]["config"] = {"device": "cpu"}
    described.save(str(path / MLMODEL))
    return flavor.load_model(str(path))


def portability(folder: Path) -> tuple[bool, str]:
    """Whether a model folder holds a program of its own, and why not, as it says itself."""
    described = yaml.safe_load((folder / MLMODEL).read_text(encoding="utf-8"))["metadata"]
    return described["portable"], described.get("reason", "")


def save_weights(path: Path, *, reason: str, example: Any = None, output: Any = None) -> None:
    """Describe a folder that holds `weights.pt` and `config.json` as an MLflow model which only Regatta can load."""
    models = importlib.import_module("mlflow.models")
    described = models.Model(metadata={"portable": False, "reason": reason})
    if example is not None and output is not None:
        described.signature = models.infer_signature(example, output)
    described.add_flavor(FLAVOR, weights=WEIGHTS, config=CONFIG)
    described.save(str(path / MLMODEL))
