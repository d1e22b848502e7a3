"""The modules of an array as one: their own steps under vmap, over stacked parameters."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from models.build import lightning_of
from models.streams import Streams

Logged = dict[str, Tensor]
"""What a module logged, by name."""
OWN = "module."
"""Under which a module's parameters stand in `_Steps`."""


class Unfusable(RuntimeError):
    """A module that has to train alone; the text says why."""


class Stack:
    """N modules of one class and shape: the code of the first, the parameters and buffers of all, [N, ...]."""

    def __init__(self, modules: Sequence[Any], *, layouts: Mapping[str, Sequence[int]]) -> None:
        """`layouts`: for parameters by name, the dimensions of the stack in the order in which they lie in memory."""
        self.module = modules[0]
        detach(self.module)
        self.steps = _Steps(self.module)
        parameters, buffers = ([dict(named(m)) for m in modules] for named in (_parameters, _buffers))
        self.parameters = {n: _stacked([own[n] for own in parameters], layouts.get(n)) for n in parameters[0]}
        self.buffers = {n: _stacked([own[n] for own in buffers], None) for n in buffers[0]}
        # Names of one tensor: resolved once, since `functional_call` would walk through the module at every call.
        self.tied = tied_names(self.steps)
        self.names = [*self.parameters, *self.buffers]
        self.tensors = [*self.parameters.values(), *self.buffers.values()]
        self.trained = [p for p in self.parameters.values() if p.requires_grad]

    def train(
        self, batch: Any, index: Any, streams: Streams, tensors: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Logged]:
        """Every member's loss [N] on its own batch (leaves [N, B, ...]), with what it logged, [N].

        `tensors` stand in for the stack's own ones.
        """

        def one(batch: Any, *tensors: Tensor) -> tuple[Tensor, Logged]:
            return loss_of(self._call(tensors, "training_step", batch, index)), self.module.logged.tensors()

        self.module.logged = Log(training=True)
        with streams.instead_of_torch():
            # One by one: vmap takes a nest of containers apart at every call, which a small model would feel.
            losses, logged = vmap(one)(batch, *(tensors or self.tensors))
        return losses, logged

    def validate(self, batch: Any, index: int, streams: Streams) -> tuple[Logged, dict[str, int | None]]:
        """What every member logged about one batch that they share, [N], and the batch sizes that went with it."""

        def one(batch: Any, *tensors: Tensor) -> Logged:
            self._call(tensors, "validation_step", batch, index)
            logged: Logged = self.module.logged.tensors()
            return logged

        self.module.logged = Log(training=False)
        with torch.no_grad(), streams.instead_of_torch(), plain_attention():
            logged: Logged = vmap(one, in_dims=(None, *[0] * len(self.tensors)))(batch, *self.tensors)
        return logged, dict(self.module.logged.sizes)

    def _call(self, tensors: Sequence[Tensor], method: str, batch: Any, index: Any) -> Any:
        state = dict(zip(self.names, tensors, strict=True))
        state |= {name: state[owner] for name, owner in self.tied.items()}
        return functional_call(self.steps, state, (method, batch, index), tie_weights=False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Every module of the template in evaluation mode, afterwards as it was, frozen parts included."""
        modes = {part: part.training for part in self.module.modules()}
        self.module.eval()
        try:
            yield
        finally:
            for part, training in modes.items():
                part.training = training

    @contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """Put back, afterwards, what steps may have written into the members' buffers."""
        kept = {name: buffer.clone() for name, buffer in self.buffers.items()}
        try:
            yield
        finally:
            for name, before in kept.items():
                self.buffers[name].copy_(before)

    def state_of(self, member: int) -> dict[str, Tensor]:
        """The `state_dict` of one member, in ordinary form."""
        # The template's own tells the names, tied ones twice; tensors shared by two names are one in the stack.
        owners = {id(p): self.parameters[n] for n, p in _parameters(self.module)}
        owners |= {id(b): self.buffers[n] for n, b in _buffers(self.module)}
        state: dict[str, Tensor] = self.module.state_dict(keep_vars=True)
        for name, value in state.items():
            state[name] = torch.empty(value.shape, dtype=value.dtype, device=value.device).copy_(
                owners[id(value)][member].detach()
            )
        return state


class Log:
    """What one call of a step logged: stands in for Lightning's collection, which knows single trials only."""

    def __init__(self, *, training: bool) -> None:
        self.training = training
        self.values: dict[str, Any] = {}
        self.sizes: dict[str, int | None] = {}

    def add(self, name: str, value: Any, *, batch_size: int | None = None, **how: Any) -> None:
        """Take one number; refuse what would need more than a last value (training) or a mean (validation)."""
        when = (how.get("on_step"), how.get("on_epoch"))
        usual = {(None, None), (True, None), (None, False), (True, False)}
        if when not in (usual if self.training else {(not_a, b) for not_a in (None, False) for b in (None, True)}):
            raise Unfusable(f"it logs {name!r} with on_step={when[0]} and on_epoch={when[1]}")
        if how.get("reduce_fx", "mean") not in ("mean", torch.mean):
            raise Unfusable(f"it logs {name!r} with a `reduce_fx` of its own")
        if not isinstance(value, Tensor | int | float) or name in self.values:
            raise Unfusable(f"it logs {name!r} twice in a step, or as a {type(value).__name__}")
        self.values[name], self.sizes[name] = value, batch_size

    def tensors(self) -> Logged:
        """The values without gradient, whole numbers as floating ones, as Lightning has them."""
        default = torch.get_default_dtype()
        values = {name: torch.as_tensor(value).detach() for name, value in self.values.items()}
        return {name: v if v.is_floating_point() else v.to(default) for name, v in values.items()}


class _Steps(nn.Module):
    """Lets `functional_call` reach any method of a module."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, batch: Any, index: int) -> Any:
        return call(self.module, method, batch, index)


def call(module: Any, method: str, batch: Any, index: int) -> Any:
    """`training_step` or `validation_step`, which need not take the batch's number."""
    step = getattr(module, method)
    return step(batch, index) if _takes_index(getattr(type(module), method)) else step(batch)


@functools.cache
def _takes_index(step: Callable[..., Any]) -> bool:
    return len(inspect.signature(step).parameters) > 2


def tied_names(module: nn.Module) -> dict[str, str]:
    """Further names of parameters and buffers that have several, and the first name of each."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    named = (module.named_parameters, module.named_buffers)
    for name, tensor in itertools.chain.from_iterable(names(remove_duplicate=False) for names in named):
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
        first.setdefault(id(tensor), name)
    return tied


def detach(module: Any) -> None:
    """Cut a module off from the Trainer: it keeps what it logs, and asking for what only one trial has is an error."""
    cls = type(module)
    lightning = lightning_of(cls, base="LightningModule", where="model.class_path").LightningModule
    for name in ("log", "log_dict"):
        if getattr(cls, name) is not getattr(lightning, name):
            raise Unfusable(f"it has a `{name}` of its own")

    def log(self: Any, name: str, value: Any, **how: Any) -> None:
        self.logged.add(name, value, **how)

    def log_dict(self: Any, dictionary: Mapping[str, Any], **how: Any) -> None:
        for name, value in dictionary.items():
            self.logged.add(name, value, **how)

    def refused(name: str) -> property:
        def read(_: Any) -> NoReturn:
            raise Unfusable(f"it asks for `self.{name}` in a step")

        return property(read)

    names = ("trainer", "current_epoch", "global_step", "optimizers", "lr_schedulers", "manual_backward")
    members: dict[str, Any] = {name: refused(name) for name in names}
    # The same name: a module may print or log its own.
    module.__class__ = type(cls.__name__, (cls,), {**members, "log": log, "log_dict": log_dict, "logged": None})


def loss_of(output: Any) -> Tensor:
    """The loss in what `training_step` returned."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor) or loss.ndim:
        raise Unfusable("its `training_step` returns no loss of one number")
    return loss


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep torch's transformer layers from their fused kernels for inference, which have no rule for vmap."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def layout_of(gradient: Tensor) -> tuple[int, ...]:
    """The dimensions of a gradient in the order in which they lie in memory.

    That of a linear layer comes out transposed. Parameters that lie in the same way make each step's update twice as
    fast: its loops then run through all of them in one direction.
    """
    strides = gradient.stride()
    return tuple(sorted(range(gradient.ndim), key=lambda dim: (-strides[dim], dim)))


def _parameters(module: Any) -> Iterator[tuple[str, Tensor]]:
    return module.named_parameters(prefix=OWN.removesuffix("."))  # type: ignore[no-any-return]


def _buffers(module: Any) -> Iterator[tuple[str, Tensor]]:
    return module.named_buffers(prefix=OWN.removesuffix("."))  # type: ignore[no-any-return]


def _stacked(tensors: Sequence[Tensor], layout: Sequence[int] | None) -> Tensor:
    order = layout or range(tensors[0].ndim + 1)
    shape = (len(tensors), *tensors[0].shape)
    place = torch.empty([shape[dim] for dim in order], dtype=tensors[0].dtype, device=tensors[0].device)
    stacked = place.permute([list(order).index(dim) for dim in range(len(shape))])
    for row, tensor in zip(stacked, tensors, strict=True):
        row.copy_(tensor.detach())
    return stacked.requires_grad_(tensors[0].requires_grad)
