"""An optimizer step as a program of torch's: bit for bit what Python does, for arrays of any length."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import array_modules
import pytest
import torch
from helpers import config_of
from torch import Generator, Tensor

from models import scripted, stacked, updates
from models.config import TrainConfig
from models.gradients import Gradient, Product

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sgd": ({"momentum": 0.9}, {"momentum": 0.5}),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": False}),
    "plain": ({"momentum": 0.0}, {"momentum": 0.9}),
    "adam": ({"beta1": 0.9}, {"beta1": 0.8, "beta2": 0.99}),
    "adamw": ({}, {"epsilon": 1e-6}),
    "rmsprop": ({"momentum": 0.9}, {"alpha": 0.9}),
}


def configs(name: str, *, mixed: bool, decay: float, count: int) -> list[TrainConfig]:
    """Of members that all have the same settings, or every second one others."""
    one, other = SETTINGS[name]
    kind = name if name in stacked.STACKED else "sgd"
    c = config_of(array_modules, model="Plain", optimizer=kind, optimizer_args=one, weight_decay=decay)
    second = dataclasses.replace(c, optimizer_args=other, weight_decay=2 * decay) if mixed else c
    return [second if index % 2 else c for index in range(count)]


def stepped(cs: list[TrainConfig], monkeypatch: pytest.MonkeyPatch, *, program: bool) -> list[Tensor]:
    """Parameters and states after a few steps with gradients of every form."""
    generator = Generator().manual_seed(0)
    count = len(cs)
    parameters = [torch.rand(count, *shape, generator=generator) for shape in ((5, 3), (5,), (2,), (4, 3))]
    parameters[0] = parameters[0].transpose(1, 2).contiguous().transpose(1, 2)
    if not program:
        monkeypatch.setattr(updates.Update, "program", lambda update, name, formula: None)
    optimizer = stacked.stack(cs[0].optimizer, parameters, cs)
    for step in range(4):
        left, right = (torch.rand(count, *shape, generator=generator) for shape in ((5, 6), (6, 3)))
        product = Product(left, right, swapped=False)
        bias = torch.rand(count, 5, generator=generator)
        last = Product(torch.rand(count, 3, 6, generator=generator), torch.rand(count, 6, 4, generator=generator), True)
        gradients: list[Gradient] = [product.whole() if step == 2 else product, bias, None, last]
        with torch.no_grad():
            optimizer.step(gradients, torch.linspace(0.01, 0.1, count, dtype=torch.float64).numpy() / (step + 1))
    monkeypatch.undo()
    return [*parameters, *(tensor for state in optimizer.state for tensor in state.values())]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_program_changes_what_python_does(
    name: str, mixed: bool, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The programs that two members have written down serve seven, and one.
    for count in (2, 7, 1):
        cs = configs(name, mixed=mixed, decay=decay, count=count)
        found, expected = (stepped(cs, monkeypatch, program=program) for program in (True, False))
        assert all(map(torch.equal, found, expected))


def test_every_formula_runs_without_python_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: OrderedDict[Any, Any] = OrderedDict()
    for name in SETTINGS:
        monkeypatch.setattr(updates, "scripted", scripted.program)
        monkeypatch.setattr(updates, "_programs", kept)
        monkeypatch.setattr(updates, "KEPT", 3)
        before = len(kept)
        stepped(configs(name, mixed=True, decay=0.01, count=2), monkeypatch, program=True)
        assert len(kept) == min(3, before + 2), "one with products, one without"
