"""The registry on a real MLflow store: versions, aliases through the gate, nothing twice, and a store that is away."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from tracking_stores import QUIET, mlflow_home

from tracking.gate import Promote, Standing
from tracking.registry import (
    MLMODEL,
    REASON,
    SERVING,
    VERSIONS,
    Candidate,
    ModelRegistry,
    portability,
    save_program,
    save_weights,
)
from tracking.runs import KEY, WriteRefused

pytestmark = QUIET

GOOD, BETTER, BAD = [0.10, 0.12, 0.11], [0.05, 0.06, 0.07], [0.30, 0.32, 0.31]


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    return ModelRegistry(None, mlflow_home(tmp_path_factory))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of the second kind, which takes no torch to make."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "weights.pt").write_bytes(b"weights")
    save_weights(made, reason="it is a test's")
    return made


def standing(*values: float, **changes: Any) -> Standing:
    known: dict[str, Any] = {"metric": "val_loss", "select": "best", "direction": "min", "values": values}
    return Standing(**{**known, "diverged": 0, "validation": "a1", "production": None, **changes})


def candidate(registry: ModelRegistry, folder: Path, name: str, **changes: Any) -> Candidate:
    """One whose training has a run."""
    made = Candidate(
        name=name,
        experiment=name,
        key=changes.pop("key", "one:production"),
        folder=folder,
        standing=changes.pop("standing", standing(*GOOD)),
        tags={"study": "mine", "portable": "false"},
        promote=changes.pop("promote", "gate"),
    )
    registry.experiment(name)
    if registry.find_run(made.key) is None:
        registry.open_run(made.key, name="train", tags={}, started_ms=1)
    return made


def aliases(registry: ModelRegistry, name: str) -> dict[str, str]:
    found = mlflow.MlflowClient(registry.uri).get_registered_model(name).aliases
    return {alias: str(version) for alias, version in found.items()}


def versions(registry: ModelRegistry, name: str) -> list[Any]:
    return sorted(mlflow.MlflowClient(registry.uri).search_model_versions(f"name = '{name}'"), key=lambda v: v.version)


def logged(registry: ModelRegistry) -> Any:
    """The only logged model of the registry's experiment."""
    (model,) = mlflow.MlflowClient(registry.uri).search_logged_models([registry.experiment_id])
    return model


def outputs(registry: ModelRegistry, run_id: str) -> int:
    """Models that a run says it has made."""
    found = mlflow.MlflowClient(registry.uri).get_run(run_id).outputs
    return len(found.model_outputs) if found else 0


def test_a_first_version_is_champion_and_says_all_that_the_next_gate_needs(
    registry: ModelRegistry, folder: Path
) -> None:
    one = candidate(registry, folder, "first", standing=standing(*GOOD, production=0.115, diverged=1))
    found = registry.register(one)
    assert (found.name, found.version, found.alias) == ("first", "1", "champion")
    (version,) = versions(registry, "first")
    assert version.status == "READY" and version.run_id == registry.find_run(one.key)
    assert Standing.of_tags(version.tags).tags() == one.standing.tags()
    assert version.tags[REASON] == found.reason and version.tags[KEY] == one.key
    assert version.description.lower() == found.reason.lower()
    assert {"study": "mine", "portable": "false"}.items() <= version.tags.items()
    model = logged(registry)
    assert (model.status, model.source_run_id) == ("READY", version.run_id)
    assert json.loads(model.tags[VERSIONS]) == [{"name": "first", "version": 1}]
    stored = Path(model.artifact_location)
    assert version.source == str(stored)
    assert (stored / "weights.pt").read_bytes() == b"weights"
    assert yaml.safe_load((stored / MLMODEL).read_text())["model_id"] == model.model_id


@pytest.mark.parametrize(
    ("values", "promote", "expected"),
    [
        (BETTER, "gate", {"champion": "2"}),
        (BAD, "gate", {"champion": "1", "challenger": "2"}),
        (BAD, "always", {"champion": "2"}),
        (BETTER, "never", {"champion": "1"}),
        ([], "gate", {"champion": "1", "challenger": "2"}),
    ],
)
def test_the_second_version_gets_the_alias_that_it_earns(
    values: list[float], promote: Promote, expected: dict[str, str], registry: ModelRegistry, folder: Path
) -> None:
    name = f"second-{promote}-{len(values) and values[0]}"
    registry.register(candidate(registry, folder, name))
    second = candidate(registry, folder, name, key="two:production", standing=standing(*values), promote=promote)
    found = registry.register(second)
    assert aliases(registry, name) == expected
    assert len(versions(registry, name)) == 2 and found.version == "2"
    # Once more, it finds what it has left.
    assert registry.register(second).version == "2"
    assert aliases(registry, name) == expected


def test_a_training_is_registered_once_and_its_standing_kept_up(registry: ModelRegistry, folder: Path) -> None:
    one = candidate(registry, folder, "once", standing=standing())
    assert "not verified" in registry.register(one).reason
    verified = dataclasses.replace(one, standing=standing(*GOOD))
    found = registry.register(verified)
    assert (found.version, found.alias) == ("1", "champion")
    assert found.reason == "it is the champion already; its mean val_loss on 3 fresh seeds is 0.11"
    (version,) = versions(registry, "once")
    assert Standing.of_tags(version.tags).values == GOOD
    assert outputs(registry, version.run_id) == 1


def test_a_challenger_that_is_verified_later_becomes_champion_and_is_no_challenger(
    registry: ModelRegistry, folder: Path
) -> None:
    registry.register(candidate(registry, folder, "later"))
    late = candidate(registry, folder, "later", key="two:production", standing=standing())
    assert registry.register(late).alias == "challenger"
    assert registry.register(dataclasses.replace(late, standing=standing(*BETTER))).alias == "champion"
    assert aliases(registry, "later") == {"champion": "2"}


def test_a_champion_of_someone_elses_is_left_in_place(registry: ModelRegistry, folder: Path) -> None:
    client = mlflow.MlflowClient(registry.uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", str(folder))
    client.set_registered_model_alias("foreign", "champion", "1")
    found = registry.register(candidate(registry, folder, "foreign"))
    assert (found.version, found.alias) == ("2", "challenger")
    assert "was not registered by Regatta" in found.reason


class Stopped(ModelRegistry):
    """Killed while its files are on their way."""

    def _sign(self, folder: Path, model_id: str, run_id: str) -> None:
        raise KeyboardInterrupt


def test_an_upload_that_was_interrupted_is_completed(
    registry: ModelRegistry, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = candidate(registry, folder, "stopped")
    with pytest.raises(KeyboardInterrupt):
        Stopped(None, mlflow_home(tmp_path_factory)).register(one)
    assert not versions(registry, "stopped")
    assert registry.register(one).version == "1"
    model = logged(registry)
    assert model.status == "READY" and model.artifact_location == versions(registry, "stopped")[0].source
    assert outputs(registry, model.source_run_id) == 1


def test_a_training_whose_run_is_gone_is_refused(registry: ModelRegistry, folder: Path) -> None:
    one = candidate(registry, folder, "gone")
    run = registry.find_run(one.key)
    assert run is not None
    mlflow.MlflowClient(registry.uri).delete_run(run)
    with pytest.raises(WriteRefused, match="the run of its training is gone from MLflow"):
        registry.register(one)


def test_a_name_that_cannot_be_is_refused(registry: ModelRegistry, folder: Path) -> None:
    with pytest.raises(WriteRefused, match="a/b"):
        registry.register(dataclasses.replace(candidate(registry, folder, "named"), name="a/b"))


def test_a_registry_that_is_away_is_no_connection(folder: Path, registry: ModelRegistry, tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    with pytest.raises(ConnectionError, match="127.0.0.1"):
        ModelRegistry(address, tmp_path).register(candidate(registry, folder, "away"))


# The two kinds of model


def test_weights_are_a_model_without_a_python_function_that_gives_its_reason(folder: Path) -> None:
    assert portability(folder) == (False, "it is a test's")
    described = yaml.safe_load((folder / MLMODEL).read_text())
    assert described["flavors"] == {"regatta": {"weights": "weights.pt", "config": "config.json"}}
    save_weights(folder, reason="", example=np.zeros((2, 3), "float32"), output=np.zeros((2, 1), "float32"))
    signature = mlflow.models.get_model_info(str(folder)).signature
    assert (signature.inputs.inputs[0].shape, signature.outputs.inputs[0].shape) == ((-1, 3), (-1, 1))


@pytest.mark.slow
# MLflow's, when it is imported in full.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_a_program_takes_any_number_of_rows_and_says_what_it_needs(tmp_path: Path) -> None:
    module, example = torch.nn.Linear(3, 2).eval(), torch.randn(2, 3)
    output = module(example).detach()
    program = save_program(module, tmp_path / "model", example=example.numpy(), output=output.numpy())
    assert torch.equal(program(example), output)
    assert portability(tmp_path / "model") == (True, "")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    for count in (1, 2, 7):
        rows = torch.randn(count, 3)
        np.testing.assert_allclose(loaded.predict(rows.numpy()), module(rows).detach().numpy(), rtol=1e-5, atol=1e-6)
    described = yaml.safe_load((tmp_path / "model" / MLMODEL).read_text())
    # On a machine with a GPU too: the weights in a program stay where they are.
    assert described["flavors"]["python_function"]["config"] == {"device": "cpu"}
    needs = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in needs] == list(SERVING) and not any("+" in line for line in needs)
    assert (tmp_path / "model" / "input_example.json").exists()


def test_the_driver_registers_without_torch() -> None:
    code = "import sys, pipelines.run_train; print({'torch', 'mlflow', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("name", ["key", "more/key", "more"])
def test_a_model_with_a_link_in_its_folder_is_not_registered(
    name: str, registry: ModelRegistry, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_bytes(b"s3cr3t")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "outside" / ("" if name == "more" else "key"))
    known = f"links-{name.replace('/', '-')}"
    one = candidate(registry, folder, known)
    with pytest.raises(WriteRefused, match=rf"must lie in its own folder, but .*{name} is a link"):
        registry.register(one)
    assert not mlflow.MlflowClient(registry.uri).search_registered_models(f"name = '{known}'")
    (folder / name).unlink()
    assert registry.register(one).version == "1"
