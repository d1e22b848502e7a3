"""Traces: the operations of a function, as torch's own tracer finds them, in a hundredth of the time."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from models.tracing import trace

FACTOR = torch.tensor([2.0, 3.0])


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Of the sum of what it gives, by all its inputs; and that sum."""
    inputs = tuple(i.detach().requires_grad_() for i in inputs)
    total = function(*inputs).sum()
    return [total.detach(), *torch.autograd.grad(total, inputs)]


def attention(x: Tensor) -> Tensor:
    return torch.matmul((x @ x.transpose(-1, -2)).softmax(-1), x)


def parts(x: Tensor, y: Tensor) -> Tensor:
    first, second = torch.split(x, 1, 1)
    return torch.add((first * y).relu(), second.exp() * FACTOR)


def halved(x: Tensor, weight: Tensor) -> Tensor:
    pooled: Tensor = nn.functional.max_pool2d(nn.functional.conv2d(x, weight, padding=1), 2)
    return pooled.tanh()


def normed(x: Tensor) -> Tensor:
    return nn.functional.group_norm(x, 2)


def overwritten(x: Tensor) -> Tensor:
    return (x * 1).add_(1.0).mul_(x)


CASES: list[tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = [
    (attention, [(3, 4, 5)]),
    (parts, [(3, 2), (3, 2)]),
    (halved, [(2, 3, 4, 4), (5, 3, 3, 3)]),
    (normed, [(2, 4, 3)]),
    (overwritten, [(2, 2)]),
]


def numbers(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shapes))
    return [torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("function", "shapes"), CASES)
def test_a_trace_computes_the_same_on_other_inputs(
    function: Callable[..., Tensor], shapes: list[tuple[int, ...]], many: bool
) -> None:
    """With and without vmap; with the operations that torch's own tracer finds."""
    shapes = [(6, *shape) for shape in shapes] if many else shapes
    computed: Any = (lambda *x: gradients(vmap(function), *x)) if many else (lambda *x: gradients(function, *x))
    graph = trace(computed, *numbers(shapes))
    other = [x - 0.5 for x in numbers(shapes)]
    for found, expected in zip(graph(*other), computed(*other), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    reference = make_fx(computed)(*numbers(shapes))
    names = (aten for aten in ("mul", "bmm", "convolution", "relu", "native_group_norm", "max_pool2d_with_indices"))
    for name in names:
        assert calls(graph, name) == calls(reference, name)


def calls(graph: Any, name: str) -> int:
    return sum(f"aten::{name}" == getattr(getattr(n.target, "_schema", None), "name", "") for n in graph.graph.nodes)


def test_every_node_knows_the_form_of_its_result() -> None:
    graph = trace(lambda x: [x.transpose(0, 1).double()], torch.ones(2, 3))
    values = [node.meta["val"] for node in graph.graph.nodes if node.op != "output"]
    forms = [(tuple(value.shape), value.stride(), value.dtype) for value in values]
    expected = [((2, 3), (3, 1), torch.float32), ((3, 2), (1, 3), torch.float32), ((3, 2), (1, 3), torch.float64)]
    assert forms == expected


def test_of_an_operation_with_several_results_each_is_taken_by_its_place() -> None:
    graph = trace(lambda x: [*x.split(1, 1)], torch.arange(4.0).view(2, 2))
    assert [n.args[1] for n in graph.graph.nodes if n.target is operator.getitem] == [0, 1]
    first, second = graph(torch.tensor([[5.0, 6.0]] * 2))
    assert first.tolist() == [[5.0]] * 2 and second.tolist() == [[6.0]] * 2


def test_what_is_no_input_is_a_constant_and_what_is_not_used_is_none() -> None:
    graph = trace(lambda x: [x * FACTOR, None, FACTOR], torch.ones(2))
    product, nothing, constant = graph(torch.full((2,), 10.0))
    assert product.tolist() == [20.0, 30.0] and nothing is None and constant is FACTOR
    assert len(list(graph.buffers())) == 1


@pytest.mark.parametrize("number", [lambda x: x * float(x.sum()), lambda x: x if x.sum() > 0 else -x])
def test_a_number_taken_out_of_a_tensor_is_refused(number: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(TypeError, match="takes a number out of a tensor"):
        trace(lambda x: [number(x)], torch.ones(2))


def test_results_are_not_kept() -> None:
    alive: list[Any] = []

    def function(x: Tensor) -> list[Tensor]:
        first = x * 2
        alive.append(weakref.ref(first))
        second = first + 1
        del first
        alive.append(alive[0]())
        return [second]

    trace(function, torch.ones(3))
    assert alive[1] is None


def test_a_module_called_with_other_parameters_is_traced_by_them() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    names = [name for name, _ in module.named_parameters()]

    def step(x: Tensor, *parameters: Tensor) -> list[Tensor]:
        one = vmap(lambda x, *own: functional_call(module, dict(zip(names, own, strict=True)), (x,)).square().mean())
        return gradients(one, x, *parameters)

    inputs = [torch.rand(5, 7, 3).double(), *(torch.rand(5, *p.shape).double() for p in module.parameters())]
    graph, other = trace(step, *inputs), [2 * one for one in inputs]
    for found, expected in zip(graph(*other), step(*other), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
