"""Graphs that torch's interpreter runs, and those that stay in Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from models.scripted import program, scripted
from models.tracing import trace


def test_a_program_gives_what_the_operations_give_and_leaves_the_executor_as_it_was() -> None:
    x, y = torch.rand(3, 4), torch.rand(3, 4)

    def operations(x: Tensor, y: Tensor) -> list[Tensor]:
        parts = torch.cat([x, y.double().float()], 1).split([3, 5], 1)
        return [*parts, x.clone(memory_format=torch.contiguous_format), torch.where(x > 0.5, x, 0.0)]

    before = torch._C._get_graph_executor_optimize()
    run = program(trace(operations, x, y))
    for one, other in ((x, y), (y, x)):
        assert all(map(torch.equal, run(one, other), operations(one, other)))
    assert torch._C._get_graph_executor_optimize() is before is True


def test_a_program_keeps_no_gradients_and_may_change_its_inputs() -> None:
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        run = program(trace(lambda x: [x.mul_(2.0), x + 1.0], x.detach().clone()))
    _, found = run(x)
    assert x.tolist() == [2.0] * 3 and found.tolist() == [3.0] * 3 and not found.requires_grad


def one_more(x: Tensor) -> Tensor:
    return x + 1


def graph_of(target: Any, *more: Any) -> GraphModule:
    graph = Graph()
    graph.output((graph.call_function(target, (graph.placeholder("x"), *more)),))
    return GraphModule({}, graph)


def test_what_the_interpreter_does_not_know_stays_in_python() -> None:
    with pytest.raises(TypeError, match="no operation of torch's"):
        program(graph_of(one_more))
    (found,) = scripted(graph_of(one_more))(torch.ones(2, requires_grad=True))
    assert found.tolist() == [2.0, 2.0] and not found.requires_grad


def test_an_operation_that_could_not_run_is_refused_before_it_does() -> None:
    with pytest.raises(TypeError, match="does not know 'aten::add'"):
        program(graph_of(torch.ops.aten.add.Tensor, "one"))
