"""A recorded step in fewer and cheaper operations: rewrites of its graph that compute the same, up to rounding."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten: Any = torch.ops.aten

VIEWS = (aten.alias.default, aten.detach.default, aten.expand.default, aten.view.default, aten._unsafe_view.default)
"""Operations whose result lies where their input lies; the same tensor again where shape and strides are the same."""
ALIASES = (aten._unsafe_view.default, aten._reshape_alias.default)
"""Of these, torch's schemas do not tell that the result lies where the input lies."""
SHAPED = (aten.ones_like.default, aten.zeros_like.default, aten.new_zeros.default, aten.new_ones.default)
"""Operations that take no number from their input, only its shape."""
MADE = (aten.scalar_tensor.default, aten.full.default, aten.zeros.default, aten.ones.default, aten.arange.default)
"""Operations without an input."""
KEPT_BYTES = 1 << 20
"""A constant larger than this is made anew at every step."""
SECRETLY_MUTABLE = "batch_norm"
"""In the name of operations that write into their running statistics, which their schemas do not tell."""
IN_PLACE: Mapping[Any, Any] = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.exp.default: aten.exp_.default,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.neg.default: aten.neg_.default,
    aten.relu.default: aten.relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.tanh.default: aten.tanh_.default,
}
"""Operations and their forms that write into the first input."""
MANY_CHANNELS = 8
"""From so many on, images are turned before they are pooled: it takes less than half of the time, turning included."""
THRESHOLD_IN_PLACE = aten.threshold_backward.grad_input
"""The same for what comes back through `relu`."""
FEW_CLASSES = 64
"""torch's softmax goes through its last dimension row by row; below this length it spends most of its time between."""


def lower(graph: GraphModule) -> None:
    """Rewrite a graph of operations on the CPU, in place (`tracing.trace`)."""
    _drop_repeated_views(graph)
    if not any(mutates(node) for node in graph.graph.nodes):
        _drop_factors_of_one(graph)
        _keep_constants(graph)
        _share_equal(graph)
        _work_in_place(graph)
        _replace_softmax_of_few(graph)
    _pool_across_channels(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()


def mutates(node: Node) -> bool:
    """Whether an operation writes into one of its inputs: what follows then depends on where tensors lie."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (schema.is_mutable or SECRETLY_MUTABLE in schema.name)


def of(node: Any) -> Tensor | None:
    """The tensor that a node gave when it was traced; None if it gave none."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def _replace(graph: GraphModule, node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    graph.graph.erase_node(node)


def _calls(graph: GraphModule, *targets: Any) -> Iterator[Any]:
    # Any: torch's types of a node's arguments are those of all that may be one.
    return (node for node in list(graph.graph.nodes) if node.target in targets)


def _drop_repeated_views(graph: GraphModule) -> None:
    """A view of the same shape and strides is the tensor itself, as two transpositions in turn are."""
    for node in _calls(graph, *VIEWS):
        new, old = of(node), of(node.args[0])
        if new is not None and old is not None and (new.shape, new.stride()) == (old.shape, old.stride()):
            _replace(graph, node, node.args[0])
    for node in _calls(graph, aten.transpose.int):
        inner = node.args[0]
        if inner.target is aten.transpose.int and {*inner.args[1:]} == {*node.args[1:]}:
            _replace(graph, node, inner.args[0])


def _drop_factors_of_one(graph: GraphModule) -> None:
    for node in _calls(graph, aten.mul.Scalar, aten.mul.Tensor, aten.div.Scalar, aten.div.Tensor):
        new, old = of(node), of(node.args[0])
        same = new is not None and old is not None and (new.dtype, new.stride()) == (old.dtype, old.stride())
        if node.args[1] == 1 and same:
            _replace(graph, node, node.args[0])


def _keep_constants(graph: GraphModule) -> None:
    """Make once what does not depend on any number: ones to begin the backward pass with, limits to compare with."""
    made: dict[Node, Tensor] = {}
    for node in _calls(graph, *MADE, *SHAPED, *VIEWS):
        value = of(node)
        fixed = node.target in SHAPED or all(source in made for source in node.all_input_nodes)
        if not fixed or value is None or value.nbytes > KEPT_BYTES:
            continue
        inputs = [made.get(given, _blank(given)) if isinstance(given, Node) else given for given in node.args]
        name = f"_constant{len(made)}"
        graph.register_buffer(name, node.target(*inputs, **node.kwargs), persistent=False)
        with graph.graph.inserting_before(node):
            kept = graph.graph.get_attr(name)
        kept.meta["val"] = value
        _replace(graph, node, kept)
        made[kept] = getattr(graph, name)


def _blank(node: Node) -> Tensor:
    """A tensor of a node's shape."""
    value = of(node)
    assert value is not None, "only tensors have been seen to be made from a shape"
    return torch.empty(value.shape, dtype=value.dtype)


def _share_equal(graph: GraphModule) -> None:
    """What is computed twice from the same is computed once."""
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            first = seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if first is not node:
                _replace(graph, node, first)


def _work_in_place(graph: GraphModule) -> None:
    """Let an operation write into what nobody else will read: memory that lies in the cache already."""
    for node in _calls(graph, *IN_PLACE, aten.threshold_backward.default):
        if node.target is aten.add.Tensor and not node.kwargs and _spare(node.args[1], node):
            node.args = node.args[1], node.args[0]  # It takes either first.
        if not _spare(node.args[0], node):
            continue
        if node.target is aten.threshold_backward.default:
            node.target, node.kwargs = THRESHOLD_IN_PLACE, {"grad_input": node.args[0]}
        else:
            node.target = IN_PLACE[node.target]


def _spare(source: Any, reader: Node) -> bool:
    """Whether an input may be overwritten by its one reader: made by an operation, and no part of another tensor."""
    old, new = of(source), of(reader)
    if old is None or new is None or source.op != "call_function" or len(source.users) != 1:
        return False
    # What writes in place has been found to have its memory to itself.
    in_place = source.target in (*IN_PLACE.values(), THRESHOLD_IN_PLACE)
    own = in_place or (hasattr(source.target, "_schema") and not shares(source))
    return own and (old.shape, old.dtype, old.stride()) == (new.shape, new.dtype, new.stride())


def shares(node: Node) -> bool:
    """Whether the result of an operation of torch's lies in the memory of its first input."""
    schema = getattr(node.target, "_schema", None)
    return node.target in ALIASES or (schema is not None and any(given.alias_info for given in schema.returns))


def _replace_softmax_of_few(graph: GraphModule) -> None:
    """Take the softmax over a short last dimension across many rows at once."""
    for target, written_out in SOFTMAX.items():
        for node in _calls(graph, target):
            value, dim = of(node), node.args[-2]
            assert value is not None, "a softmax gives one tensor"
            few = value.ndim > 2 and value.shape[-1] <= FEW_CLASSES
            if few and dim in (-1, value.ndim - 1) and value.is_contiguous():
                with graph.graph.inserting_before(node):
                    result = written_out(graph.graph.call_function, node)
                result.meta["val"] = value
                _replace(graph, node, result)


def _log_softmax(call: Callable[..., Node], node: Any) -> Node:
    """With the rows side by side in memory, torch computes several of them in one instruction."""

    def swapped(tensor: Node) -> Node:
        view = call(aten.transpose.int, (tensor, -1, -2))
        return call(aten.clone.default, (view,), {"memory_format": torch.contiguous_format})

    return swapped(call(aten._log_softmax.default, (swapped(node.args[0]), -2, False)))


def _log_softmax_backward(call: Callable[..., Node], node: Any) -> Node:
    gradient, output, *_ = node.args
    total = call(aten.sum.dim_IntList, (gradient, [-1], True))
    part = call(aten.mul_.Tensor, (call(aten.exp.default, (output,)), total))
    return call(aten.add_.Tensor, (call(aten.neg_.default, (part,)), gradient))


SOFTMAX: Mapping[Any, Callable[[Callable[..., Node], Any], Node]] = {
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
}


def _pool_across_channels(graph: GraphModule) -> None:
    """Where channels lie side by side in memory, torch pools several in one instruction, otherwise number by number."""
    call = graph.graph.call_function
    for node in _calls(graph, aten.max_pool2d_with_indices.default):
        images = of(node.args[0])
        if images is None or images.ndim != 4 or images.shape[1] < MANY_CHANNELS or not images.is_contiguous():
            continue
        with graph.graph.inserting_before(node):
            turned = call(aten.clone.default, (node.args[0],), {"memory_format": torch.channels_last})
        node.args = (turned, *node.args[1:])
        for part in list(node.users):
            with graph.graph.inserting_after(part):
                back = call(aten.clone.default, (part,), {"memory_format": torch.contiguous_format})
            back.meta["val"] = part.meta["val"]
            part.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)


def products(graph: GraphModule, changing: Sequence[Node]) -> tuple[list[Any], list[str]]:
    """The outputs of a graph, a product of matrices as its two factors.

    Whoever adds a product to something can do both in one operation, and never has the product in memory.

    Args:
        graph: its outputs are tensors or None.
        changing: inputs that may have changed by the time at which the factors are multiplied.

    Returns:
        The outputs, and for each of the former ones what it is now: `tensor`, `product`, `swapped` (the product with
        its last two dimensions swapped), `none`.
    """
    outputs: list[Any] = []
    kinds: list[str] = []
    (last,) = (node for node in graph.graph.nodes if node.op == "output")
    for given in last.args[0]:
        swapped = isinstance(given, Node) and given.target is aten.transpose.int and {*given.args[1:]} == {1, 2}
        inner = given.args[0] if swapped else given
        if given is None:
            kinds.append("none")
        elif inner.target is aten.bmm.default and _free(given, inner, changing):
            outputs.extend(inner.args)
            kinds.append("swapped" if swapped else "product")
        else:
            outputs.append(given)
            kinds.append("tensor")
    return outputs, kinds


def _free(given: Node, product: Any, changing: Sequence[Node]) -> bool:
    """Whether nobody else needs the product, and its factors stay what they are."""
    alone = len(given.users) == len(product.users) == 1
    return alone and not any(_owner(factor) in changing for factor in product.args)


def _owner(node: Any) -> Node:
    """The node whose memory a node's tensor lies in."""
    while shares(node) or node.target is operator.getitem:  # The latter of several that an operation gives.
        node = node.args[0]
    return node  # type: ignore[no-any-return]
