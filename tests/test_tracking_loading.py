"""Models read back from a real registry: how they are named, what they take, and what is refused."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from model_folders import FEATURES, Registry, images, registry_in

from tracking.loading import Input, fetch, load


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_in(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("models:/digits@champion", "digits version 1 (best, champion)"),
        ("models:/digits/1", "digits version 1 (best, champion)"),
        ("models:/digits/2", "digits version 2"),
        ("runs:/RUN/model", "runs:/RUN/model"),
        ("FOLDER", "FOLDER"),
    ],
)
def test_a_model_is_found_by_any_of_its_names(registry: Registry, tmp_path: Path, model: str, name: str) -> None:
    def told(text: str) -> str:
        return text.replace("RUN", registry.run).replace("FOLDER", str(registry.folder))

    found = fetch(told(model), uri=registry.uri, into=tmp_path)
    assert (found.name, found.portable) == (told(name), True)
    assert found.inputs == (Input(shape=FEATURES, dtype="float32"),)
    # The registry's own files stay as they are.
    assert found.path == registry.folder or found.path.is_relative_to(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_portable_model_gives_what_its_module_gives(registry: Registry, tmp_path: Path, count: int) -> None:
    predict = load(fetch("models:/digits@champion", uri=registry.uri, into=tmp_path))
    with torch.no_grad():
        assert predict(images(count)) == pytest.approx(registry.net(torch.from_numpy(images(count))).numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("models:/digit@champion", "`--model` must name a registered model, but there is no 'digit'. "),
        ("models:/digit@champion", "The registry has digits, letters."),
        ("models:/digits@challenger", "digits has version 1 (best, champion), version 2."),
        ("models:/digits/3", "`--model` must name a version that there is, but got 'models:/digits/3'."),
        ("models:/digits", "`--model` must be `models:/NAME@ALIAS`, "),
        ("models:/digits/latest", "or a folder with an MLmodel file, but got 'models:/digits/latest'."),
        ("runs:/RUN", "`--model` must be `models:/NAME@ALIAS`, "),
        ("runs:/0123456789/model", "does not hand this model out: Run with id=0123456789 not found"),
        ("runs:/RUN/elsewhere", "No such artifact: 'elsewhere'"),
        ("digits", "or a folder with an MLmodel file, but got 'digits'."),
    ],
)
def test_a_model_that_is_not_there_is_told_with_those_that_are(
    registry: Registry, tmp_path: Path, model: str, sentence: str
) -> None:
    assert sentence in refusal(model.replace("RUN", registry.run), registry.uri, tmp_path)


def test_a_registry_without_models_says_who_makes_them(registry: Registry, tmp_path: Path) -> None:
    found = refusal("models:/digits@champion", registry.empty, tmp_path)
    assert found.endswith("there is no 'digits'. The registry has none. `regatta train` registers them.")


def test_a_store_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    found = refusal("models:/digits@champion", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    assert found.startswith(f"there must be models in {tmp_path / 'mlflow.db'}, but there are none yet.")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_registry_that_is_away_is_one_sentence(registry: Registry, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert refusal("models:/digits@champion", uri, tmp_path).startswith(
            f"MLflow at {uri} must answer, but does not"
        )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loader_module": "mlflow.sklearn"}, "must be one that `regatta train` writes"),
        ({"code": "code"}, "must be one that `regatta train` writes"),
        ({"data": "../elsewhere"}, "must be one that `regatta train` writes"),
        (None, "must be one that `regatta train` writes"),
    ],
)
def test_a_model_that_would_run_code_of_its_own_is_refused(
    registry: Registry, tmp_path: Path, changes: dict[str, str] | None, sentence: str
) -> None:
    shutil.copytree(registry.folder, tmp_path / "model")
    values: dict[str, Any] = yaml.safe_load((tmp_path / "model" / "MLmodel").read_text())
    if changes is None:
        values["flavors"] = {"sklearn": {}}
    else:
        values["flavors"]["python_function"].update(changes)
    (tmp_path / "model" / "MLmodel").write_text(yaml.safe_dump(values))
    assert sentence in refusal(str(tmp_path / "model"), registry.uri, tmp_path)


@pytest.mark.parametrize("text", ["", "flavors: [", "[1, 2]", "flavors: {regatta: {}}\nsignature: {inputs: 3}"])
def test_a_damaged_description_is_one_sentence(registry: Registry, tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    assert "must have a readable MLmodel file" in refusal(str(tmp_path), registry.uri, tmp_path)


def test_a_pickle_is_never_loaded(registry: Registry, tmp_path: Path) -> None:
    shutil.copytree(registry.folder, tmp_path / "model")
    (tmp_path / "model" / "data" / "model.pt2").unlink()
    torch.save(registry.net, tmp_path / "model" / "data" / "model.pth")
    (tmp_path / "model" / "data" / "pickle_module_info.txt").write_text("pickle")
    with pytest.raises(Exception, match="Deserializing model using pickle is disallowed"):
        load(fetch(str(tmp_path / "model"), uri=registry.uri, into=tmp_path))


def test_what_the_user_has_set_stays(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    fetch(str(registry.folder), uri=registry.uri, into=tmp_path)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"


def refusal(model: str, uri: str, into: Path) -> str:
    with pytest.raises(ValueError) as caught:
        fetch(model, uri=uri, into=into)
    assert "\n" not in str(caught.value)
    return str(caught.value)
