"""Three members side by side against three single calls: what fusing would change silently shows here."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Generator, Tensor

from models import rng
from models.config import TrainConfig
from models.loaders import permutation
from models.members import rows_of
from models.nests import each
from models.prepared import prepare
from models.sources import MemoryBatches
from models.streams import Streams
from models.train import build_module
from models.vmapped import OWN, Log, Logged, Stack, Unfusable, call, detach, layout_of, loss_of

MEMBERS = 3
"""Members that are compared: two might agree by symmetry."""
LARGEST = 10_000_000
"""Parameters above which nothing is compared: such modules fill a device alone, and six copies are made here."""
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest difference, relative to the largest number: far above rounding, far below what another computation gives."""


TRIES = 10
"""Comparisons before random numbers that were drawn meanwhile are taken for the module's.

Other threads of a Dask worker draw from Python's generator too, now and then; a module draws at every step.
"""


class Drawn(Unfusable):
    """Random numbers were drawn, by the module or by another thread of the process."""


def layouts_if_equal(config: TrainConfig) -> Mapping[str, Sequence[int]]:
    """Compare, and tell how the parameters of an array should lie in memory.

    Raises:
        Unfusable: if a loss, gradient, buffer, logged value, attribute or random number differs.
        Exception: whatever vmap, or the module, raises.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning)\.")
        # What vmap runs member by member is slower than training alone.
        warnings.filterwarnings("error", message=".*performance drop.*")
        for _ in range(TRIES - 1):
            with suppress(Drawn):
                return _compared(config)
        return _compared(config)


def _compared(config: TrainConfig) -> Mapping[str, Sequence[int]]:
    try:
        return _Comparison(config, torch.float64).layouts()
    except RuntimeError as error:
        # A module may insist on float32, as one that calls `.float()` does.
        if isinstance(error, Unfusable) or not any(word in str(error).lower() for word in ("dtype", "double")):
            raise
        return _Comparison(config, torch.float32).layouts()


class _Comparison:
    """Members that differ in their seeds, each twice: in a stack and alone."""

    def __init__(self, config: TrainConfig, dtype: torch.dtype) -> None:
        self.data = prepare(config)
        self.dtype = dtype
        self.examples = config.batch_size // config.accumulate
        configs = [
            dataclasses.replace(
                config,
                seed_init=config.seed_init + member,
                seed_order=config.seed_order + member,
                seed_dropout=config.seed_dropout + member,
            )
            for member in range(MEMBERS)
        ]
        self.orders = [permutation(self.data.examples, c.seed_order, 0) for c in configs]
        first = build_module(configs[0], self.data).to(dtype)
        if not first.automatic_optimization:
            raise Unfusable("it optimizes by hand")
        if (size := sum(parameter.numel() for parameter in first.parameters())) > LARGEST:
            raise Unfusable(f"it has {size:,} parameters, and more than {LARGEST:,} gain nothing")
        self.singles = [first, *(build_module(c, self.data).to(dtype) for c in configs[1:])]
        for module in self.singles:
            detach(module)
        self.streams = Streams([Generator().manual_seed(c.seed_dropout) for c in configs])
        self.states = [generator.get_state() for generator in self.streams.generators]
        self.stack = Stack([build_module(c, self.data).to(dtype) for c in configs], layouts={})
        self.trained = {name: p for name, p in self.stack.parameters.items() if p.requires_grad}

    def layouts(self) -> Mapping[str, Sequence[int]]:
        """Two training steps, since the first may change what the second finds, and a validation."""
        size = min(self.examples, max(1, self.data.examples // 2))
        for index in range(2):
            gradients = self._train(index, size)
        self._validate()
        found = zip(self.trained, gradients, strict=True)
        return {name: layout_of(gradient) for name, gradient in found if gradient is not None}

    def _train(self, index: int, size: int) -> Sequence[Tensor | None]:
        assert isinstance(self.data.source, MemoryBatches), "rules come before comparisons"
        table = torch.stack([order[index * size : (index + 1) * size] for order in self.orders])
        batch = self._cast(rows_of(self.data.source.columns, table))
        losses, logged, gradients = [], [], []
        for member, module in enumerate(self.singles):
            alone = each(batch, lambda leaf, m=member: leaf[m])  # type: ignore[misc]
            output, logs = self._single(member, "training_step", alone, index)
            losses.append(loss_of(output))
            parameters = [p for p in module.parameters() if p.requires_grad]
            gradients.append(torch.autograd.grad(losses[-1], parameters, allow_unused=True))
            logged.append(logs)
        with unchanged(self.stack.module):
            together, logs = self.stack.train(batch, index, self.streams)
            found = torch.autograd.grad(together.sum(), list(self.trained.values()), allow_unused=True)
        self._same("its loss", together, losses)
        self._same_logs(logs, logged)
        for name, stacked, single in zip(self.trained, found, zip(*gradients, strict=True), strict=True):
            self._same(f"the gradient of {name.removeprefix(OWN)!r}", stacked, single)
        self._same_state()
        return found

    def _validate(self) -> None:
        batch = self._cast(self.data.val_loaders.batches[0])
        logged = []
        for member, module in enumerate(self.singles):
            module.eval()
            with torch.no_grad():
                logged.append(self._single(member, "validation_step", each(batch, lambda leaf: leaf), 0)[1])
        with unchanged(self.stack.module), self.stack.evaluating():
            logs, _ = self.stack.validate(batch, 0, self.streams)
        self._same_logs(logs, logged)
        self._same_state()

    def _single(self, member: int, method: str, batch: Any, index: int) -> tuple[Any, Logged]:
        """One call as it is alone, dropout drawn from the generator of the process."""
        module = self.singles[member]
        module.logged = Log(training=method == "training_step")
        torch.set_rng_state(self.states[member])
        output = call(module, method, batch, index)
        self.states[member] = torch.get_rng_state()
        return output, module.logged.tensors()

    def _cast(self, batch: Any) -> Any:
        return each(batch, lambda leaf: leaf.to(self.dtype) if leaf.is_floating_point() else leaf)

    def _same(self, what: str, stacked: Tensor | None, singles: Sequence[Tensor | None]) -> None:
        for member, single in enumerate(singles):
            if stacked is None or single is None:
                equal = stacked is single
            else:
                equal = close(stacked[member].detach(), single.detach(), TOLERANCES[self.dtype])
            if not equal:
                raise Unfusable(f"{what} is another one side by side")

    def _same_logs(self, stacked: Logged, singles: Sequence[Logged]) -> None:
        if any(list(stacked) != list(single) for single in singles):
            raise Unfusable("it logs other names side by side")
        for name, values in stacked.items():
            self._same(f"the logged {name!r}", values, [single[name] for single in singles])

    def _same_state(self) -> None:
        for name, stacked in self.stack.buffers.items():
            own = name.removeprefix(OWN)
            self._same(f"the buffer {own!r}", stacked, [module.get_buffer(own) for module in self.singles])
        for state, generator in zip(self.states, self.streams.generators, strict=True):
            if not torch.equal(state, generator.get_state()):
                raise Unfusable("it draws other random numbers alone than side by side")


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors are equal up to rounding; nan equals nan."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    scale = float(other.abs().nan_to_num(posinf=1.0).max())
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * max(scale, 1e-6), equal_nan=True)


@contextmanager
def unchanged(module: Any) -> Iterator[None]:
    """Refuse a step that changes anything but registered tensors: it would do so once for all members.

    Raises:
        Unfusable: if an attribute of a part of the module, or of its class, or a generator of the process has changed.
    """
    before, random = attributes(module), rng.capture()
    yield
    after = attributes(module)
    for name in after.keys() | before.keys():
        if before.get(name) != after.get(name):
            raise Unfusable(f"it changes `{name}` in a step")
    for name, value in rng.capture().items():
        if not same_values(random.get(name), value):
            raise Drawn(f"it draws random numbers of its own ({name})")


def attributes(module: Any) -> dict[str, Any]:
    """What a module and its parts hold beside their registered tensors, in a form that shows changes."""
    ours = ("_parameters", "_buffers", "_modules", "logged", "training")
    found: dict[str, Any] = {}
    for path, part in module.named_modules(prefix="self"):
        held: dict[str, Any] = {}
        for cls in reversed(type(part).__mro__):
            if not cls.__module__.startswith(("torch.", "pytorch_lightning.", "lightning.")):
                held |= {n: v for n, v in vars(cls).items() if isinstance(v, list | dict | set | int | float | Tensor)}
        held |= {name: value for name, value in vars(part).items() if name not in ours}
        found |= {f"{path}.{name}": trace(value) for name, value in held.items()}
    return found


def trace(value: Any, depth: int = 8) -> Any:
    """A value that differs when what it was taken from has changed: of tensors, their identity and version."""
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, int | float | str | bool | None):
        return repr(value)
    if not depth:
        return id(value)
    if isinstance(value, Mapping):
        return id(value), [(trace(key, depth - 1), trace(item, depth - 1)) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return id(value), [trace(item, depth - 1) for item in value]
    return id(value)


def same_values(one: Any, other: Any) -> bool:
    """Whether two parts of a random state are equal."""
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_values, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
