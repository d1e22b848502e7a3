"""A function of tensors as a graph of torch's own operations, written down while it is computed once.

torch's `make_fx` does the same with a stand-in for the result of every operation, which takes a hundred times as long
as the operations themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary


def trace(function: Callable[..., Sequence[Tensor | None]], *inputs: Tensor) -> GraphModule:
    """The operations that a function carries out on these inputs, gradients of `torch.autograd.grad` and vmap included.

    Every node has the shape, strides and type of its result as `val`, a tensor without numbers. Tensors that are
    neither inputs nor made from them are constants of the graph.

    Raises:
        TypeError: if a number is taken out of a tensor: the graph could not know it of other inputs.
    """
    scribe = _Scribe(inputs)
    with scribe:
        outputs = function(*inputs)
    return scribe.graph_of(outputs)


class _Scribe(TorchDispatchMode):
    """Below vmap and autograd, where all that is left are operations on ordinary tensors."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._root = nn.Module()
        self._graph = Graph()
        # Weak: to keep every result would take more memory than the step does.
        self._nodes: Any = WeakTensorKeyDictionary()
        for index, tensor in enumerate(inputs):
            self._note(self._graph.placeholder(f"input_{index}"), tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # Before it is carried out: what writes into an input gives that input again.
        known = map_aggregate((tuple(args), dict(kwargs or {})), self._known)
        given = func(*args, **(kwargs or {}))
        node = self._graph.call_function(func, *known)
        if isinstance(given, Tensor):
            self._note(node, given)
            return given
        several = given if isinstance(given, list | tuple) else [given]
        for place, one in enumerate(several):
            if isinstance(one, Tensor):
                self._note(self._graph.call_function(operator.getitem, (node, place)), one)
            elif one is not None:
                raise TypeError(f"`{func}` takes a number out of a tensor")
        return given

    def _note(self, node: Node, tensor: Tensor) -> None:
        node.meta["val"] = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        self._nodes[tensor] = node

    def _known(self, leaf: Any) -> Any:
        """The node of a tensor; of one that nobody has made here, a constant."""
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf not in self._nodes:
            name = f"_given{len(self._root._buffers)}"
            self._root.register_buffer(name, leaf, persistent=False)
            self._note(self._graph.get_attr(name), leaf)
        return self._nodes[leaf]

    def graph_of(self, outputs: Sequence[Tensor | None]) -> GraphModule:
        """All that has been written down, to these results."""
        self._graph.output(tuple(self._known(output) for output in outputs))
        return GraphModule(self._root, self._graph)
