"""What Lightning iterates over: training batches in an order from (seed, epoch), or the user's loader as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from models.nests import batch_examples, each
from models.seeds import derive
from models.sources import Batches


class BatchList:
    """Validation batches, collated once. (A plain list would be several loaders to Lightning.)"""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        """The batches, in order: copies, since a module may change or empty what it gets."""
        return (each(batch, torch.clone) for batch in self.batches)


class OrderedLoader:
    """An iterable of batches for Lightning; every `iter` is one epoch of `current_epoch`.

    The order is a permutation from (seed, epoch), the same for every batch size. An epoch that was broken off goes on
    after `skip`. (Not by the `state_dict` that Lightning would use: it forgets that once a module has asked the Trainer
    for `estimated_stepping_batches`.)
    """

    order = "own"

    def __init__(
        self, source: Batches, *, examples: int, batch_sizes: Sequence[int], seed: int, shuffle: bool, drop_last: bool
    ) -> None:
        self.source = source
        self.examples = examples
        self.batch_sizes = batch_sizes
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.current_epoch: Callable[[], int] = lambda: 0
        self._skip = 0

    def _batch_size(self) -> int:
        return self.batch_sizes[min(self.current_epoch(), len(self.batch_sizes) - 1)]

    def __len__(self) -> int:
        """Batches of the current epoch."""
        return self.batches_in(self.current_epoch())

    def batches_in(self, epoch: int) -> int:
        """Batches of an epoch."""
        size = self.batch_sizes[min(epoch, len(self.batch_sizes) - 1)]
        return self.examples // size if self.drop_last else -(-self.examples // size)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the current epoch, from where a resumed one stands."""
        epoch = self.current_epoch()
        order = permutation(self.examples, self.seed, epoch) if self.shuffle else torch.arange(self.examples)
        skip, self._skip = self._skip, 0
        batches = list(order.split(self._batch_size()))[: len(self)][skip:]
        yield from self.source.epoch(batches, seed=derive(self.seed, epoch, "items"))

    def examples_in(self, batch: Any, batch_index: int) -> int:
        """Examples in a batch of this epoch, whatever it looks like."""
        size = self._batch_size()
        return min(size, self.examples - batch_index * size)

    def skip(self, batches: int) -> None:
        """Let the next epoch begin behind so many batches."""
        self._skip = batches


class ForeignLoader:
    """Any other iterable of batches, used as it is; the order that a DataLoader draws comes from (seed, epoch)."""

    order = "foreign"

    def __init__(self, loader: Any, *, seed: int) -> None:
        self.loader = loader
        self.seed = seed
        self.current_epoch: Callable[[], int] = lambda: 0
        # Here Lightning looks for samplers with a `set_epoch`.
        self.sampler = getattr(loader, "sampler", None)
        self.batch_sampler = getattr(loader, "batch_sampler", None)

    def __len__(self) -> int:
        """Batches of an epoch, as the loader itself says."""
        return len(self.loader)

    def examples_in(self, batch: Any, batch_index: int) -> int:
        """Examples in a batch, as far as its looks tell."""
        return batch_examples(batch)

    def __iter__(self) -> Iterator[Any]:
        """One epoch. A DataLoader draws its order at the first batch: that draw alone comes from our seed."""
        before = torch.get_rng_state()
        torch.manual_seed(derive(self.seed, self.current_epoch()))
        iterator = iter(self.loader)
        first = next(iterator, None)
        torch.set_rng_state(before)
        if first is not None:
            yield first
            yield from iterator


def permutation(examples: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch, int64 of shape [examples]; depends on nothing else, the batch size included."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(derive(seed, epoch)))
