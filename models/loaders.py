"""Training batches in an order from (seed, epoch) alone, from memory when the data fits, resumable in mid-epoch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import BatchSampler as TorchBatchSampler
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    get_worker_info,
)

from models import rng
from models.seeds import derive

MEMORY_LIMIT = 2 << 30
"""Largest data set kept as tensors in a worker, bytes."""
GATHER_LIMIT = 256 << 20
"""Largest data set whose epochs are gathered in one go, bytes; larger ones are gathered batch by batch."""
FETCH_LIMIT = 20.0
"""Longest time that copying a data set into memory may take, seconds: past that, batches come from a DataLoader."""


class Batches(Protocol):
    """Where a batch comes from: indices in, one collated batch out."""

    def epoch(self, batches: list[Tensor], *, seed: int) -> Iterator[Any]:
        """One batch for every tensor of indices, in that order; `seed` is the epoch's, for what is drawn on the way."""
        ...


class MemoryBatches:
    """Batches sliced from tensors: the whole data set, collated once."""

    def __init__(self, columns: Any) -> None:
        self.columns = columns

    def epoch(self, batches: list[Tensor], *, seed: int) -> Iterator[Any]:
        """Gather the epoch once in its order; every batch is then a slice, which costs next to nothing."""
        if not batches:
            return
        if size_of(self.columns) > GATHER_LIMIT:
            for indices in batches:
                yield each(self.columns, lambda column, at=indices: column.index_select(0, at))  # type: ignore[misc]
            return
        ordered = each(self.columns, lambda column: column.index_select(0, torch.cat(batches)))
        start = 0
        for indices in batches:
            stop = start + len(indices)
            yield each(ordered, lambda column, a=start, b=stop: column[a:b])  # type: ignore[misc]
            start = stop


class LoaderBatches:
    """Batches from a DataLoader with the user's own collate function and worker processes."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def epoch(self, batches: list[Tensor], *, seed: int) -> Iterator[Any]:
        """A DataLoader for this epoch, its batches given."""
        loader = self.loader
        yield from DataLoader(
            SeededDataset(loader.dataset, seed) if loader.num_workers else loader.dataset,
            batch_sampler=[indices.tolist() for indices in batches],
            # Without its own, each DataLoader draws once from the generator of dropout: one draw too many on resuming.
            generator=torch.Generator().manual_seed(seed),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        )


class SeededDataset(Dataset[Any]):
    """A data set whose random numbers in a worker process depend on the batch alone.

    Worker processes start anew when an epoch is resumed: numbers that ran on from batch to batch would be others then.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """The items of one batch."""
        assert get_worker_info() is not None, "in the main process this would overwrite the state of dropout"
        rng.seed_everything(derive(self.seed, *indices[:1]))
        if hasattr(self.dataset, "__getitems__"):
            items: list[Any] = self.dataset.__getitems__(indices)
            return items
        return [self.dataset[index] for index in indices]


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


def is_ours(loader: Any) -> bool:
    """Whether a loader may be rebuilt: a DataLoader over a map-style data set with torch's own samplers and batches."""
    return (
        type(loader) is DataLoader
        and isinstance(loader.dataset, Dataset)
        and hasattr(loader.dataset, "__len__")
        and type(loader.sampler) in (RandomSampler, SequentialSampler)
        and type(loader.batch_sampler) is TorchBatchSampler
        # Given a `batch_sampler`, a DataLoader makes itself a sampler that it does not use.
        and loader.batch_sampler.sampler is loader.sampler
        and not (type(loader.sampler) is RandomSampler and (loader.sampler.replacement or loader.sampler._num_samples))
    )


def batches_of(loader: DataLoader[Any]) -> Batches:
    """From memory if the data fits and does not change between two fetches, otherwise from the DataLoader."""
    columns = in_memory(loader)
    return LoaderBatches(loader) if columns is None else MemoryBatches(columns)


def in_memory(loader: DataLoader[Any]) -> Any | None:
    """The whole data set of a DataLoader as one collated batch of tensors, or None if it has to stay where it is."""
    if loader.collate_fn is not default_collate:
        return None
    dataset = loader.dataset
    tensors = _tensors(dataset)
    if tensors is not None:
        return tensors if size_of(tensors) <= MEMORY_LIMIT else None
    count = len(dataset)  # type: ignore[arg-type]
    sample = _collate(dataset, min(count, 16))
    if sample is None or size_of(sample) / min(count, 16) * count > MEMORY_LIMIT:
        return None
    deadline = time.monotonic() + FETCH_LIMIT
    first = _collate(dataset, count, deadline)
    second = None if first is None else _collate(dataset, count, deadline)
    if second is None or not _equal(first, second):
        return None
    return first


def _tensors(dataset: Any) -> Any | None:
    """The tensors behind a TensorDataset or a Subset of one: no need to fetch every item."""
    if type(dataset) is TensorDataset:
        return list(dataset.tensors)
    if type(dataset) is Subset and type(dataset.dataset) is TensorDataset:
        return [tensor[torch.as_tensor(dataset.indices)] for tensor in dataset.dataset.tensors]
    return None


def _collate(dataset: Any, count: int, deadline: float = float("inf")) -> Any | None:
    items = []
    for index in range(count):
        if time.monotonic() > deadline:
            return None
        items.append(dataset[index])
    batch = default_collate(items)
    return batch if all(isinstance(leaf, Tensor) for leaf in leaves(batch)) else None


def leaves(batch: Any) -> Iterator[Any]:
    """Everything in a nest of containers that is no container."""
    if isinstance(batch, Mapping):
        for value in batch.values():
            yield from leaves(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from leaves(value)
    else:
        yield batch


def each(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of containers with every tensor changed."""
    if isinstance(batch, Mapping):
        changed = {key: each(value, change) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return changed
        # A mapping of another class may hold more than its items, as default_collate knows.
        other: Any = copy.copy(batch)
        other.update(changed)
        return other
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(each(value, change) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(each(value, change) for value in batch)
    return change(batch)


def size_of(batch: Any) -> int:
    """Bytes of all tensors in a nest of containers."""
    return sum(leaf.nbytes for leaf in leaves(batch))


def _equal(a: Any, b: Any) -> bool:
    pairs = list(zip(leaves(a), leaves(b), strict=True))
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)


def batch_examples(batch: Any) -> int:
    """Examples in a batch: the length of its first tensor."""
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    return 1
