"""Ghost batch norm: torch's batch norm over one chunk after the other, alone and in an array."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import array_modules
import pytest
import torch
from helpers import config_of, curve_of, weights_of
from torch import Tensor, nn

from models.array import train_array
from models.config import TrainConfig
from models.fusion import fusable
from models.nets import MLP, ConvNet, ResNet
from models.norms import GhostBatchNorm, even_part
from models.segment import Segment
from models.train import train_segment

SPLITS = [
    # examples, chunk, sizes of the chunks
    (64, 16, [16, 16, 16, 16]),
    (16, 16, [16]),
    (10, 16, [10]),  # a batch smaller than a chunk
    (2, 16, [2]),
    (24, 16, [24]),  # half a chunk is left: it joins the one before
    (25, 16, [16, 9]),  # more than half: a chunk of its own
    (33, 16, [16, 17]),
    (40, 16, [16, 24]),
    (41, 16, [16, 16, 9]),
    (47, 16, [16, 16, 15]),
    (5, 2, [2, 3]),  # never an example alone
    (3, 2, [3]),
    (5, 3, [3, 2]),
    (7, 3, [3, 4]),
]
KINDS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "numbers": (nn.BatchNorm1d, ()),
    "sequences": (nn.BatchNorm1d, (5,)),
    "images": (nn.BatchNorm2d, (4, 3)),
}
WIDTH = 6


def pair(kind: str, chunk: int) -> tuple[GhostBatchNorm, Any]:
    """A ghost batch norm and torch's own with the same parameters and running statistics, in float64."""
    generator = torch.Generator().manual_seed(0)
    ghost, plain = GhostBatchNorm(WIDTH, chunk=chunk).double(), KINDS[kind][0](WIDTH).double()
    for tensor in (ghost.weight.data, ghost.bias.data, ghost.running_mean, ghost.running_var):
        assert tensor is not None
        tensor.copy_(torch.rand(WIDTH, dtype=torch.float64, generator=generator) + 0.5)
    plain.load_state_dict(ghost.state_dict())
    return ghost, plain


def inputs_of(kind: str, examples: int) -> Tensor:
    """Every example from a distribution of its own, so that it shows which of them were taken together."""
    generator = torch.Generator().manual_seed(1)
    shape = (examples, WIDTH, *KINDS[kind][1])
    scale = torch.linspace(1, 3, examples, dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    return scale * (torch.randn(shape, dtype=torch.float64, generator=generator) + scale)


@pytest.mark.parametrize(("examples", "chunk", "sizes"), SPLITS)
def test_a_batch_is_split_into_chunks_between_half_and_one_and_a_half(
    examples: int, chunk: int, sizes: list[int]
) -> None:
    even = even_part(examples, chunk)
    assert [chunk] * (even // chunk) + [examples - even] * (even < examples) == sizes
    assert examples < chunk or all(chunk < 2 * size <= 3 * chunk for size in sizes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("examples", "chunk", "sizes"), SPLITS)
def test_training_equals_torchs_batch_norm_over_each_chunk(
    kind: str, examples: int, chunk: int, sizes: list[int]
) -> None:
    ghost, plain = pair(kind, chunk)
    inputs = inputs_of(kind, examples)
    for _ in range(2):
        found, expected = (inputs.clone().requires_grad_() for _ in range(2))
        one = ghost(found)
        other = torch.cat([plain(part) for part in expected.split(sizes)])
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        # Cubed: the gradient of a sum of squares is nearly nothing behind a batch norm.
        one.pow(3).sum().backward()
        other.pow(3).sum().backward()
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-10)
    for name, value in ghost.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-12, atol=1e-12)
    for mine, torchs in zip(ghost.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, torchs.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_that_of_the_ordinary_batch_norm(kind: str) -> None:
    ghost, plain = pair(kind, 4)
    ghost.eval(), plain.eval()
    before = {name: value.clone() for name, value in ghost.state_dict().items()}
    assert torch.equal(ghost(inputs_of(kind, 13)), plain(inputs_of(kind, 13)))
    assert all(torch.equal(value, before[name]) for name, value in ghost.state_dict().items())


def test_examples_of_one_chunk_do_not_see_those_of_another() -> None:
    ghost, _ = pair("numbers", 4)
    inputs = inputs_of("numbers", 12)
    changed = inputs.clone()
    changed[4:8] *= -3
    before, after = ghost(inputs), ghost(changed)
    assert torch.equal(before[:4], after[:4]) and torch.equal(before[8:], after[8:])
    assert not torch.allclose(before[4:8], after[4:8])


@pytest.mark.parametrize(
    ("ghost", "plain"),
    [
        (MLP(norm="batch", ghost_batch=16), MLP(norm="batch")),
        (ConvNet(ghost_batch=16), ConvNet()),
        (ResNet(ghost_batch=16), ResNet()),
    ],
    ids=["mlp", "conv", "resnet"],
)
def test_a_network_trained_with_ghosts_goes_on_as_an_ordinary_one(ghost: nn.Module, plain: nn.Module) -> None:
    inputs = torch.randn(40, 1, 8, 8)
    assert sum(isinstance(part, GhostBatchNorm) for part in ghost.modules()) == sum(
        isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in plain.modules()
    )
    ghost(inputs)
    plain.load_state_dict(ghost.state_dict())
    assert torch.equal(ghost.eval()(inputs), plain.eval()(inputs))


def test_numbers_without_a_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs \[N, width, ...\], but got the shape \[6\]"):
        GhostBatchNorm(WIDTH, chunk=2)(torch.randn(6))


def ghosts(**changes: Any) -> list[TrainConfig]:
    """Three trials of the ready MLP in float64, which differ in rate and seeds."""
    network = {"features": 24, "hidden": [8], "classes": 3, "norm": "batch", "ghost_batch": 8, "dropout": 0.2}
    model = {
        "class_path": "models.task.Classifier",
        "init_args": {"network": {"class_path": "models.nets.MLP", "init_args": network}},
    }
    base = config_of(array_modules, data="Sequences", precision="64-true", **changes)
    return [
        dataclasses.replace(
            base,
            model=model,
            learning_rate=0.05 * (1 + member),
            seed_init=member,
            seed_order=10 + member,
            seed_dropout=20 + member,
        )
        for member in range(3)
    ]


# The gradient of a bias before a batch norm, ghost or not, is nothing but rounding: a large epsilon keeps it small.
ADAM = {"optimizer": "adam", "optimizer_args": {"epsilon": 1e-3}}
BATCHES: dict[str, dict[str, Any]] = {
    "8 + 8 + 6, at the end 8 + 8": {"batch_size": 22},
    "8 + 8, at the end 12": {"batch_size": 16},
    "seven chunks, the last of 12": {"batch_size": 60, **ADAM},
    "twice 8 + 8 + 6 in a step": {"batch_size": 44, "accumulate": 2},
}


@pytest.mark.parametrize("changes", BATCHES.values(), ids=BATCHES)
def test_trials_with_ghosts_train_side_by_side_as_alone(changes: dict[str, Any], tmp_path: Path) -> None:
    configs = ghosts(**changes)
    assert fusable(configs) is None
    together, singly = (
        [Segment(trial=i, config=config, folder=str(tmp_path / name)) for i, config in enumerate(configs)]
        for name in ("array", "solo")
    )
    for one, other in zip(train_array(together), map(train_segment, singly), strict=True):
        assert (one.status, one.tags["tier"], other.status) == ("COMPLETE", "array", "COMPLETE"), one.reason
        for name, value in weights_of(one).items():
            torch.testing.assert_close(value, weights_of(other)[name], rtol=0, atol=1e-10)
        for a, b in zip(curve_of([one]), curve_of([other]), strict=True):
            assert a == pytest.approx(b, rel=1e-6)  # the accuracy has 32 bits
