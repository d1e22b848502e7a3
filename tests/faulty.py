"""A LightningModule whose configuration scripts its faults: what a user's code may do to a search, done on purpose."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytorch_lightning as pl
import torch
from distributed import get_worker
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.data import Digits, Example

ANY = "any"
"""In place of a batch size: all of them."""
LEAKED: list[NDArray[np.float64]] = []
"""What is never freed."""


class Faulty(pl.LightningModule):
    """A small classifier of the digits, with dropout, that does as it is told at one step of its training."""

    def __init__(
        self, faults: Mapping[str, str] | None = None, *, at_step: int = 7, once: str = "", seconds: float = 0.0
    ) -> None:
        """`faults`: name of a method below by batch size; `once`: a file that says that it has been done."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))
        self.faults, self.at_step, self.once, self.seconds = dict(faults or {}), at_step, once, seconds

    def training_step(self, batch: Example) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        if self.seconds:
            time.sleep(self.seconds)
        told = self.faults.get(ANY, self.faults.get(str(len(labels)), ""))
        if told and self.trainer.global_step == self.at_step and self._is_first():
            loss = loss * getattr(self, f"do_{told}")()
        return loss

    def validation_step(self, batch: Example) -> None:
        images, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self.net(images), labels))

    def _is_first(self) -> bool:
        """Whether it has not been done yet, by any process; says which does it now."""
        if not self.once:
            return True
        try:
            with Path(self.once).open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return False
        return True

    # What can be done. Each returns a factor of the loss, if it returns.

    def do_mark(self) -> float:
        """Nothing but to say that it has come to this step."""
        return 1.0

    def do_segv(self) -> float:
        ctypes.string_at(0)
        return 1.0

    def do_kill(self) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    def do_exit(self) -> float:
        os._exit(3)

    def do_exit0(self) -> float:
        sys.exit(0)

    def do_raise(self) -> float:
        raise KeyError("label")

    def do_nan(self) -> float:
        return float("nan")

    def do_oom(self) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def do_fill_disk(self) -> float:
        """Let no file of this process grow beyond a page."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return 1.0

    def do_hang(self) -> float:
        while True:
            time.sleep(0.05)

    def do_memory(self) -> float:
        """Take 32 MB after the other, until someone does something about it."""
        while True:
            LEAKED.append(np.ones(1 << 22))
            time.sleep(0.01)

    def do_leak(self) -> float:
        """Take nine tenths of what the worker may have, and keep it."""
        own = psutil.Process()
        while own.memory_info().rss < 0.9 * (get_worker().memory_manager.memory_limit or 0):
            LEAKED.append(np.ones(1 << 20))
        return 1.0

    def do_tamper(self) -> float:
        """Change everything that a process has only one of, and be loud about it."""
        print("x" * (1 << 21))
        print("y" * (1 << 21), file=sys.stderr)
        os.chdir("/")
        os.environ.update({"HOME": "/nowhere", "REGATTA_HOME": "/nowhere", "OMP_NUM_THREADS": "7"})
        for which in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            ctypes.CDLL(None).signal(int(which), 1)  # SIG_IGN; Python's own is for the main thread only.
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return 1.0


def stacked(examples: Sequence[Example]) -> Example:
    """A batch of examples; a function of one's own is what Regatta does not rebuild a loader with."""
    images, labels = zip(*examples, strict=True)
    return torch.stack(images), torch.stack(labels)


class InProcesses(Digits):
    """The digits by way of a loader with worker processes, used as it is."""

    def train_dataloader(self) -> DataLoader[Example]:
        return DataLoader(self.splits["train"], batch_size=self.batch_size, num_workers=2, collate_fn=stacked)
