"""What becomes of a complete training: a model that loads without Regatta, or its reason, and a version in MLflow."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_pipelines_bundle import bundle
from test_pipelines_train import ready, request, trained
from tracking_stores import QUIET, mlflow_home

from models import checkpoint
from models.config import MetricsConfig, TrainConfig
from models.job import LAST, METRICS, Outcome, write_curve
from models.portable import trained as trained_module
from models.prepared import prepare
from models.train import build_module
from pipelines.bundle import MlflowSection
from pipelines.bundle_file import NAME, to_yaml
from pipelines.model_files import write_model
from pipelines.register import Finished, make_model, register, standing_of
from pipelines.training_job import MODEL, REGISTERED, job_of, run_key, set_aside, take_back
from tracking.registry import CONFIG, WEIGHTS, ModelRegistry, portability, save_weights

pytestmark = QUIET

ALONE = """
import sys

OURS = ("models", "pipelines", "search", "tracking")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
for name in OURS:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
import mlflow, numpy

for folder in sys.argv[1:]:
    model = mlflow.pyfunc.load_model(folder)
    numpy.save(f"{folder}/out.npy", model.predict(numpy.load(f"{folder}/in.npy")))
"""
"""Loads models in a process that cannot import Regatta, and saves what they predict."""

USERS = """
import pytorch_lightning as pl
import torch
from torch import nn


class Recurrent(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.lstm(x.unflatten(1, (8, 8)))[0][:, -1])


class Branches(Recurrent):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else self.head(x[:, :4])
"""
FINALIST = {"name": "b", "trial": 0, "values": [0.5, None, 0.6, 0.55]}
VERIFIED = {"chosen": "b", "finalists": [FINALIST]}
NETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MLP": ({"features": 64, "hidden": [8], "norm": "batch", "dropout": 0.5}, {}),
    "ConvNet": ({"width": 2, "ghost_batch": 8}, {"image": True}),
    "ResNet": ({"width": 2}, {"image": True}),
}


def finished(folder: Path, **changes: Any) -> Finished:
    """A training that has ended in a folder, with a model of the kind that takes no torch to make."""
    made = bundle(**changes.pop("bundle", {}))
    dataclasses.replace(job_of(made, request()), id="1").write(folder)
    Outcome(status="COMPLETE", step=23, best={"step": 20, "val_loss": 0.55}).write(folder)
    write_curve(folder / METRICS, [{"step": 20, "val_loss": 0.55}, {"step": 23, "val_loss": 0.75}])
    if not (folder / MODEL).exists():
        (folder / MODEL).mkdir()
        save_weights(folder / MODEL, reason="it is a test's")
    return Finished(**{"bundle": made, "text": to_yaml(made), "folder": folder, "promote": "gate", **changes})


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """The store that the state folder has."""
    monkeypatch.setenv("REGATTA_HOME", str(mlflow_home(tmp_path_factory)))
    return ModelRegistry(None, mlflow_home(tmp_path_factory))


def named(store: ModelRegistry, name: str, **origin: Any) -> dict[str, Any]:
    """What a bundle says that is registered under this name, its training's run being there."""
    store.experiment(name)
    key = run_key(dataclasses.replace(job_of(bundle(), request()), id="1"))
    if store.find_run(key) is None:
        store.open_run(key, name="train", tags={}, started_ms=1)
    return {"name": name, "mlflow": MlflowSection(experiment=name, uri=None), **origin}


# What is compared


def test_a_standing_is_what_fresh_seeds_and_the_production_training_came_to(tmp_path: Path) -> None:
    found = standing_of(finished(tmp_path, bundle={"verification": VERIFIED}).bundle, tmp_path)
    assert (list(found.values), found.diverged, found.production) == ([0.5, 0.6, 0.55], 1, 0.55)
    assert (found.metric, found.select, found.direction) == ("val_loss", "best", "min")


def test_a_final_value_is_compared_with_final_values(tmp_path: Path) -> None:
    made = finished(tmp_path, bundle={"metrics": MetricsConfig(select="final")}).bundle
    assert standing_of(made, tmp_path).production == 0.75


@pytest.mark.parametrize("verification", [None, {"chosen": "b", "finalists": [{**FINALIST, "trial": 7}]}])
def test_a_configuration_that_was_not_verified_has_no_values(tmp_path: Path, verification: Any) -> None:
    found = standing_of(finished(tmp_path, bundle={"verification": verification}).bundle, tmp_path)
    assert not found.values and not found.verified


def test_a_training_without_validation_has_no_value(tmp_path: Path) -> None:
    made = finished(tmp_path).bundle
    Outcome(status="COMPLETE", step=23).write(tmp_path)
    assert standing_of(made, tmp_path).production is None


def test_validation_data_are_known_by_content_or_else_by_description(tmp_path: Path) -> None:
    made = finished(tmp_path).bundle
    assert made.fingerprint is not None
    known = dataclasses.replace(made, fingerprint=dataclasses.replace(made.fingerprint, validation="abc"))
    other = dataclasses.replace(made, data=dataclasses.replace(made.data, init_args={"validation": 0.2}))
    assert standing_of(known, tmp_path).validation == "abc"
    described = [standing_of(one, tmp_path).validation for one in (made, made, other)]
    assert described[0] == described[1] != described[2] and described[0].startswith("described:")


# What is registered and said


def test_a_model_is_registered_once_and_decided_again_when_there_is_news(store: ModelRegistry, tmp_path: Path) -> None:
    origin = named(store, "said")
    told = list(register(finished(tmp_path, bundle=origin)))
    assert told == [
        "the model is weights only, which load where Regatta and its class are: it is a test's",
        "registered said version 1 as champion: there was no champion yet; it is not verified",
        "next: regatta predict --model models:/said@champion --input FILE",
    ]
    again = list(register(finished(tmp_path, bundle=origin)))
    assert again[1] == "registered before said version 1 as champion: there was no champion yet; it is not verified"
    verified = list(register(finished(tmp_path, bundle={**origin, "verification": VERIFIED})))
    assert verified[1].startswith(
        "registered said version 1 as champion: it is the champion already; its mean val_loss"
    )


def test_aliases_that_were_left_alone_are_given_by_a_later_call(store: ModelRegistry, tmp_path: Path) -> None:
    origin = named(store, "left")
    first, last = list(register(finished(tmp_path, bundle=origin, promote="never")))[1:]
    assert first.startswith("registered left version 1 without an alias: ")
    assert last == "next: regatta predict --model models:/left/1 --input FILE"
    assert list(register(finished(tmp_path, bundle=origin, promote="never")))[1].startswith("registered before left")
    assert list(register(finished(tmp_path, bundle=origin)))[1].startswith("registered left version 1 as champion: ")


def test_a_study_without_mlflow_keeps_its_model_and_registers_nothing(tmp_path: Path) -> None:
    told = list(register(finished(tmp_path, bundle={"mlflow": None})))
    assert told[1:] == [
        "not registered, since the study is not in MLflow (`tracking.mlflow: false`)",
        f"next: regatta predict --model {tmp_path / MODEL} --input FILE",
    ]
    assert not (tmp_path / REGISTERED).exists()


def test_a_registry_that_is_away_gets_the_model_later(store: ModelRegistry, tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{bound.getsockname()[1]}"
    origin = named(store, "away")
    told = list(register(finished(tmp_path, bundle={**origin, "mlflow": MlflowSection(experiment="away", uri=away)})))
    assert len(told) == 2 and told[1].startswith("the model is not registered yet (")
    assert told[1].endswith("): the same command registers it")
    assert not (tmp_path / REGISTERED).exists()
    assert list(register(finished(tmp_path, bundle=origin)))[1].startswith("registered away version 1 as champion")


def test_a_training_that_is_set_aside_takes_its_model_along(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / REGISTERED).write_text("{}")
    set_aside(tmp_path)
    assert not (tmp_path / MODEL).exists() and not (tmp_path / REGISTERED).exists()
    take_back(tmp_path)
    assert portability(tmp_path / MODEL) == (False, "it is a test's") and (tmp_path / REGISTERED).exists()


# For real


def ended(folder: Path, config: TrainConfig) -> Path:
    """The folder of a training that ended with the weights it began with."""
    folder.mkdir()
    job = dataclasses.replace(job_of(bundle(), request()), config=config)
    job.write(folder)
    state = build_module(config, prepare(config)).state_dict()
    checkpoint.write({"state_dict": state}, str(folder / LAST))
    return folder


def config_of(model: str, init_args: dict[str, Any], data: dict[str, Any] | None = None) -> TrainConfig:
    known = job_of(bundle(), request()).config
    spec = {**known.data, **(data or {})}
    return dataclasses.replace(known, model={"class_path": model, "init_args": init_args}, data=spec, batch_size=16)


def configs(folder: Path) -> dict[str, TrainConfig]:
    """Our own networks and a user's module."""
    made = {
        name: config_of(
            "models.task.Classifier",
            {"network": {"class_path": f"models.nets.{name}", "init_args": network}},
            {"init_args": data},
        )
        for name, (network, data) in NETS.items()
    }
    (folder / "text.txt").write_text("how much wood would a woodchuck chuck " * 40)
    text = {"class_path": "models.text.Text", "init_args": {"path": str(folder / "text.txt"), "context": 8}}
    network = {"class_path": "models.nets.Transformer", "init_args": {"vocabulary": 13, "context": 8, "width": 8}}
    made["Transformer"] = config_of("models.task.LanguageModel", {"network": network}, text)
    made["Recurrent"] = config_of("users_modules.Recurrent", {})
    return made


@pytest.mark.slow
# MLflow's and torch's, of no consequence to what is saved: the comparison is made with what was saved.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning")
def test_models_load_and_predict_in_a_process_that_cannot_import_regatta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_modules.py").write_text(USERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = {}
    for name, config in configs(tmp_path).items():
        folder = ended(tmp_path / name, config)
        write_model(config, folder, folder / MODEL)
        assert portability(folder / MODEL) == (True, ""), name
        example = np.array(json.loads((folder / MODEL / "serving_input_example.json").read_text())["inputs"])
        inputs = torch.from_numpy(np.concatenate([example, example, example[:1]]))
        inputs = inputs if inputs.dtype == torch.int64 else inputs.float()
        np.save(folder / MODEL / "in.npy", inputs.numpy())
        with torch.no_grad():
            expected[folder / MODEL] = trained_module(config, prepare(config), folder)(inputs).numpy()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-P", "-c", ALONE, *map(str, expected)]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for path, outputs in expected.items():
        np.testing.assert_allclose(np.load(path / "out.npy"), outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_control_flow_that_depends_on_data_is_kept_as_weights_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users_branches.py").write_text(USERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = config_of("users_branches.Branches", {})
    folder = ended(tmp_path / "production", config)
    leftover = folder / f".{MODEL}"
    leftover.mkdir()
    one = Finished(bundle=bundle(), text="bundle: 1\n", folder=folder, promote="gate")
    assert make_model(one) is None and not leftover.exists()
    portable, reason = portability(folder / MODEL)
    assert not portable and "data-dependent" in reason and "\n" not in reason
    assert (folder / MODEL / NAME).read_text() == "bundle: 1\n"
    assert TrainConfig.from_json(json.loads((folder / MODEL / CONFIG).read_text())) == config
    weights = checkpoint.read(str(folder / MODEL / WEIGHTS), None)
    assert all(
        torch.equal(value, weights[name]) for name, value in build_module(config, prepare(config)).state_dict().items()
    )
    described = yaml.safe_load((folder / MODEL / "MLmodel").read_text())
    assert set(described["flavors"]) == {"regatta"} and '"shape": [-1, 64]' in described["signature"]["inputs"]
    # Where the module cannot be found, there is no model, and nothing half-written.
    shutil.rmtree(folder / MODEL)
    monkeypatch.chdir(folder)
    problem = make_model(one)
    assert problem is not None and "must be importable" in problem
    assert not (folder / MODEL).exists() and not leftover.exists()


@pytest.mark.slow
def test_two_trainings_become_two_versions_and_the_first_stays_champion_until_the_second_is_verified(
    tmp_path: Path, regatta_home: Path
) -> None:
    mlflow = MlflowSection(experiment="mine", uri=None)
    path = str(ready(tmp_path, mlflow=mlflow))
    told = trained("--config", path, cwd=tmp_path)
    assert "registered mine version 1 as champion: there was no champion yet" in told
    assert "next: regatta predict --model models:/mine@champion --input FILE" in told
    assert "registered before mine version 1 as champion" in trained("--config", path, cwd=tmp_path)
    told = trained("--config", path, "--force", cwd=tmp_path)
    assert "registered mine version 2 as challenger: it is not verified; run `regatta verify`" in told
    told = trained("--config", path, "--registry.promote", "always", cwd=tmp_path)
    assert "registered mine version 2 as champion: `--registry.promote always`" in told
    # Nothing of MLflow's beside the state folder.
    assert {path.name for path in tmp_path.iterdir()} == {"best.yaml", regatta_home.name}
