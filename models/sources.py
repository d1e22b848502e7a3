"""Where batches come from: tensors in memory if the data fit and do not change, otherwise a DataLoader."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from models.nests import each, equal, leaves, size_of
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
    if second is None or not equal(first, second):
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
