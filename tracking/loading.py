"""Models read back from MLflow: where one lies, what it takes, and those that need none of our packages loaded."""

from __future__ import annotations

import importlib
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tracking.client import LONGEST_MESSAGE, SETTINGS, Refused, connected
from tracking.credentials import without_credentials

FORMS = "`models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN/NAME` or a folder with an MLmodel file"
TRAIN = "`regatta train` registers them."
CPU = {"device": "cpu"}
"""An exported model stays on the device it was exported on, and MLflow would put its inputs on a GPU."""

LOADING = {
    **SETTINGS,
    # A registry is written by others: its files are read as data, never as pickles, which could run code.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
"""MLflow's settings where the user has not set them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One tensor that a model takes."""

    shape: tuple[int, ...]
    """Of one row; -1: any length."""
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """A model's files on this machine."""

    path: Path
    name: str
    """As people are told it: name, version and aliases, or where it was found."""
    portable: bool
    """Whether it runs without the classes that it was trained with."""
    inputs: tuple[Input, ...]
    """Empty where the model does not say what it takes."""


def fetch(model: str, *, uri: str, into: Path) -> ModelFolder:
    """Find a model, and bring it here.

    Args:
        model: one of `FORMS`.
        uri: MLflow's tracking URI.
        into: an empty folder for its files; those of a model given as a folder stay where they are.

    Raises:
        ValueError: if there is no such model, if MLflow does not answer, or if the files are not those of a model.
    """
    for key, value in LOADING.items():
        os.environ.setdefault(key, value)
    if not model.startswith(("models:/", "runs:/")):
        if not (Path(model) / "MLmodel").is_file():
            raise ValueError(f"`--model` must be {FORMS}, but got {model!r}.")
        # MLflow refuses files beyond a link.
        return _described(Path(model).resolve(), model)
    with _asking(uri) as client:
        name, place = _of_run(client, model) if model.startswith("runs:/") else _registered(client, model)
        download = importlib.import_module("mlflow.artifacts").download_artifacts
        path = Path(download(artifact_uri=place, dst_path=str(into), tracking_uri=uri))
    return _described(path, name)


def load(folder: ModelFolder) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """`mlflow.pyfunc.load_model` of a portable model: outputs [N, ...] of inputs [N, ...] in the type that it takes."""
    pyfunc = importlib.import_module("mlflow.pyfunc")
    predict: Callable[[NDArray[Any]], NDArray[Any]] = pyfunc.load_model(
        str(folder.path), suppress_warnings=True, model_config=CPU
    ).predict
    return predict


@contextmanager
def _asking(uri: str) -> Iterator[Any]:
    """An `MlflowClient`, whose many exceptions become one sentence."""
    try:
        with connected(uri, what="models", remedy=TRAIN) as client:
            yield client
    except ConnectionError as error:
        rule = "does not hand this model out" if isinstance(error, Refused) else "must answer, but does not"
        raise ValueError(f"MLflow at {without_credentials(uri)} {rule}: {error}") from error


def _registered(client: Any, model: str) -> tuple[str, str]:
    """Name and place of `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
    form = re.fullmatch(r"models:/([^/]+?)(?:@([^@/]+)|/(\d+))", model)
    if form is None:
        raise ValueError(f"`--model` must be {FORMS}, but got {model!r}.")
    name, alias, number = form.groups()
    known = {found.name: found.aliases for found in client.search_registered_models(max_results=1000)}
    if name not in known:
        rest = f"The registry has {', '.join(sorted(known))}." if known else f"The registry has none. {TRAIN}"
        raise ValueError(f"`--model` must name a registered model, but there is no {name!r}. {rest}")
    numbers = sorted(int(found.version) for found in client.search_model_versions(f"name = '{name}'"))
    titles = {str(number): f"version {number}{_aliases(known[name], number)}" for number in numbers}
    version = str(known[name].get(alias)) if alias else number
    if version not in titles:
        rest = f"{name} has {', '.join(titles.values()) or 'no version'}."
        raise ValueError(f"`--model` must name a version that there is, but got {model!r}. {rest}")
    return f"{name} {titles[version]}", client.get_model_version_download_uri(name, version)


def _aliases(known: Mapping[str, Any], number: int) -> str:
    mine = sorted(alias for alias, version in known.items() if int(version) == number)
    return f" ({', '.join(mine)})" if mine else ""


def _of_run(client: Any, model: str) -> tuple[str, str]:
    """Name and place of a model that a run has logged, or of a folder among the run's files."""
    run_id, _, name = model.removeprefix("runs:/").partition("/")
    if not run_id or not name:
        raise ValueError(f"`--model` must be {FORMS}, but got {model!r}.")
    run = client.get_run(run_id)
    logged = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    places = {found.name: found.artifact_location for found in logged}
    return model, places.get(name, f"{run.info.artifact_uri}/{name}")


def _described(path: Path, name: str) -> ModelFolder:
    """What the MLmodel file says."""
    try:
        meta = importlib.import_module("mlflow.models").Model.load(str(path))
        signature = meta.signature.inputs if meta.signature else None
        tensors = signature.inputs if signature is not None and signature.is_tensor_spec() else []
        inputs = tuple(Input(shape=tuple(spec.shape[1:]), dtype=str(spec.type)) for spec in tensors)
        portable = meta.flavors.get("python_function")
    except Exception as error:  # YAML of any kind may be in it.
        said = textwrap.shorten(str(error), LONGEST_MESSAGE, placeholder=" ...")
        raise ValueError(f"the model {name} must have a readable MLmodel file, but: {said}") from error
    # Another flavour, or code beside the weights, would be run by loading it.
    ours = portable is None or (portable.get("loader_module"), portable.get("data")) == ("mlflow.pytorch", "data")
    if not ours or (portable or {}).get("code") or not {"pytorch", "regatta"} & set(meta.flavors):
        raise ValueError(f"the model {name} must be one that `regatta train` writes, but has other flavours.")
    return ModelFolder(path=path, name=name, portable=portable is not None, inputs=inputs)
