"""A module at fixed weights, apart from any Trainer: its loss and gradients on training examples of one's choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.array import build_array_trainer
from models.build import ConfigError
from models.checkpoint import CheckpointError
from models.config import TrainConfig
from models.lockstep import resident
from models.prepared import PreparedData
from models.train import build_module, out_of_memory
from models.vmapped import Unfusable, call, detach, loss_of


class Refused(RuntimeError):
    """A training that cannot be probed; the text says why."""


class _Silence:
    """Takes what a step logs, and keeps none of it."""

    def add(self, name: str, value: Any, **how: Any) -> None:
        """Nothing."""


class Frozen:
    """A trial's module, with the weights that it begins with until `load` gives it others.

    Numbers are of 32 bits (64 under `64-true`) whatever the precision of the training: no scaling, nothing rounded to
    16 bits. A step may not ask for the Trainer, the epoch or the optimizer: here, there are none.
    """

    def __init__(self, config: TrainConfig, data: PreparedData) -> None:
        if data.source is None:
            raise Refused("its train loader gives batches in an order of its own: none can be asked for by index")
        self.source = data.source
        self.device = torch.device("cuda" if config.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        self.dtype = torch.float64 if config.precision == "64-true" else torch.float32
        self.module = build_module(config, data).to(self.device)
        if not self.module.automatic_optimization:
            raise Refused("it optimizes by hand")
        detach(self.module)
        self.module.logged = _Silence()
        self.parameters: list[nn.Parameter] = [p for p in self.module.parameters() if p.requires_grad]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights and buffers of a checkpoint."""
        self.module.load_state_dict(state)

    def batches(self, indices: Sequence[Tensor], *, seed: int) -> Iterator[Any]:
        """The training examples of each tensor of indices as one batch, as training would hand them to the module."""
        for batch in self.source.epoch(list(indices), seed=seed):
            yield self.transferred(batch)

    def transferred(self, batch: Any) -> Any:
        """A batch through the hooks of its transfer, on the device."""
        module = self.module
        moved = module.transfer_batch_to_device(module.on_before_batch_transfer(batch, 0), self.device, 0)
        return resident(module.on_after_batch_transfer(moved, 0), self.device, self.dtype)

    def loss(self, batch: Any) -> Tensor:
        """What the module's own training step returns."""
        return loss_of(call(self.module, "training_step", batch, 0))

    @contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """Put back, afterwards, what steps may have written into the module's buffers."""
        kept = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        yield
        with torch.no_grad():
            for name, before in kept.items():
                self.module.get_buffer(name).copy_(before)


def derived(value: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """The gradient of a number in every parameter: zeros where it does not depend on one."""
    found = torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@contextmanager
def trainer_for_hooks(config: TrainConfig, data: PreparedData, *, training: bool) -> Iterator[None]:
    """Lend the datamodule a Trainer that says whether it trains or validates: transfer hooks may ask."""
    if data.hooks:
        trainer = build_array_trainer(config.accelerator, config.precision)
        trainer.training, trainer.validating = training, not training
        data.datamodule.trainer = trainer
    try:
        yield
    finally:
        data.datamodule.trainer = None


def told(error: Exception) -> str:
    """One sentence about why a probe could not be made."""
    text = str(error).strip()
    if isinstance(error, Refused | Unfusable | ConfigError | CheckpointError):
        return text
    if memory := out_of_memory(error):
        return f"{memory}: {text or 'out of memory'}"
    return f"{type(error).__name__}: {text}".splitlines()[0]
