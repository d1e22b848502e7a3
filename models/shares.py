"""The batches of one device among several, or of several forward passes: equal shares of every optimizer step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from models.job import Factors
from models.loaders import OrderedLoader, permutation
from models.plan import Plan
from models.prepared import PreparedData
from models.seeds import derive


class ShareLoader(OrderedLoader):
    """As `OrderedLoader`, in the same order, but of every optimizer step only this device's share, pass by pass.

    A step whose examples cannot be divided evenly, the last one of an epoch, takes a few from the epoch's start again:
    so the mean over devices and passes is the mean over examples, and no device runs out of batches.
    """

    def __init__(self, data: PreparedData, plan: Plan, factors: Factors, *, seed: int, rank: int, unit: int) -> None:
        """`unit`: examples of which an incomplete number is left out, where the loader drops the last batch."""
        assert data.source is not None, "a loader that is not ours cannot be shared out"
        usable = data.examples - data.examples % unit if data.drop_last else data.examples
        super().__init__(
            data.source,
            examples=usable,
            batch_sizes=plan.batch_sizes,
            seed=seed,
            shuffle=data.shuffle,
            drop_last=False,
        )
        self.total = data.examples
        self.factors = factors
        self.rank = rank

    def __len__(self) -> int:
        """Batches of this device in the current epoch."""
        return self.batches_in(self.current_epoch())

    def batches_in(self, epoch: int) -> int:
        """Batches of this device in an epoch."""
        return super().batches_in(epoch) * self.factors.accumulate

    def __iter__(self) -> Iterator[Any]:
        """This device's batches of the current epoch, from where a resumed one stands."""
        epoch = self.current_epoch()
        order = permutation(self.total, self.seed, epoch) if self.shuffle else torch.arange(self.total)
        order = order[: self.examples]
        skip, self._skip = self._skip, 0
        passes, devices = self.factors.accumulate, self.factors.devices
        batches: list[torch.Tensor] = []
        for indices in order.split(self._batch_size()):
            short = -len(indices) % (passes * devices)
            shares = torch.cat([indices, order[:short]]).chunk(passes * devices)
            batches += shares[self.rank :: devices]
        yield from self.source.epoch(batches[skip:], seed=derive(self.seed, epoch, "items"))

    def examples_in(self, batch: Any, batch_index: int) -> int:
        """Examples that all devices together take in with this batch."""
        size, passes = self._batch_size(), self.factors.accumulate
        step, part = divmod(batch_index, passes)
        taken = min(size, self.examples - step * size)
        return taken * (part + 1) // passes - taken * part // passes
