"""A finished training as a module, an example of what it takes, and the comparison with its exported program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import config_of, user_code
from torch import Tensor, nn

from models import checkpoint
from models.checkpoint import CheckpointError
from models.job import BEST, LAST
from models.loaders import BatchList
from models.portable import ROWS, NotPortable, check, example_of, output_of, reason_of, rows, trained, weights_of
from models.prepared import PreparedData, prepare
from models.train import build_module


class Given(pl.LightningModule):
    """Calls a function with whatever it is given."""

    def __init__(self, function: Callable[..., Any] = torch.relu, example: Any = None) -> None:
        super().__init__()
        self.function = function
        self.example_input_array = example

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Both(Given):
    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:  # type: ignore[override]
        return x + y * scale


class Named(Given):
    def forward(self, image: Tensor) -> Tensor:
        return image


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return user_code(tmp_path, monkeypatch)


def data_with(code: ModuleType, batch: Any) -> PreparedData:
    """Data whose only validation batch is this one."""
    return replace(prepare(config_of(code)), val_loaders=[BatchList([batch])])


# Weights


def test_the_best_weights_are_used_and_without_validation_the_last(code: ModuleType, tmp_path: Path) -> None:
    config = config_of(code)
    data = prepare(config)
    module = build_module(config, data)
    for name, value in ((LAST, 1.0), (BEST, 2.0)):
        nn.init.constant_(module.net[0].bias, value)
        checkpoint.write({"state_dict": module.state_dict(), "epoch": 1}, str(tmp_path / name))
        found = trained(config, data, tmp_path)
        assert found.net[0].bias.tolist() == [value] * 8
        assert not found.training and not found.net[3].training
        assert set(weights_of(tmp_path)) == set(module.state_dict())


def test_weights_of_16_bits_become_a_module_of_32(code: ModuleType, tmp_path: Path) -> None:
    config = config_of(code, precision="bf16-true")
    data = prepare(config)
    state = build_module(config, data).bfloat16().state_dict()
    checkpoint.write({"state_dict": state}, str(tmp_path / LAST))
    assert {p.dtype for p in trained(config, data, tmp_path).parameters()} == {torch.float32}


def test_a_training_without_a_checkpoint_is_an_error(code: ModuleType, tmp_path: Path) -> None:
    config = config_of(code)
    with pytest.raises(CheckpointError, match="last.ckpt cannot be read"):
        trained(config, prepare(config), tmp_path)


# The example


def test_an_example_is_the_head_of_a_validation_batch(code: ModuleType) -> None:
    config = config_of(code)
    data = prepare(config)
    batch = next(iter(data.val_loaders))
    assert torch.equal(example_of(Given(), config, data), batch[0][:ROWS])


@pytest.mark.parametrize(
    ("module", "batch"),
    [
        (Given(), torch.tensor([[1.0], [2.0], [3.0]])),
        (Given(), [torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3)]),
        (Named(), {"label": torch.zeros(3), "image": torch.tensor([[1.0], [2.0], [3.0]])}),
        (Given(), {"first": torch.tensor([[1.0], [2.0], [3.0]]), "second": torch.zeros(3)}),
        (Given(example=torch.tensor([[1.0], [2.0]])), torch.zeros(3, 1)),
        (Given(example=(torch.tensor([[1.0], [2.0]]),)), torch.zeros(3, 1)),
    ],
    ids=["tensor", "tuple", "mapping by name", "mapping by place", "own", "own as a tuple"],
)
def test_an_example_is_what_forward_takes_of_a_batch(module: Any, batch: Any, code: ModuleType) -> None:
    assert example_of(module, config_of(code), data_with(code, batch)).tolist() == [[1.0], [2.0]]


def test_an_example_has_two_rows_though_the_batch_has_one(code: ModuleType) -> None:
    assert example_of(Given(), config_of(code), data_with(code, torch.ones(1, 3))).shape == (2, 3)
    assert rows(torch.tensor([1, 2]), 5).tolist() == [1, 2, 1, 2, 1]


def test_an_example_has_the_numbers_of_the_training(code: ModuleType) -> None:
    config = config_of(code, precision="64-true")
    assert example_of(Given(), config, data_with(code, torch.ones(2, 3))).dtype == torch.float64
    assert example_of(Given(), config, data_with(code, torch.ones(2, 3).long())).dtype == torch.int64


class Doubles(Given):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch * 2


def test_an_example_has_gone_through_the_hooks_between_loader_and_module(code: ModuleType) -> None:
    assert example_of(Doubles(), config_of(code), data_with(code, torch.ones(2, 1))).tolist() == [[2.0], [2.0]]
    # This datamodule halves what is trained on, and asks the Trainer whether that is so.
    config = config_of(code, data="Transfers")
    data = prepare(config)
    module: Any = Given()
    for name, hook in data.hooks.items():
        setattr(module, name, hook)
    assert torch.equal(example_of(module, config, data), next(iter(data.val_loaders))[0][:ROWS])


@pytest.mark.parametrize(
    ("module", "batch", "takes"),
    [
        (Both(), (torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2)), "`x` (Tensor) and `y` (Tensor)"),
        (Given(), (torch.tensor(1.0), torch.zeros(2)), "`x` (Tensor)"),
        (Given(), ({"a": torch.zeros(2)}, torch.zeros(2)), "`x` (dict)"),
    ],
    ids=["two", "no rows", "mapping"],
)
def test_what_is_not_one_tensor_of_rows_is_not_portable(module: Any, batch: Any, takes: str, code: ModuleType) -> None:
    with pytest.raises(NotPortable) as caught:
        example_of(module, config_of(code), data_with(code, batch))
    assert str(caught.value).endswith(f"its `forward` takes {takes}")


# The program


def exported(module: nn.Module, example: Tensor) -> Any:
    shapes = ({0: torch.export.Dim.AUTO},)
    return torch.export.export(module, (example,), dynamic_shapes=shapes).module()


def test_a_program_that_equals_its_module_passes() -> None:
    module, example = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(), torch.randn(ROWS, 3)
    check(module, exported(module, example), example)


def by_count(x: Tensor) -> Tensor:
    return x + 1 if len(x) > 2 else x


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (by_count, "exported with 2 rows, it does not take 1: Guard failed"),
        (lambda x: x + torch.rand(1), "gives other numbers than its `forward` for 2 rows"),
        (lambda x: (x, x), "MLflow takes one tensor from a model, but its `forward` gives a tuple"),
    ],
    ids=["another number of rows", "random", "two outputs"],
)
def test_a_program_that_does_not_equal_its_module_is_not_portable(
    function: Callable[[Tensor], Any], reason: str
) -> None:
    module, example = Given(function).eval(), torch.randn(ROWS, 3)
    with pytest.raises(NotPortable) as caught:
        check(module, exported(module, example), example)
    assert reason in reason_of(caught.value)


@pytest.mark.parametrize(
    "found", [lambda x: x.double(), lambda x: x[:1], lambda x: x + 1e-3], ids=["type", "shape", "numbers"]
)
def test_a_program_must_give_type_shape_and_numbers(found: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NotPortable, match="other numbers"):
        check(nn.Identity(), found, torch.ones(ROWS, 3))


def test_outputs_need_no_gradient_and_reasons_are_one_line() -> None:
    assert not output_of(nn.Linear(1, 1), torch.ones(2, 1)).requires_grad
    assert reason_of(RuntimeError("\n first\nsecond")) == "RuntimeError: first"
    assert reason_of(RuntimeError()) == "RuntimeError: no reason given"
