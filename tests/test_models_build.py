"""Classes by import path: built with their nested arguments, every mistake a sentence, the right Lightning found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import user_code

from models.build import ConfigError, build, find_class, lightning_of
from models.nets import MLP
from models.task import Classifier

MLP_ARGS: dict[str, Any] = {"features": 4, "hidden": [3], "classes": 2}


def test_nested_objects_are_built_first() -> None:
    network = {"class_path": "models.nets.MLP", "init_args": MLP_ARGS}
    built = build({"class_path": "models.task.Classifier", "init_args": {"network": network}}, where="model")
    assert isinstance(built, Classifier) and isinstance(built.network, MLP)


def test_objects_in_lists_and_mappings_are_built_too() -> None:
    zero = {"class_path": "fractions.Fraction", "init_args": {"numerator": 1}}
    args = {"network": {"parts": [zero, 2], "class_path": 3}}
    built = build({"class_path": "types.SimpleNamespace", "init_args": args}, where="model")
    assert built.network == {"parts": [1, 2], "class_path": 3}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"class_path": "no_such_package.Net"}, "must be importable, but 'no_such_package.Net' is not"),
        ({"class_path": "models.nets.MPL"}, "has no class 'MPL'. Did you mean `MLP`?"),
        ({"class_path": "models.build.build"}, "must name a class, but `models.build` has no class 'build'"),
        (
            {"class_path": "models.nets.MLP", "init_args": {**MLP_ARGS, "clases": 2}},
            "`model.init_args.clases` is not an argument of MLP, which takes `features`",
        ),
        (
            {"class_path": "models.nets.MLP", "init_args": {**MLP_ARGS, "clases": 2}},
            "Did you mean `classes`?",
        ),
        (
            {"class_path": "models.task.Classifier", "init_args": {"label_smoothing": 0.1}},
            "`model.init_args.network` must be set: Classifier needs it.",
        ),
        (
            {
                "class_path": "models.task.Classifier",
                "init_args": {"network": {"class_path": "models.nets.MLP", "init_args": {"width": 1}}},
            },
            "`model.init_args.network.init_args.width` is not an argument of MLP",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build(spec, where="model")
    assert sentence in str(raised.value)


def test_a_module_that_fails_to_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_user_code.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="importing 'broken_user_code' raised ZeroDivisionError"):
        find_class("broken_user_code.Net", where="model.class_path")


@pytest.mark.parametrize("lightning", ["pytorch_lightning", "lightning.pytorch"])
def test_a_class_tells_its_lightning(lightning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch, lightning)
    assert lightning_of(code.Manual, base="LightningModule", where="model").__name__ == lightning
    assert lightning_of(code.Data, base="LightningDataModule", where="data").__name__ == lightning
    with pytest.raises(ConfigError, match="`model` must derive from a LightningModule, but .*Data does not"):
        lightning_of(code.Data, base="LightningModule", where="model")
