"""Optimizers: equality with torch's own, Lightning's clipping, and the sentences about wrong arguments."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from models.config import OWN_OPTIMIZER
from models.optimizers import OPTIMIZERS, arguments, build, mistakes


def test_importing_optimizers_does_not_import_torch() -> None:
    code = "import sys, models.optimizers; print('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


# Training


def network(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return layers.to(dtype)


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, *, clip: float | None = None) -> torch.Tensor:
    """Twenty steps; returns the parameters, flat."""
    dtype = next(net.parameters()).dtype
    inputs = torch.randn(20, 16, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    for batch in inputs:
        optimizer.zero_grad()
        (net(batch) - batch[:, :3] ** 2).square().mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach()


AGAINST_TORCH: list[tuple[str, dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("sgd", {}, torch.optim.SGD, {"momentum": 0.9}),
    ("sgd", {"momentum": 0.0}, torch.optim.SGD, {}),
    ("sgd", {"momentum": 0.8, "nesterov": True}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ("adam", {}, torch.optim.Adam, {}),
    ("adam", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}, torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3}),
    ("adamw", {}, torch.optim.AdamW, {}),
    ("adamw", {"beta1": 0.0, "epsilon": 1e-4}, torch.optim.AdamW, {"betas": (0.0, 0.999), "eps": 1e-4}),
    ("rmsprop", {}, torch.optim.RMSprop, {}),
    (
        "rmsprop",
        {"alpha": 0.9, "momentum": 0.5, "epsilon": 1e-4},
        torch.optim.RMSprop,
        {"alpha": 0.9, "momentum": 0.5, "eps": 1e-4},
    ),
]


@pytest.mark.parametrize(("name", "args", "torch_class", "torch_args"), AGAINST_TORCH)
@pytest.mark.parametrize("ours", [{"weight_decay": 0.0, "fused": False}, {"weight_decay": 0.1, "fused": True}])
def test_twenty_steps_equal_those_of_torchs_own_optimizer(
    name: str,
    args: dict[str, Any],
    torch_class: Any,
    torch_args: dict[str, Any],
    ours: dict[str, Any],
) -> None:
    mine, theirs = network(torch.float64), network(torch.float64)
    built = build(name, mine.parameters(), learning_rate=0.01, **ours, **args)
    torchs = torch_class(theirs.parameters(), lr=0.01, weight_decay=ours["weight_decay"], foreach=False, **torch_args)
    assert type(built) is torch_class
    torch.testing.assert_close(train(mine, built), train(theirs, torchs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 0)])
def test_fused_clipped_steps_equal_plain_ones_up_to_rounding(name: str, dtype: torch.dtype, tolerance: float) -> None:
    ends = []
    for fused in (False, True):
        net = network(dtype)
        optimizer = build(name, net.parameters(), learning_rate=0.003, weight_decay=0.01, fused=fused)
        ends.append(train(net, optimizer, clip=0.5))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_rate_set_before_a_step_is_the_one_used(name: str) -> None:
    net = network(torch.float64)
    optimizer = build(name, net.parameters(), learning_rate=1.0, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    assert torch.equal(train(net, optimizer), before)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("mixed", ["16-mixed", "bf16-mixed"])
def test_lightning_clips_an_optimizer_in_mixed_precision_only_if_it_is_not_fused(name: str, mixed: Any) -> None:
    scaler = torch.amp.GradScaler("cpu") if mixed == "16-mixed" else None
    precision = MixedPrecision(mixed, "cpu", scaler=scaler)
    for fused in (False, True):
        parameters = network(torch.float32).parameters()
        optimizer = build(name, parameters, learning_rate=0.01, weight_decay=0.0, fused=fused)
        if fused and OPTIMIZERS[name].fused:
            with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
                precision.clip_gradients(optimizer, clip_val=1.0)
        else:
            precision.clip_gradients(optimizer, clip_val=1.0)


# Rules


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_rule_tells_the_truth_about_torchs_class(name: str) -> None:
    rule = OPTIMIZERS[name]
    built = build(name, network(torch.float32).parameters(), learning_rate=0.01, weight_decay=0.0)
    assert type(built).__name__ == rule.torch_class
    assert ("fused" in inspect.signature(type(built)).parameters) is rule.fused
    assert built.defaults.get("fused") is (True if rule.fused else None)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_centre_of_the_rates_lies_below_its_highest(name: str) -> None:
    rule = OPTIMIZERS[name]
    assert 0 < rule.centre < rule.highest
    assert rule.rule == ("linear" if name == "sgd" else "sqrt")


def test_arguments_are_plain_json_and_a_copy() -> None:
    for name in [*OPTIMIZERS, OWN_OPTIMIZER]:
        known = arguments(name)
        assert json.loads(json.dumps(known)) == known
    assert arguments(OWN_OPTIMIZER) == {}
    assert arguments("sgd") is not OPTIMIZERS["sgd"].arguments


# Mistakes


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, args, _, _ in AGAINST_TORCH] + [(OWN_OPTIMIZER, {})])
def test_good_arguments_are_no_mistakes(name: str, args: dict[str, Any]) -> None:
    assert list(mistakes(name, args, where="o")) == []
    assert list(mistakes(name, {**arguments(name), **args}, where="o")) == []


BELOW_ONE = "must be a number in [0, 1)"


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("adamm", {}, "`o` must be one of adam, adamw, own, rmsprop, sgd, but got 'adamm'. Did you mean `adam`?"),
        ("lion", {}, "`o` must be one of adam, adamw, own, rmsprop, sgd, but got 'lion'."),
        (
            "sgd",
            {"momentun": 0.9},
            "`o.momentun` must be left out: there is no such argument. Did you mean `momentum`? "
            "Its arguments are momentum, nesterov.",
        ),
        (
            "sgd",
            {"beta1": 0.9},
            "`o.beta1` must be left out: there is no such argument. Its arguments are momentum, nesterov.",
        ),
        ("sgd", {"momentum": 1}, f"`o.momentum` {BELOW_ONE}, but got 1."),
        ("sgd", {"momentum": "0.9"}, f"`o.momentum` {BELOW_ONE}, but got '0.9'."),
        ("sgd", {"nesterov": "yes"}, "`o.nesterov` must be true or false, but got 'yes'."),
        (
            "sgd",
            {"nesterov": True, "momentum": 0.0},
            "`o.momentum` must be greater than 0 with `nesterov: true`, but got 0.0.",
        ),
        ("adam", {"beta1": -0.1}, f"`o.beta1` {BELOW_ONE}, but got -0.1."),
        ("adamw", {"beta2": 1.0}, f"`o.beta2` {BELOW_ONE}, but got 1.0."),
        ("adamw", {"epsilon": 0}, "`o.epsilon` must be a number in (0, inf), but got 0."),
        ("adamw", {"beta1": {"low": 0.8, "high": 0.9}}, f"`o.beta1` {BELOW_ONE}, but got {{'low': 0.8, 'high': 0.9}}."),
        ("rmsprop", {"alpha": float("nan")}, f"`o.alpha` {BELOW_ONE}, but got nan."),
        (
            OWN_OPTIMIZER,
            {"beta1": 0.9},
            "`o` must have no arguments, but got beta1. Search `model.init_args` instead.",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_place_rule_and_value(name: str, args: dict[str, Any], expected: str) -> None:
    assert list(mistakes(name, args, where="o")) == [expected]


def test_all_mistakes_come_at_once() -> None:
    found = list(mistakes("adam", {"beta1": 2, "beta2": 2, "eps": 1e-8}, where="search.optimizers.adam"))
    assert [sentence.split("`")[1] for sentence in found] == [
        "search.optimizers.adam.beta1",
        "search.optimizers.adam.beta2",
        "search.optimizers.adam.eps",
    ]
