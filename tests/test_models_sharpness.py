"""Sharpness of known quadratics, and the diagnosis of finished trainings."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import array_modules
import pytest
import torch
from helpers import config_of, train, user_code, weights_of
from torch import Tensor
from torch.nn import functional

from models import sharpness
from models.config import TrainConfig
from models.prepared import prepare
from models.sharpness import (
    Surface,
    ascent_sharpness,
    average_sharpness,
    diagnose,
    largest_curvature,
)

CURVATURE, THETA = torch.tensor([1.0, 0.5, 0.1]).double(), torch.tensor([0.2, -0.4, 1.0]).double()


def quadratic(curvature: Tensor = CURVATURE, theta: Tensor = THETA) -> Surface:
    """1/2 theta' H theta, in two parts of one and three quarters of the examples."""
    weights = theta.clone().requires_grad_()

    def parts() -> Iterator[tuple[float, Tensor]]:
        for share, factor in ((0.25, 2.5), (0.75, 0.5)):
            yield share, factor * 0.5 * (curvature * weights.square()).sum()

    return Surface(parameters=[weights], parts=parts)


def digits(**changes: Any) -> TrainConfig:
    """A few epochs of an MLP on a small problem."""
    model = {"class_path": "models.task.Classifier", "init_args": {"network": MLP, **changes.pop("model_args", {})}}
    data = {"class_path": "models.data.TeacherStudent", "init_args": DATA, "batch_size_arg": "batch_size"}
    config = config_of(sys.modules[__name__], **{"batch_size": 32, **changes})
    return dataclasses.replace(config, model=model, data=data)


MLP = {"class_path": "models.nets.MLP", "init_args": {"features": 8, "hidden": [16], "classes": 3, "dropout": 0.3}}
DATA = {"examples": 300, "validation_examples": 120, "features": 8, "classes": 3}


def finished(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """What `diagnose` takes, of a training that has run."""
    result = train(config, folder)
    return {"config": config.to_json(), "checkpoint": result.checkpoint, "sha256": result.sha256}


# Known surfaces


def test_ascent_sharpness_of_a_quadratic_is_that_of_the_formula() -> None:
    surface = quadratic()
    assert ascent_sharpness(surface) == pytest.approx(0.015847222, abs=1e-9)
    assert torch.equal(surface.parameters[0], THETA), "the weights are put back to the bit"


def test_ascent_sharpness_where_there_is_no_slope_is_zero() -> None:
    assert ascent_sharpness(quadratic(theta=torch.zeros(3).double())) == 0.0


def test_average_sharpness_of_a_quadratic_is_that_of_the_formula() -> None:
    found = average_sharpness(quadratic(), torch.Generator().manual_seed(0), sigma=0.1, draws=4000)
    assert found == pytest.approx(0.5 * 0.01 * float((CURVATURE * THETA.square()).sum()), rel=0.1)


def test_power_iteration_finds_the_largest_curvature() -> None:
    found = largest_curvature(quadratic(), torch.Generator().manual_seed(0), iterations=20)
    assert found == pytest.approx(1.0, abs=1e-9)


def test_a_curvature_downwards_is_found_with_its_sign() -> None:
    surface = quadratic(curvature=torch.tensor([0.5, -2.0, 0.1]).double())
    assert largest_curvature(surface, torch.Generator().manual_seed(0), iterations=20) == pytest.approx(-2.0, abs=1e-9)


def test_a_plane_has_no_curvature() -> None:
    weights = torch.ones(3, requires_grad=True)
    surface = Surface(parameters=[weights], parts=lambda: iter([(1.0, 2.0 * weights.sum())]))
    assert largest_curvature(surface, torch.Generator().manual_seed(0), iterations=20) == 0.0


# Finished trainings


def test_the_losses_are_those_of_the_module_in_evaluation_mode(tmp_path: Path) -> None:
    config = digits(model_args={"label_smoothing": 0.1})
    values = finished(config, tmp_path)
    found = diagnose({**values, "examples": 2048, "power_iterations": 5})
    assert found["reason"] is None and found["examples"] == 300
    weights = {k.removeprefix("network.layers."): v for k, v in weights_of(train(config, tmp_path)).items()}
    inputs, labels = prepare(config).train_loader.dataset.tensors
    hidden = functional.relu(inputs @ weights["1.weight"].T + weights["1.bias"])
    logits = hidden @ weights["5.weight"].T + weights["5.bias"]
    expected = float(functional.cross_entropy(logits, labels, label_smoothing=0.1))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["ascent"] > 0 and found["lambda_max"] > 0
    assert {"rho", "sigma", "draws", "batch_size", "learning_rate", "seconds"} <= found.keys()


def test_a_diagnosis_depends_on_neither_chunks_nor_the_random_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = finished(digits(precision="64-true"), tmp_path)
    names = ("loss", "ascent", "average", "lambda_max")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = diagnose({**values, "power_iterations": 3})
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(sharpness, "CHUNK", 7)
    torch.manual_seed(1)
    other = diagnose({**values, "power_iterations": 3})
    assert [other[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-9)


@pytest.mark.parametrize("model", ["Norm", "Attention", "Tied", "KeepsMean", "Freezes"])
def test_modules_of_every_kind_can_be_diagnosed(model: str, tmp_path: Path) -> None:
    config = config_of(array_modules, model=model, data="Sequences", epochs=1, evaluations=1)
    found = diagnose({**finished(config, tmp_path), "power_iterations": 2})
    assert found["reason"] is None and abs(found["lambda_max"]) > 0


def test_at_most_so_many_examples_are_measured(tmp_path: Path) -> None:
    found = diagnose({**finished(digits(), tmp_path), "examples": 50})
    assert (found["examples"], found["lambda_max"]) == (50, None)


def test_a_loss_without_gradient_keeps_what_needs_none(tmp_path: Path) -> None:
    found = diagnose(finished(config_of(sys.modules[__name__], model="Rounds", data="Few"), tmp_path))
    assert found["loss"] is not None and found["average"] is not None and found["ascent"] is None
    assert found["reason"].startswith("RuntimeError: element 0 of tensors does not require grad")


class Rounds(array_modules.Plain):
    """Has no gradient in evaluation mode."""

    def loss(self, batch: array_modules.Batch) -> Tensor:
        loss = super().loss(batch)
        return loss if self.training else loss.detach()


class Few(array_modules.Sequences):
    """Under this module's name."""


def test_a_checkpoint_that_is_not_what_was_written_is_refused(tmp_path: Path) -> None:
    found = diagnose({**finished(digits(), tmp_path), "sha256": "0" * 64})
    assert found["loss"] is None and "its SHA-256 differs" in found["reason"]


def test_transfer_hooks_are_told_that_this_is_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    values = finished(config_of(code, data="Transfers"), tmp_path)
    plain = {**values, "config": {**values["config"], "data": config_of(code).to_json()["data"]}}
    found, expected = diagnose(values), diagnose(plain)
    assert found["reason"] is expected["reason"] is None and found["loss"] == expected["loss"]
