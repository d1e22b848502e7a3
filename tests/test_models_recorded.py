"""Recorded steps: the same as the module's own to rounding, and only of modules of which that can be said."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_modules
import hypothesis
import pytest
import torch
from helpers import config_of, weights_of
from hypothesis import settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional

from models import lockstep, recorded, stacked
from models.array import train_array
from models.comparison import close
from models.config import TrainConfig
from models.gradients import Product
from models.lowering import lower
from models.members import Member, rows_of
from models.prepared import prepare
from models.recorded import Steps, as_it_is, played
from models.scripted import program
from models.segment import Segment
from models.streams import Streams
from models.tracing import trace
from models.train import build_module, train_segment
from models.vmapped import Stack

MEMBERS, EXAMPLES = 3, 8


class LooksAtNumber(array_modules.Plain):
    """Leaves out every third batch."""

    def training_step(self, batch: array_modules.Batch, batch_idx: int) -> Any:
        return self.loss(batch) * (0.0 if batch_idx % 3 == 2 else 1.0)


class ComparesNumber(array_modules.Plain):
    def training_step(self, batch: array_modules.Batch, batch_idx: int) -> Any:
        return self.loss(batch) * (2.0 if batch_idx == 0 else 1.0)


class MultipliesByNumber(array_modules.Plain):
    def training_step(self, batch: array_modules.Batch, batch_idx: int) -> Any:
        return self.loss(batch) + batch_idx * self.loss(batch)


class LogsNumber(array_modules.Plain):
    def training_step(self, batch: array_modules.Batch, batch_idx: int) -> Any:
        self.log("number", float(batch_idx))
        return self.loss(batch)


class Factors(array_modules.Plain):
    """The gradient of one parameter is a product with the other one, which changes first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = torch.nn.Parameter(torch.rand(24, 2)), torch.nn.Parameter(torch.rand(2, 3))

    def loss(self, batch: array_modules.Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(batch[0].flatten(1) @ (self.one @ self.other), batch[1])


class Halves(Factors):
    """The same, with a part of the one that changes first."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.rand(24, 4))

    def loss(self, batch: array_modules.Batch) -> Tensor:
        inputs, (first, second) = batch[0].flatten(1), self.one.split(2, 1)
        outputs = inputs @ (first @ self.other) + inputs @ second.sum(1, keepdim=True)
        return torch.nn.functional.cross_entropy(outputs, batch[1])


def config(model: str, **changes: Any) -> TrainConfig:
    base = {"model": model, "data": "Sequences", "precision": "64-true"}
    modules = sys.modules[__name__] if model in globals() else array_modules
    made = config_of(modules, **{**base, **changes})
    data = f"{array_modules.__name__}.Sequences"
    return dataclasses.replace(made, data={**made.data, "class_path": data})


class Convolves(array_modules.Plain):
    """Convolution, norm, halving."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.BatchNorm1d(4), torch.nn.MaxPool1d(2))
        self.head = torch.nn.Linear(44, 3)

    def loss(self, batch: array_modules.Batch) -> Tensor:
        logits = self.head(self.net(batch[0].flatten(1)[:, None]).flatten(1))
        return torch.nn.functional.cross_entropy(logits, batch[1])


class Pair:
    """The same members twice, so that one way can be held against another."""

    def __init__(self, model: str) -> None:
        self.config = config(model)
        self.data = prepare(self.config)
        seeded = [dataclasses.replace(self.config, seed_init=seed) for seed in range(MEMBERS)]
        self.stacks = [Stack([build_module(c, self.data) for c in seeded], layouts={}) for _ in range(2)]
        self.streams = [Streams([Generator().manual_seed(seed) for seed in range(MEMBERS)]) for _ in range(2)]

    def batch(self, number: int) -> Any:
        table = torch.arange(MEMBERS * EXAMPLES).view(MEMBERS, EXAMPLES) + number
        return [
            leaf.double() if leaf.is_floating_point() else leaf
            for leaf in rows_of(self.data.source.columns, table)  # type: ignore[union-attr]
        ]


RECORDED = ("Plain", "GivesDict", "NoIndex", "LogsMuch", "Norm", "GroupNorm", "Metrics", "Attention", "Tied", "Freezes")


@pytest.mark.parametrize("model", [*RECORDED, "KeepsMean", "Convolves"])
def test_a_recording_gives_and_changes_what_the_step_does(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "scripted", program)  # All of these do without Python.
    pair = Pair(model)
    recording = recorded.recorded(pair.stacks[0], pair.batch(0), parts=1)
    assert recording is not None
    for number in range(4):
        batch = pair.batch(number)
        one = played(recording, pair.streams[0], batch, pair.stacks[0].tensors)
        tensors = pair.stacks[1].tensors
        other = as_it_is(pair.stacks[1], pair.streams[1], batch, number, parts=1, tensors=tensors)
        assert list(one.logged) == list(other.logged)
        found, expected = (recorded._numbers(t, s.tensors) for t, s in zip((one, other), pair.stacks, strict=True))
        for a, b in zip(found, expected, strict=True):
            assert a is b is None or (a is not None and b is not None and close(a.detach(), b.detach(), 1e-12))
    for a, b in zip(*(streams.generators for streams in pair.streams), strict=True):
        assert torch.equal(a.get_state(), b.get_state())


def test_recording_changes_nothing() -> None:
    pair = Pair("Norm")
    assert recorded.recorded(pair.stacks[0], pair.batch(0), parts=1) is not None
    assert all(map(torch.equal, pair.stacks[0].tensors, pair.stacks[1].tensors))


@pytest.mark.parametrize("model", ["LooksAtNumber", "ComparesNumber", "MultipliesByNumber", "LogsNumber"])
def test_a_step_that_depends_on_the_number_of_its_batch_is_not_recorded(model: str) -> None:
    pair = Pair(model)
    assert recorded.recorded(pair.stacks[0], pair.batch(0), parts=1) is None


@pytest.mark.parametrize("model", ["LooksAtNumber", "Norm", "Factors", "Halves", "Convolves"])
def test_an_array_whose_every_step_may_be_recorded_equals_its_trials_alone(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "LEAST_STEPS", 1)
    monkeypatch.setattr(recorded, "LEAST_SHARE", 0.0)
    configs = [dataclasses.replace(config(model), seed_init=seed, learning_rate=0.05) for seed in range(MEMBERS)]
    parts, again = (
        [Segment(trial=index, config=c, folder=str(tmp_path / place)) for index, c in enumerate(configs)]
        for place in ("array", "alone")
    )
    together = train_array(parts)
    assert {r.tags["tier"] for r in together} == {"array"}
    for one, other in zip(together, map(train_segment, again), strict=True):
        for name, value in weights_of(one).items():
            torch.testing.assert_close(value, weights_of(other)[name], rtol=1e-9, atol=1e-10)


def test_a_recording_that_does_not_come_to_the_same_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair("Plain")
    traced = recorded._traced

    def wrong(*given: Any, **named: Any) -> Any:
        recording = traced(*given, **named)
        return recording._replace(run=lambda *tensors: [1.001 * t for t in recording.run(*tensors)])

    monkeypatch.setattr(recorded, "_traced", wrong)
    assert recorded.recorded(pair.stacks[0], pair.batch(0), parts=1) is None


def test_arrays_of_one_shape_share_a_recording_and_rare_shapes_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(recorded, "recorded", lambda stack, batch, parts: made.append(batch))
    pair = Pair("Plain")
    for stack, streams in zip(pair.stacks, pair.streams, strict=True):
        for code, often in (("shared", True), ("shared", False), (None, True)):
            steps = Steps(stack, streams, code=code, often=lambda examples, often=often: often)  # type: ignore[misc]
            for number in range(2):
                steps.take(pair.batch(number), number)
    assert len(made) == 1


def test_steps_are_recorded_whose_batches_hold_much_of_a_long_training() -> None:
    often = recorded.worth({16: 89, 13: 1})
    assert often(16) and not often(13) and not often(8)
    assert all(map(recorded.worth({512: 40, 413: 20}), (512, 413)))
    assert not recorded.worth({512: 20, 413: 10})(512)


def test_only_batches_before_the_end_of_a_segment_count(tmp_path: Path) -> None:
    c = config("Plain")  # 60 examples and batches of 8, three epochs
    ends = {1.0: {8: 21, 4: 3}, 1 / 3: {8: 7, 4: 1}}
    for until, expected in ends.items():
        segment = Segment(trial=0, config=c, folder=str(tmp_path), until=until)
        assert lockstep.batches_of_sizes([Member(segment, prepare(c), torch.device("cpu"))]) == expected


# Rewrites

UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    torch.neg,
    lambda x: torch.cat([part.relu() for part in x.split([1, 2], 1)], 1),
    lambda x: torch.stack([row.tanh() for row in (x * 2).unbind(1)], 1),
    lambda x: x + 1.0,
    lambda x: 2.0 - x,
    lambda x: x * 3 / 2,
    lambda x: x * 1,
    lambda x: x / 1,
    lambda x: x.detach(),
    lambda x: x.transpose(1, 2),
    lambda x: x.transpose(1, 2).transpose(2, 1),
    lambda x: x.view(x.shape) if x.is_contiguous() else x.contiguous(),
    lambda x: x.expand(x.shape),
    lambda x: x.sum(1, keepdim=True).expand(x.shape),
    lambda x: x * torch.ones_like(x),
    lambda x: x + torch.zeros_like(x).expand(x.shape),
    lambda x: torch.log_softmax(x, 2),
    lambda x: torch.log_softmax(x, 1),
    lambda x: functional.max_pool2d(x.repeat(1, 6, 1)[None].view(1, 12, 3, 3), 2, 1, 1)[0, :2, :3, :3].sigmoid(),
    lambda x: x.clamp(-3, 3).exp(),
    lambda x: (x * 1).add_(1.0) * x,
    lambda x: torch.sum((x * 2).contiguous().view(-1).mul_(2.0)) + x,
]
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    torch.sub,
    torch.mul,
    torch.bmm,
    lambda x, y: torch.add(x, y, alpha=2),
    lambda x, y: x + y[:, :1],
    lambda x, y: y[:, :1] + x,
    lambda x, y: x / (y * y + 1),
]
PROGRAMS = st.lists(
    st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=14,
)


def computed(program: list[tuple[int, int, int]], x: Tensor, y: Tensor) -> list[Tensor]:
    """A program of operations, each on earlier results; its last three results, and the gradients of their sum."""
    x, y = x.requires_grad_(), y.requires_grad_()
    values = [x, y]
    for which, first, second in program:
        one, other = values[-1 - first % len(values)], values[-1 - second % len(values)]
        values.append(UNARY[which](one) if which < len(UNARY) else BINARY[which - len(UNARY)](one, other))
    total = sum((value.sum() for value in values[-3:]), x.sum() + y.sum())
    return [*values[-3:], *torch.autograd.grad(total, (x, y))]


def same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))) and one.stride() == other.stride()


def assert_rewriting_keeps(operations: list[tuple[int, int, int]]) -> None:
    """The same results in Python and in torch's interpreter, again and again, and the same inputs as before."""
    generator = Generator().manual_seed(0)
    inputs = [torch.rand(2, 3, 3, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2)]
    graph = trace(lambda x, y: computed(operations, x, y), *(i.clone() for i in inputs))
    lower(graph)
    graph.recompile()
    handed, kept = [i.clone() for i in inputs], [i.clone() for i in inputs]
    expected = computed(operations, *(i.clone() for i in inputs))
    run = program(graph)
    for _ in range(3):  # Constants must have stayed what they were.
        with torch.no_grad():
            found = graph(*handed)
        assert all(map(same, run(*handed), found))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-10, atol=1e-10, equal_nan=True)
    assert all(map(torch.equal, handed, kept))


@pytest.mark.parametrize("which", range(len(UNARY) + len(BINARY)))
def test_an_operation_on_the_inputs_themselves_is_rewritten_to_the_same(which: int) -> None:
    for first, second in ((0, 1), (1, 0), (0, 0)):
        assert_rewriting_keeps([(which, first, second)])
        assert_rewriting_keeps([(2, 0, 0), (which, first, second)])


@hypothesis.given(PROGRAMS)
@settings(max_examples=100, deadline=None)
def test_rewritten_operations_compute_the_same_and_leave_their_inputs_alone(given: list[tuple[int, int, int]]) -> None:
    assert_rewriting_keeps(given)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("settings_", [{}, {"momentum": 0.0}, {"nesterov": True}])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_step_by_a_product_is_a_step_by_the_gradient(swapped: bool, settings_: dict[str, Any], decay: float) -> None:
    c = dataclasses.replace(config("Plain"), optimizer_args=settings_, weight_decay=decay)
    generator = Generator().manual_seed(0)
    parameters = [torch.rand(2, 4, 5, dtype=torch.float64, generator=generator).transpose(1, 2) for _ in range(2)]
    parameters[1].copy_(parameters[0])
    one, other = (stacked.stack("sgd", [p], [c, c]) for p in parameters)
    for _ in range(3):
        shapes = ((2, 4, 3), (2, 3, 5)) if swapped else ((2, 5, 3), (2, 3, 4))
        left, right = (torch.rand(*shape, dtype=torch.float64, generator=generator) for shape in shapes)
        product = Product(left, right, swapped)
        one.step([product], 0.1 * torch.ones(2).numpy())
        other.step([product.whole()], 0.1 * torch.ones(2).numpy())
    torch.testing.assert_close(*parameters, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(one.dump(0), other.dump(0), rtol=1e-13, atol=1e-13)
