"""A fixed part of the training set, validated on at the end of a training: the generalization gap's other half.

The gap is what validation says of the validation set less what it says of these examples, both in evaluation mode. The
running training loss would not do: dropout, and weights that move on, are in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from models.loaders import BatchList, permutation
from models.nests import batch_examples, equal, leaves
from models.prepared import PreparedData
from models.seeds import derive
from models.sources import Batches, LoaderBatches

SEED = derive("train subset")
"""It names no trial: all trainings on the same data are measured on the same examples."""
CHUNK = 256
"""Examples in a batch, where the validation loader does not say how many."""
COMPARED = 16
"""Examples that are fetched twice, to see whether they change."""


class NoSubset(RuntimeError):
    """A training that has no generalization gap; the text says why."""


class TrainSubset:
    """The batches of it, for validation: as large as validation's own."""

    def __init__(self, source: Batches, order: Tensor, *, batch_size: int) -> None:
        self.source = source
        self.batches = list(order.split(batch_size))

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        """The batches, the same every time."""
        return self.source.epoch(self.batches, seed=SEED)


def train_subset(data: PreparedData) -> TrainSubset:
    """As many training examples as there are to validate on, at most all of them.

    Raises:
        NoSubset: if there is no telling which, or if they are not the same at every look.
    """
    loaders = data.val_loaders if isinstance(data.val_loaders, list | tuple) else [data.val_loaders]
    if data.source is None:
        raise NoSubset("its train loader gives batches in an order of its own: none can be asked for by index")
    if len(loaders) > 1:
        raise NoSubset("it validates on several loaders")
    if isinstance(data.source, LoaderBatches) and _changes(data.source):
        raise NoSubset("its training examples differ from one fetch to the next, as augmented ones do")
    count = min(sum(map(_examples_of, loaders)), data.examples)
    order = permutation(data.examples, SEED, 0)[:count]
    return TrainSubset(data.source, order, batch_size=_batch_size(loaders[0]))


def why_not(error: Exception) -> str:
    """One sentence about why there is no gap: it may be a user's validation step that takes no training examples."""
    return str(error) if isinstance(error, NoSubset) else f"{type(error).__name__}: {error}".splitlines()[0]


def _examples_of(loader: Any) -> int:
    if isinstance(loader, BatchList):
        return sum(batch_examples(batch) for batch in loader.batches)
    if hasattr(getattr(loader, "dataset", None), "__len__"):
        return len(loader.dataset)
    return sum(batch_examples(batch) for batch in loader)


def _batch_size(loader: Any) -> int:
    if isinstance(loader, BatchList):
        return batch_examples(loader.batches[0])
    return getattr(loader, "batch_size", None) or CHUNK


def _changes(source: LoaderBatches) -> bool:
    dataset, collate = source.loader.dataset, source.loader.collate_fn
    few = range(min(COMPARED, len(dataset)))  # type: ignore[arg-type]
    one, other = (
        [leaf for leaf in leaves(collate([dataset[at] for at in few])) if isinstance(leaf, Tensor)] for _ in range(2)
    )
    return not equal(one, other)
