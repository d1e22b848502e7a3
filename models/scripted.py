"""Graphs of torch's operations, run by torch's own interpreter: no Python between one operation and the next.

Operations on small tensors take Python longer to call than torch to carry out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

Function = Callable[..., Sequence[Tensor]]
"""Takes tensors and gives tensors."""
NO_SCHEMA = "(no schema)"
"""What a node of TorchScript says of an operation that is not known; otherwise it would fail when it is run."""
MEMORY = {torch.contiguous_format: 0, torch.preserve_format: 1, torch.channels_last: 2, torch.channels_last_3d: 3}
"""torch's numbers of the orders in which a tensor can lie in memory."""


def scripted(graph: GraphModule) -> Function:
    """The same operations in the same order (`tracing.trace`), without gradients.

    What the interpreter does not know stays in Python.
    """
    try:
        return program(graph)
    except (RuntimeError, TypeError):
        return torch.no_grad()(graph.forward)


def program(graph: GraphModule) -> Function:
    """The same, or an error.

    Raises:
        RuntimeError, TypeError: if there is an operation or an argument that the interpreter does not know.
    """
    call = torch._C._create_function_from_graph("program", _Writer(graph).written())

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        # What torch would make faster after two calls is rounded otherwise than in these.
        before = torch._C._get_graph_executor_optimize()
        torch._C._set_graph_executor_optimize(False)
        try:
            with torch.no_grad():
                found: Sequence[Tensor] = call(*inputs)
        finally:
            torch._C._set_graph_executor_optimize(before)
        return found

    return run


class _Writer:
    """Turns one graph into one of TorchScript, operation by operation."""

    def __init__(self, graph: GraphModule) -> None:
        self._from = graph
        self._graph: Any = torch._C.Graph()
        self._values: dict[Node, Any] = {}

    def written(self) -> Any:
        """All of it."""
        for node in self._from.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._graph.addInput(node.name)
            elif node.op == "get_attr":
                self._values[node] = self._graph.insertConstant(getattr(self._from, node.target))
            elif node.op == "output":
                self._graph.registerOutput(self._listed("prim::TupleConstruct", node.args[0], torch._C.TupleType))
            elif node.target is operator.getitem:
                several, place = self._values[node.args[0]], node.args[1]
                self._values[node] = several[place] if isinstance(several, list) else self._item(several, place)
            else:
                self._values[node] = self._called(node)
        return self._graph

    def _called(self, node: Node) -> Any:
        """The result of an operation; a list where it has several."""
        schema: Any = getattr(node.target, "_schema", None)
        if schema is None:
            raise TypeError(f"{node.target} is no operation of torch's")
        given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
        given |= node.kwargs
        values = [self._value(given.get(a.name, a.default_value), a.type) for a in schema.arguments]
        call = self._graph.insertNode(self._graph.create(schema.name, values, len(schema.returns)))
        if call.schema() == NO_SCHEMA:
            raise TypeError(f"the interpreter does not know {schema.name!r} of such arguments")
        outputs = list(call.outputs())
        for output, returned in zip(outputs, schema.returns, strict=True):
            output.setType(returned.type)
        return outputs[0] if len(outputs) == 1 else outputs

    def _value(self, argument: Any, kind: Any) -> Any:
        if isinstance(argument, Node):
            return self._values[argument]
        if isinstance(argument, list | tuple) and any(isinstance(one, Node) for one in argument):
            return self._listed("prim::ListConstruct", argument, lambda types: torch._C.ListType(types[0]))
        if isinstance(argument, torch.dtype):
            # Of a tensor, TorchScript has its type as a number.
            example = self._graph.insertConstant(torch.empty(0, dtype=argument))
            return self._result("prim::dtype", [example], torch._C.IntType.get())
        if isinstance(argument, list | tuple):
            return self._graph.insertConstant(list(argument))
        return self._graph.insertConstant(MEMORY.get(argument, argument) if argument is not None else None)

    def _listed(self, kind: str, members: Sequence[Any], of: Callable[[list[Any]], Any]) -> Any:
        values = [self._value(member, None) for member in members]
        return self._result(kind, values, of([value.type() for value in values]))

    def _item(self, several: Any, place: int) -> Any:
        return self._result("aten::__getitem__", [several, self._value(place, None)], torch._C.TensorType.get())

    def _result(self, kind: str, values: Sequence[Any], of: Any) -> Any:
        node = self._graph.insertNode(self._graph.create(kind, list(values), 1))
        node.output().setType(of)
        return node.output()
