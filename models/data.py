"""How data are split and loaded, and two LightningDataModules that need no download: digits and a synthetic teacher."""

from __future__ import annotations

import abc
import functools
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from models.arguments import check_count, check_share

Example = tuple[Tensor, ...]
Indices = NDArray[np.int64]

EVALUATION_BATCH = 1024
"""Validation and test keep no gradients: one large batch size, the same for every trial, makes them cheap."""


class SplitData(pl.LightningDataModule, abc.ABC):
    """Loaders over three map-style datasets, which `load` of a subclass makes once."""

    def __init__(self, batch_size: int, *, shuffle: bool = True, drop_last: bool = False) -> None:
        super().__init__()
        check_count("batch_size", batch_size)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.splits: dict[str, Dataset[Example]] = {}

    @abc.abstractmethod
    def load(self) -> dict[str, Dataset[Example]]:
        """The datasets `train` and, where there are any such examples, `validation` and `test`."""

    def setup(self, stage: str | None = None) -> None:
        """Load all splits the first time; Lightning calls this before each of fit, validate and test."""
        if not self.splits:
            self.splits = self.load()

    def train_dataloader(self) -> DataLoader[Example]:
        """Batches of `batch_size` training examples; a `ValueError` where `drop_last` would leave none."""
        examples = _length(self.splits["train"])
        if self.drop_last and self.batch_size > examples:
            raise ValueError(
                f"`batch_size` must be at most {examples} (the training set), but got {self.batch_size}. Lower it."
            )
        return DataLoader(
            self.splits["train"], batch_size=self.batch_size, shuffle=self.shuffle, drop_last=self.drop_last
        )

    def val_dataloader(self) -> list[DataLoader[Example]] | DataLoader[Example]:
        """All validation examples in order; an empty list where there are none."""
        return self._evaluation("validation")

    def test_dataloader(self) -> list[DataLoader[Example]] | DataLoader[Example]:
        """All test examples in order; an empty list where there are none."""
        return self._evaluation("test")

    def predict_dataloader(self) -> list[DataLoader[Example]] | DataLoader[Example]:
        """The test examples."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> list[DataLoader[Example]] | DataLoader[Example]:
        if split not in self.splits:
            return []
        data = self.splits[split]
        return DataLoader(data, batch_size=min(EVALUATION_BATCH, _length(data)))


def check_split(validation: float, test: float) -> None:
    """Raise `ValueError` unless both are shares in [0, 1) that leave something to train on."""
    check_share("validation", validation)
    check_share("test", test)
    if validation + test >= 1.0:
        raise ValueError(f"`validation` + `test` must be less than 1, but got {validation} + {test}.")


def stratified_split(labels: NDArray[Any], *, validation: float, test: float, seed: int) -> dict[str, Indices]:
    """Indices of `train`, `validation` and `test`, ascending; every class is split in proportion.

    A share of n examples is rounded up. Fixed by (labels, shares, seed); a split without examples is left out.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # Evenly spaced picks from a list sorted by class take the same share of every class, and exactly as many as asked.
    rest = shuffled[np.argsort(labels[shuffled], kind="stable")]
    splits: dict[str, Indices] = {}
    for name, share in (("test", test), ("validation", validation)):
        # Without rounding, 0.07 * 100 is 7.000000000000001 and its ceiling 8.
        wanted = math.ceil(round(share * len(labels), 6))
        picks = (2 * np.arange(wanted) + 1) * len(rest) // (2 * max(wanted, 1))
        splits[name] = np.sort(rest[picks])
        rest = np.delete(rest, picks)
    splits["train"] = np.sort(rest)
    if len(rest) == 0:
        raise ValueError(
            f"`validation` {validation} and `test` {test} leave none of {len(labels)} examples to train on."
        )
    return {name: indices for name, indices in splits.items() if len(indices)}


class Digits(SplitData):
    """1,797 handwritten digits, part of scikit-learn: 8x8 pixels, [N, 64] or with `image` [N, 1, 8, 8]; 10 classes."""

    def __init__(
        self,
        batch_size: int = 64,
        *,
        validation: float = 0.1,
        test: float = 0.1,
        split_seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        image: bool = False,
    ) -> None:
        super().__init__(batch_size, shuffle=shuffle, drop_last=drop_last)
        check_split(validation, test)
        check_count("split_seed", split_seed, least=0)
        self.validation = validation
        self.test = test
        self.split_seed = split_seed
        self.image = image

    def load(self) -> dict[str, Dataset[Example]]:
        """Pixels in [0, 1], standardized by the mean and deviation of all training pixels."""
        pixels, labels = _digits()
        parts = stratified_split(labels.numpy(), validation=self.validation, test=self.test, seed=self.split_seed)
        train = pixels[parts["train"]]
        inputs = ((pixels - train.mean()) / train.std()).reshape(-1, *((1, 8, 8) if self.image else (64,)))
        return {name: TensorDataset(inputs[indices], labels[indices]) for name, indices in parts.items()}


class TeacherStudent(SplitData):
    """Classification of any size: normal inputs [N, features], labelled by a fixed random network."""

    def __init__(
        self,
        batch_size: int = 64,
        *,
        examples: int = 4096,
        validation_examples: int = 1024,
        features: int = 32,
        classes: int = 10,
        hidden: int = 64,
        noise: float = 0.0,
        split_seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        """`noise`: share of labels, in every split, that another class replaces. Test is as large as validation."""
        super().__init__(batch_size, shuffle=shuffle, drop_last=drop_last)
        for name, value, least in (
            ("examples", examples, 1),
            ("validation_examples", validation_examples, 1),
            ("features", features, 1),
            ("classes", classes, 2),
            ("hidden", hidden, 1),
            ("split_seed", split_seed, 0),
        ):
            check_count(name, value, least=least)
        check_share("noise", noise)
        # Training examples are drawn last: validation and test stay the same, however many there are.
        self.sizes = {"validation": validation_examples, "test": validation_examples, "train": examples}
        self.features = features
        self.classes = classes
        self.hidden = hidden
        self.noise = noise
        self.split_seed = split_seed

    def load(self) -> dict[str, Dataset[Example]]:
        """Draw the teacher, then the splits, from one generator."""
        generator = torch.Generator().manual_seed(self.split_seed)
        inner = torch.randn(self.features, self.hidden, generator=generator) / math.sqrt(self.features)
        outer = torch.randn(self.hidden, self.classes, generator=generator)
        # An odd function with columns of one length prefers no class, so that the classes come out nearly balanced.
        outer = outer / outer.norm(dim=0)
        splits: dict[str, Dataset[Example]] = {}
        for name, size in self.sizes.items():
            inputs = torch.randn(size, self.features, generator=generator)
            labels = (torch.tanh(2.0 * inputs @ inner) @ outer).argmax(1)
            splits[name] = TensorDataset(inputs, self._with_noise(labels, generator))
        return splits

    def _with_noise(self, labels: Tensor, generator: Generator) -> Tensor:
        wrong = torch.rand(len(labels), generator=generator) < self.noise
        shift = torch.randint(1, self.classes, (len(labels),), generator=generator)
        return torch.where(wrong, (labels + shift) % self.classes, labels)


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    """All images [1797, 64] in [0, 1] and labels [1797]; kept, since a worker trains many trials on them."""
    # scikit-learn's own loader takes 1.4 s to import, as long as several trials: its file is read as it lies there.
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.submodule_search_locations, "scikit-learn is a dependency of this project"
    table = np.loadtxt(
        Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz", delimiter=","
    )
    return torch.tensor(table[:, :64] / 16.0, dtype=torch.float32), torch.tensor(table[:, 64], dtype=torch.int64)


def _length(data: Dataset[Example]) -> int:
    return len(data)  # type: ignore[arg-type]  # torch leaves `__len__` out of Dataset; every map-style one has it
