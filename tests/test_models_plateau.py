"""The plateau schedule: what torch's ReduceLROnPlateau does, and the way on from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from models.plateau import Plateau
from models.schedules import arguments

FALLING_THEN_FLAT = [1.0, 0.8, 0.7] + [0.7] * 12
NOISY = [1.0, 0.9, 0.95, 0.91, 0.90001, 0.8999, 0.93, 0.92, 0.92, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
BROKEN = [float("nan"), 1.0, float("inf"), float("nan"), float("nan"), 0.9, float("nan"), float("nan"), float("nan")]
NEGATIVE = [-1.0, -1.00001, -1.2, -1.1, -1.2, -1.2, -1.2, -1.3]
RISING = [0.1, 0.5, 0.5, 0.50001, 0.5001, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
TORCH_NAMES = {"lowest": "min_lr"}


@pytest.mark.parametrize("values", [FALLING_THEN_FLAT, NOISY, BROKEN, NEGATIVE, RISING])
@pytest.mark.parametrize("direction", ["min", "max"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 0},
        {"patience": 1, "factor": 0.5, "cooldown": 2},
        {"patience": 0, "cooldown": 1, "lowest": 0.02},
        {"patience": 1, "threshold": 0.0},
        {"patience": 2, "threshold": 0.3, "factor": 0.3},
    ],
)
def test_plateau_equals_torchs_reduce_on_plateau(
    values: list[float], direction: Any, settings: Mapping[str, Any]
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    named = {TORCH_NAMES.get(name, name): value for name, value in {**arguments("plateau"), **settings}.items()}
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, mode=direction, eps=0.0, **named)
    ours = Plateau(**settings)
    for value in values:
        theirs.step(value)
        assert ours.update(value, direction) == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("cut", range(len(NOISY)))
def test_a_plateau_goes_on_from_its_state_as_if_it_had_never_stopped(cut: int) -> None:
    settings: dict[str, Any] = {"patience": 1, "cooldown": 2, "factor": 0.5}
    whole = Plateau(**settings)
    expected = [whole.update(value, "min") for value in NOISY]
    first, second = Plateau(**settings), Plateau(**settings)
    before = [first.update(value, "min") for value in NOISY[:cut]]
    second.load(json.loads(json.dumps(first.state())))
    assert before + [second.update(value, "min") for value in NOISY[cut:]] == expected
