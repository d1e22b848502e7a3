"""The training steps of an array, recorded as torch's own operations once for each shape of batch.

A step of small models spends more time in Python, vmap and autograd's bookkeeping than in what is computed, and all of
that is the same at every step. A recording is checked against the step as it is, on copies of the array's own tensors.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen

from models.comparison import TOLERANCES, close
from models.gradients import Gradient, made_of, whole
from models.lowering import lower, products
from models.nests import each, leaves
from models.scripted import scripted
from models.streams import Form, Given, Noted, Streams
from models.tracing import trace
from models.train import out_of_memory
from models.vmapped import Logged, Stack

KEPT = 64
"""Recordings kept in one process, the least recently used dropped first."""
LEAST_STEPS = 40
"""Batches that there must be for any step to be recorded: that takes as long as dozens of steps."""
LEAST_SHARE = 0.1
"""Part of all examples that batches of one shape must hold: smaller ones at the ends of epochs are not worth it."""


class Taken(NamedTuple):
    """One forward and backward pass of all members."""

    losses: Tensor
    """Shape [N]."""
    logged: Logged
    gradients: list[Gradient]
    """Of the trained parameters, in their order."""


class Recording(NamedTuple):
    """What runs in place of a module's step."""

    run: Callable[..., Sequence[Tensor]]
    names: tuple[str, ...]
    """What it logs."""
    kinds: tuple[str, ...]
    """How each gradient comes out (`lowering.products`)."""
    masks: tuple[Form, ...]
    """The dropout that is drawn before each step."""


_recordings: OrderedDict[Any, Recording | None] = OrderedDict()


class Steps:
    """The steps of one stack, whose gradients may be parts of an optimizer step."""

    def __init__(
        self, stack: Stack, streams: Streams, *, parts: int = 1, code: str | None = None, often: Callable[[int], bool]
    ) -> None:
        """Look nothing over yet.

        Args:
            parts: how many batches make one optimizer step.
            code: names what the steps compute, apart from shapes; None: nothing is recorded.
            often: whether batches of so many examples come often enough to be recorded.
        """
        self.stack, self.streams, self.parts, self.code, self.often = stack, streams, parts, code, often
        self._of_shapes: dict[Any, Recording | None] = {}

    def take(self, batch: Any, index: int) -> Taken:
        """One pass over every member's own batch: contiguous leaves [N, B, ...]."""
        recording = self._recording(batch)
        if recording is None:
            return as_it_is(self.stack, self.streams, batch, index, parts=self.parts, tensors=self.stack.tensors)
        return played(recording, self.streams, batch, self.stack.tensors)

    def _recording(self, batch: Any) -> Recording | None:
        shapes = tuple(leaf.shape for leaf in leaves(batch))
        if shapes not in self._of_shapes:
            self._of_shapes[shapes] = self._looked_up(batch)
        return self._of_shapes[shapes]

    def _looked_up(self, batch: Any) -> Recording | None:
        """One made by an earlier array of this process, or a new one."""
        first = next(leaves(batch))
        if self.code is None or first.device.type != "cpu" or not self.often(first.shape[1]):
            return None
        key = (self.code, self.parts, *(form(t) for t in (*leaves(batch), *self.stack.tensors)))
        if key not in _recordings:
            _recordings[key] = recorded(self.stack, batch, parts=self.parts)
            while len(_recordings) > KEPT:
                _recordings.popitem(last=False)
        _recordings.move_to_end(key)
        return _recordings[key]


def worth(batches: Mapping[int, int]) -> Callable[[int], bool]:
    """Whether to record steps on so many examples, given how many batches of each size there are."""
    examples = sum(size * count for size, count in batches.items())
    long = sum(batches.values()) >= LEAST_STEPS
    return lambda size: long and size * batches.get(size, 0) >= LEAST_SHARE * examples


def form(tensor: Tensor) -> Any:
    """What a recording depends on of a tensor."""
    return tensor.shape, tensor.stride(), tensor.dtype


def as_it_is(stack: Stack, streams: Streams, batch: Any, index: Any, *, parts: int, tensors: Sequence[Tensor]) -> Taken:
    """The module's own step under vmap, then autograd."""
    losses, logged = stack.train(batch, index, streams, tensors)
    goal = losses.sum() if parts == 1 else (losses / parts).sum()
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    gradients = torch.autograd.grad(goal, trained, allow_unused=True)
    return Taken(losses.detach(), logged, list(gradients))


def played(recording: Recording, streams: Streams, batch: Any, tensors: Sequence[Tensor]) -> Taken:
    """What `as_it_is` gives, from a recording."""
    masks = [streams.drawn(mask) for mask in recording.masks]
    rest = iter(recording.run(*leaves(batch), *masks, *tensors))
    losses = next(rest)
    logged = {name: next(rest) for name in recording.names}
    return Taken(losses, logged, [made_of(kind, rest) for kind in recording.kinds])


def recorded(stack: Stack, batch: Any, *, parts: int) -> Recording | None:
    """Record a step and check it; None if it cannot be recorded, or does not come to the same.

    Nothing of the stack changes.
    """
    noted = Noted()
    try:
        first = _copies(stack)
        expected = as_it_is(stack, noted, batch, _Unread(), parts=parts, tensors=first)
        recording = _traced(stack, noted, batch, parts=parts)
        second = _copies(stack)
        found = played(recording, noted, batch, second)
    except Exception as error:  # Whatever torch cannot record; a user's code may raise anything.
        if out_of_memory(error):
            raise
        return None
    pairs = zip(_numbers(expected, first), _numbers(found, second), strict=True)
    return recording if all(_equal(*pair) for pair in pairs) else None


def _copies(stack: Stack) -> list[Tensor]:
    return [t.detach().clone().requires_grad_(t.requires_grad) for t in stack.tensors]


def _numbers(taken: Taken, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """All that a step has given and changed."""
    return [taken.losses, *taken.logged.values(), *whole(taken.gradients), *tensors]


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return close(other.detach(), one.detach(), TOLERANCES.get(one.dtype, 0.0))


def _traced(stack: Stack, noted: Noted, batch: Any, *, parts: int) -> Recording:
    """The step as a function of the leaves of a batch, the masks of its dropout, and the stack's tensors."""
    names: list[str] = []
    flat = list(leaves(batch))
    masks = [noted.drawn(mask) for mask in noted.forms]

    def step(*tensors: Tensor) -> list[Tensor | None]:
        own = iter(tensors[: len(flat)])
        nest = each(batch, lambda _: next(own))
        rest = tensors[len(flat) :]
        given, state = Given(rest[: len(masks)]), rest[len(masks) :]
        taken = as_it_is(stack, given, nest, _Unread(), parts=parts, tensors=state)
        names[:] = taken.logged
        return [taken.losses, *taken.logged.values(), *taken.gradients]  # type: ignore[list-item]

    graph = trace(step, *flat, *masks, *_copies(stack))
    lower(graph)
    kinds = _assembled(graph, state=len(stack.tensors))
    return Recording(scripted(graph), tuple(names), tuple(kinds[1 + len(names) :]), tuple(noted.forms))


def _assembled(graph: GraphModule, *, state: int) -> list[str]:
    """Make a graph a plain function, its gradients taken apart where they are products; how each output comes now.

    The last `state` inputs are the stack's own tensors, which change while the optimizer goes through the gradients.
    """
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    outputs, kinds = products(graph, inputs[-state:])
    nodes: Graph = graph.graph
    (last,) = (node for node in nodes.nodes if node.op == "output")
    nodes.erase_node(last)
    nodes.output(tuple(outputs))
    nodes.eliminate_dead_code()
    nodes.set_codegen(CodeGen())
    graph.recompile()
    return kinds


class _Unread:
    """The number of a batch, for who does not look at it: a recorded step would have the same one for ever.

    No number, since torch's operations would take it without asking.
    """

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("the step depends on the number of the batch")

    # What every object has; for all else, Python itself refuses.
    __eq__ = __ne__ = __bool__ = __hash__ = __str__ = __repr__ = __format__ = _refuse
