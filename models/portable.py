"""A finished training as a module with its weights, an example of what it takes, and a test of its exported program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import checkpoint
from models.config import TrainConfig
from models.frozen import trainer_for_hooks
from models.job import BEST, LAST
from models.prepared import PreparedData
from models.train import build_module

ROWS = 2
"""Rows of the example: an axis of length 1 would be exported as one that is always 1."""
OTHERS = (1, 5)
"""Further numbers of rows at which a program must give what its module gives."""
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Differences that count as rounding: an exported program adds up in another order."""


class NotPortable(RuntimeError):
    """A module that cannot be handed on without its class; the text says why."""


def trained(config: TrainConfig, data: PreparedData, folder: Path) -> Any:
    """The module with the weights of a production training, ready for use.

    Its numbers are of 32 bits (64 under `64-true`), whatever the precision of the training.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    module = build_module(config, data)
    module.load_state_dict(weights_of(folder))
    return module.eval()


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The best weights of a production training; the last ones, if it had no validation.

    Raises:
        CheckpointError: if the checkpoint is missing or damaged.
    """
    path = folder / BEST if (folder / BEST).exists() else folder / LAST
    weights: dict[str, Tensor] = checkpoint.read(str(path), None)["state_dict"]
    return weights


def example_of(module: Any, config: TrainConfig, data: PreparedData) -> Tensor:
    """`ROWS` rows of what `forward` takes: the module's own `example_input_array`, or the head of a validation batch.

    Raises:
        NotPortable: if it takes anything but one tensor.
    """
    names = _required(module.forward)
    given = module.example_input_array
    inputs = _inputs(_validation_batch(module, config, data) if given is None else given, names)
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].ndim:
        raise NotPortable(f"MLflow hands a model one tensor of rows, but its `forward` takes {_told(names, inputs)}")
    example = inputs[0].detach().cpu()
    return rows(example.double() if config.precision == "64-true" and example.is_floating_point() else example, ROWS)


def rows(example: Tensor, count: int) -> Tensor:
    """So many rows of an example, from the first one on and again where it has fewer."""
    return example[torch.arange(count) % len(example)].clone()


def output_of(call: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """What `forward` gives.

    Raises:
        NotPortable: if it is anything but one tensor.
    """
    with torch.no_grad():
        output = call(inputs)
    if not isinstance(output, Tensor):
        raise NotPortable(f"MLflow takes one tensor from a model, but its `forward` gives a {type(output).__name__}")
    return output


def check(module: Any, program: Callable[[Tensor], Any], example: Tensor) -> None:
    """Compare an exported program with its module, on the example and on other numbers of rows.

    Raises:
        NotPortable: if it gives anything else, or nothing.
    """
    for count in (len(example), *OTHERS):
        inputs = rows(example, count)
        expected = output_of(module, inputs)
        try:
            found = output_of(program, inputs)
        except Exception as error:  # torch tells a shape that it was not exported for in several ways
            raise NotPortable(f"exported with {len(example)} rows, it does not take {count}: {_line(error)}") from error
        if not _close(found, expected):
            raise NotPortable(f"its exported program gives other numbers than its `forward` for {count} rows")


def reason_of(error: Exception) -> str:
    """Why a module is not portable, in one line."""
    return str(error) if isinstance(error, NotPortable) else f"{type(error).__name__}: {_line(error)}"


def _close(found: Tensor, expected: Tensor) -> bool:
    same = found.shape == expected.shape and found.dtype == expected.dtype
    return same and torch.allclose(found, expected, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


def _required(forward: Callable[..., Any]) -> list[str]:
    """Names of what `forward` must be given by place; of one that takes anything, the first."""
    parameters = inspect.signature(forward).parameters.values()
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in by_place if p.default is p.empty]
    return needed or [p.name for p in parameters][:1]


def _validation_batch(module: Any, config: TrainConfig, data: PreparedData) -> Any:
    """The first one, through the hooks that stand between loader and module."""
    loader = data.val_loaders
    while isinstance(loader, list | tuple | Mapping):
        loader = next(iter(loader.values() if isinstance(loader, Mapping) else loader))
    with trainer_for_hooks(config, data, training=False):
        batch = module.on_before_batch_transfer(next(iter(loader)), 0)
        batch = module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        return module.on_after_batch_transfer(batch, 0)


def _inputs(batch: Any, names: list[str]) -> list[Any]:
    """The parts of a batch that are inputs: those named as `forward` names them, else as many of the first ones."""
    if isinstance(batch, Mapping):
        named = [batch[name] for name in names if name in batch]
        return named if len(named) == len(names) else list(batch.values())[: len(names)]
    return list(batch)[: len(names)] if isinstance(batch, list | tuple) else [batch]


def _told(names: list[str], inputs: list[Any]) -> str:
    pairs = zip(names, inputs, strict=False)  # A batch may have fewer parts.
    return " and ".join(f"`{name}` ({type(value).__name__})" for name, value in pairs) or "nothing"


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
