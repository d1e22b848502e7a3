"""A batch, whatever it looks like: a nest of mappings, lists and tuples with tensors in it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor


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


def equal(a: Any, b: Any) -> bool:
    """Whether two nests of tensors, as many in each, hold the same numbers in the same shapes."""
    pairs = list(zip(leaves(a), leaves(b), strict=True))
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)


def batch_examples(batch: Any) -> int:
    """Examples in a batch: the length of its first tensor; 1 where there is none."""
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    return 1
