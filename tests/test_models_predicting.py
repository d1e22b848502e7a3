"""Modules rebuilt from configuration and weights, as a user would write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import config_of, user_code
from model_folders import save_unportable

from models.build import ConfigError
from models.checkpoint import CheckpointError
from models.predicting import CONFIG, WEIGHTS, load

MODULES = """

class Depends(Net):
    \"\"\"Cannot be exported: which way it goes depends on what it sees.\"\"\"

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)


class Remembers(pl.LightningModule):
    def __init__(self, width=5):
        super().__init__()
        self.lstm = nn.LSTM(4, width, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class GivesTwo(Net):
    def forward(self, x):
        return x, x
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = user_code(tmp_path, monkeypatch)
    exec(compile(MODULES, "modules of the user", "exec"), vars(found))
    return found


@pytest.mark.parametrize(
    ("name", "shape", "precision"),
    [("Depends", (6, 4), "32-true"), ("Remembers", (6, 3, 4), "32-true"), ("Remembers", (6, 3, 4), "64-true")],
)
def test_a_module_gives_again_what_it_gave(
    code: ModuleType, tmp_path: Path, name: str, shape: tuple[int, ...], precision: str
) -> None:
    module = vars(code)[name]().eval()
    module = module.double() if precision == "64-true" else module
    save_unportable(tmp_path / "model", config_of(code, model=name, precision=precision), module)
    rows = np.random.default_rng(0).normal(size=shape)
    with torch.no_grad():
        expected = module(torch.from_numpy(rows).to(next(module.parameters()).dtype)).numpy()
    predict = load(tmp_path / "model")
    assert (predict(rows) == expected).all()
    # Dropout and batch norm are those of a finished training.
    assert (predict(rows) == expected).all()


def test_arguments_of_the_module_come_from_its_configuration(code: ModuleType, tmp_path: Path) -> None:
    module = code.Remembers(width=9).eval()
    save_unportable(tmp_path / "model", config_of(code, model="Remembers", model_args={"width": 9}), module)
    assert load(tmp_path / "model")(np.zeros((2, 1, 4))).shape == (2, 2)


def test_a_module_that_gives_more_than_one_tensor_is_refused(code: ModuleType, tmp_path: Path) -> None:
    save_unportable(tmp_path / "model", config_of(code, model="GivesTwo"), code.GivesTwo())
    with pytest.raises(TypeError, match="`forward` must return one tensor, but returned tuple"):
        load(tmp_path / "model")(np.zeros((2, 4)))


class _RunsCode:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return _fails, ("weights were run",)


def _fails(reason: str) -> None:
    raise AssertionError(reason)


def test_weights_are_data_and_never_run(code: ModuleType, tmp_path: Path) -> None:
    save_unportable(tmp_path / "model", config_of(code), code.Net())
    torch.save(_RunsCode(), tmp_path / "model" / WEIGHTS)
    with pytest.raises(CheckpointError, match="is not plain data"):
        load(tmp_path / "model")


def test_damaged_files_are_refused(code: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_unportable(folder, config_of(code), code.Net())
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, "model": {"class_path": "nowhere.Net", "init_args": {}}}))
    with pytest.raises(ConfigError, match="`model.class_path` must be importable"):
        load(folder)
    (folder / CONFIG).write_text(json.dumps({**values, "model": {**values["model"], "init_args": {"width": 3}}}))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)
