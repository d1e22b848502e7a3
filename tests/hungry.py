"""LightningModules that take as much memory as they are told to, and few examples to take it for."""

from __future__ import annotations

import os
import signal

import array_modules
import torch
from torch import Tensor, nn

MIB = 2**20


class Hungry(array_modules.Plain):
    """Takes so many MiB for each example of a batch, or kills its process from a batch size on."""

    def __init__(self, mebibytes: int = 0, dies_at: int = 10**9) -> None:
        super().__init__()
        self.mebibytes = mebibytes
        self.dies_at = dies_at
        self.remembered: list[bytearray] = []

    def training_step(self, batch: array_modules.Batch, batch_idx: int) -> Tensor:
        if len(batch[0]) >= self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        taken = torch.ones(len(batch[0]), self.mebibytes, MIB // 4)
        # Small blocks that outlive the large one: in a heap, they lie above it, and hold its place when it is free.
        self.remembered.append(bytearray(50_000))
        return self.loss(batch) + 0.0 * taken.sum()


class Keeping(array_modules.Plain):
    """Keeps so many MiB for each example of a batch until its backward pass, and makes as many more on the way."""

    def __init__(self, mebibytes: int = 0) -> None:
        super().__init__()
        self.mebibytes = mebibytes
        self.factor = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: array_modules.Batch, batch_idx: int) -> Tensor:
        kept = torch.ones(len(batch[0]), self.mebibytes, MIB // 4)
        return self.loss(batch) + (self.factor * kept).sum()


class Asking(array_modules.Plain):
    """Asks its Trainer for something in every step."""

    def training_step(self, batch: array_modules.Batch, batch_idx: int) -> Tensor:
        return self.loss(batch) * float(self.trainer.training)


class Sixty(array_modules.Sequences):
    """Sixty examples, under this module's name."""
