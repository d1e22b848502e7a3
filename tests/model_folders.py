"""MLflow model folders of both kinds, and a registry that holds them, as `regatta train` leaves them."""

from __future__ import annotations

import importlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from models.config import TrainConfig
from tracking.loading import LOADING
from tracking.mlflow_runs import MlflowWriter

FEATURES = (1, 2, 3)


class Net(nn.Module):
    """Three outputs of images of one channel, 2 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layers(images)
        return outputs


def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Inputs of `Net`."""
    return np.random.default_rng(count).normal(size=(count, *FEATURES)).astype(np.float32)


def save_portable(folder: Path, *, seed: int = 0) -> Net:
    """Write an exported model; returns the module, in eval mode."""
    torch.manual_seed(seed)
    net = Net().eval()
    types = importlib.import_module("mlflow.types")
    shape = (-1, *FEATURES)
    schemas = [types.Schema([types.TensorSpec(np.dtype(np.float32), of)]) for of in (shape, (-1, 3))]
    signature = importlib.import_module("mlflow.models").ModelSignature(*schemas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow.pytorch").save_model(
            net,
            folder,
            serialization_format="pt2",
            signature=signature,
            input_example=images(3),
            pip_requirements=["torch"],
        )
    return net


def save_unportable(folder: Path, config: TrainConfig, module: nn.Module) -> None:
    """Write a model that only its own classes can run."""
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"regatta": {}}, "metadata": {"portable": False}}))
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    torch.save(module.state_dict(), folder / "weights.pt")


def register(folder: Path, *, uri: str, name: str, aliases: Sequence[str] = ()) -> str:
    """Log a model folder with a run of its own, and register it; returns the run's id."""
    mlflow: Any = importlib.import_module("mlflow")
    client = mlflow.MlflowClient(uri)
    place = str(folder.parent / "artifacts")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=place)
    run = client.create_run(experiment).info.run_id
    model = client.create_logged_model(experiment, name="model", source_run_id=run)
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    if name not in [known.name for known in client.search_registered_models()]:
        client.create_registered_model(name)
    version = client.create_model_version(name, model.artifact_location, run_id=run, model_id=model.model_id)
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version.version)
    client.set_terminated(run)
    return str(run)


class Registry(NamedTuple):
    """A registry with `digits`, versions 1 (best, champion) and 2, and `letters`, all of them the same model."""

    uri: str
    empty: str
    """Of another one, without any model."""
    folder: Path
    net: Net
    run: str
    """That has logged version 1 of digits."""


@contextmanager
def registry_in(home: Path) -> Iterator[Registry]:
    """Make one, and keep MLflow as quiet as it is where a command loads a model."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOADING.items():
            patch.setenv(name, value)
        uri = MlflowWriter(None, home).uri
        shutil.copy(home / "mlflow.db", home / "empty.db")
        net = save_portable(home / "folder")
        run = register(home / "folder", uri=uri, name="digits", aliases=["best", "champion"])
        register(home / "folder", uri=uri, name="digits")
        register(home / "folder", uri=uri, name="letters")
        yield Registry(uri, f"sqlite:///{home / 'empty.db'}", home / "folder", net, run)
