"""What data and machine a training had, in a few values: enough to notice later that they have changed."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from models.loaders import BatchList
from models.nests import leaves, size_of
from models.prepared import PreparedData
from models.sources import LoaderBatches, MemoryBatches

DIGEST_LIMIT = 64 << 20
"""Largest data set of which every byte counts, bytes (a third of a second); of a larger one, both ends do."""
ENDS = 64
"""Examples at each end of a larger data set."""


def fingerprint(data: PreparedData) -> dict[str, Any]:
    """The training set's size, the type and shape of one example's tensors, and digests; plain JSON values.

    `digest` is null where examples change between two fetches or lie behind a loader that is not ours, `validation`
    where its batches do.
    """
    sample, parts = _sample(data)
    validation = data.val_loaders.batches if isinstance(data.val_loaders, BatchList) else None
    return {
        "examples": data.examples,
        "items": [_kind(leaf) for leaf in sample],
        "digest": None if parts is None else _digest(parts),
        "validation": None if validation is None else _digest(list(leaves(validation))),
    }


def hardware() -> dict[str, Any]:
    """The machine of this process."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"platform": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count(), "gpus": gpus}


def _sample(data: PreparedData) -> tuple[list[Tensor], list[Tensor] | None]:
    """The tensors of some examples, first axis the example, and those that the digest is of."""
    if isinstance(data.source, MemoryBatches):
        columns = list(leaves(data.source.columns))
        whole = size_of(columns) <= DIGEST_LIMIT
        return columns, columns if whole else [end for column in columns for end in (column[:ENDS], column[-ENDS:])]
    if isinstance(data.source, LoaderBatches):
        dataset: Any = data.source.loader.dataset
        once, again = _ends(dataset, data.examples), _ends(dataset, data.examples)
        stable = all(a.equal(b) for a, b in zip(once, again, strict=True))
        return once, once if stable else None
    return [], None


def _ends(dataset: Any, count: int) -> list[Tensor]:
    """The first and last example; none where they are not tensors and numbers."""
    try:
        batch = default_collate([dataset[0], dataset[count - 1]])
    except (TypeError, RuntimeError):  # words, pictures, or two examples of different length
        return []
    return [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]


def _kind(column: Tensor) -> str:
    return f"{str(column.dtype).removeprefix('torch.')}{list(column.shape[1:])}"


def _digest(parts: list[Any]) -> str | None:
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if not tensors or len(tensors) < len(parts):
        return None
    total = hashlib.sha256()
    for content in _bytes(tensors):
        total.update(content)
    return total.hexdigest()[:16]


def _bytes(tensors: list[Tensor]) -> Iterator[bytes]:
    for tensor in tensors:
        yield str((tensor.dtype, list(tensor.shape))).encode()
        # Viewed as bytes: numpy has no bfloat16.
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
