"""Classification data from Hugging Face `datasets`: a name on the hub, parquet files, or a folder of images."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from models.arguments import check_count
from models.data import Example, Indices, SplitData, check_split, stratified_split

IN_MEMORY_BYTES = 2**30
"""A split up to this size becomes one tensor; a larger one is decoded example by example."""
STATISTICS_EXAMPLES = 10_000
"""Mean and deviation come from at most so many training examples, evenly spread: the rest would not move them."""
CHUNK = 1000
"""Examples decoded at once, which bounds what Python objects take."""

Table = Any
"""A `datasets.Dataset`; the package is optional and imported only when used."""


class Rows(Dataset[Example]):
    """Some examples of a table, decoded as they are asked for; an input is x * `scale` + `shift`."""

    def __init__(self, table: Table, indices: Indices, labels: Tensor, *, image_size: int | None) -> None:
        self.table = table
        self.indices = indices
        self.labels = labels[indices]
        self.image_size = image_size
        self.scale = torch.ones(1)
        self.shift = torch.zeros(1)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.inputs(np.array([index]))[0], self.labels[index]

    def inputs(self, positions: Indices) -> Tensor:
        """Inputs [n, ...] at these positions; several columns are joined along the features."""
        batch = self.table[self.indices[positions].tolist()]
        parts = [_column(name, values, image_size=self.image_size) for name, values in batch.items()]
        raw = parts[0] if len(parts) == 1 else torch.cat([part.flatten(1) for part in parts], dim=1)
        return raw * self.scale + self.shift

    def statistics(self) -> tuple[Tensor, Tensor]:
        """The `scale` and `shift` that give every feature, or every channel of an image, mean 0 and deviation 1."""
        positions = np.linspace(0, len(self) - 1, min(len(self), STATISTICS_EXAMPLES)).round().astype(np.int64)
        sample = _stacked([self.inputs(chunk) for chunk in _chunks(positions)])
        others = [0, *range(2, sample.ndim)]
        mean, deviation = sample.mean(others, keepdim=True), sample.std(others, keepdim=True, correction=0)
        # A constant feature is only centred.
        scale = 1.0 / torch.where(deviation > 0, deviation, torch.ones(()))
        return scale, -mean * scale

    def in_memory(self) -> Dataset[Example]:
        """All rows as one tensor where that is small enough, else these rows as they are."""
        if len(self) * self[0][0].nbytes > IN_MEMORY_BYTES:
            return self
        return TensorDataset(_stacked([self.inputs(chunk) for chunk in _chunks(np.arange(len(self)))]), self.labels)


class HuggingFace(SplitData):
    """A table of `datasets` with inputs and a class label: numbers [N, F], arrays or images [N, C, H, W]; float32."""

    def __init__(
        self,
        batch_size: int = 64,
        *,
        path: str,
        name: str | None = None,
        input_columns: Sequence[str] | None = None,
        label: str = "label",
        image_size: int | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        split_seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        """`path` is a hub name (`name`: its configuration), a folder, a file or a pattern such as `data/*.parquet`.

        `input_columns` None: every column but the label. `image_size` resizes images to a square. Splits that the data
        set has (`validation`, `test`) are used; missing ones are taken from `train` by the shares given here.
        """
        super().__init__(batch_size, shuffle=shuffle, drop_last=drop_last)
        check_split(validation, test)
        check_count("split_seed", split_seed, least=0)
        if image_size is not None:
            check_count("image_size", image_size)
        if input_columns is not None and (isinstance(input_columns, str) or not input_columns):
            raise ValueError(f"`input_columns` must be a list of column names, but got {input_columns!r}.")
        self.path = path
        self.name = name
        self.input_columns = input_columns
        self.label = label
        self.image_size = image_size
        self.shares = {"validation": validation, "test": test}
        self.split_seed = split_seed
        self.classes: list[Any] = []
        """What the labels 0, 1, ... stand for; known after `setup`."""

    def load(self) -> dict[str, Dataset[Example]]:
        """Open the tables, turn labels into 0, 1, ..., split, standardize by the training set."""
        tables = {
            name: table
            for name, table in _open(self.path, self.name).items()
            if name == "train" or (name in self.shares and self.label in table.column_names)
        }
        if "train" not in tables:
            raise ValueError(
                f"`data.init_args.path` must lead to a data set with a split `train`, but {self.path!r} has none."
            )
        columns = self._columns(tables["train"])
        values = {name: np.asarray(list(table[self.label])) for name, table in tables.items()}
        # Test sets of public contests come without labels, or with every label -1: there is nothing to test on.
        hidden = [name for name in values if name != "train" and np.all(values[name] == -1)]
        labels = self._encode({name: column for name, column in values.items() if name not in hidden}, tables["train"])
        rows = {
            name: Rows(tables[source].select_columns(columns), indices, labels[source], image_size=self.image_size)
            for name, (source, indices) in self._parts(labels).items()
        }
        scale, shift = rows["train"].statistics()
        for split in rows.values():
            split.scale, split.shift = scale, shift
        return {name: split.in_memory() for name, split in rows.items()}

    def _columns(self, table: Table) -> list[str]:
        columns = list(self.input_columns or (name for name in table.column_names if name != self.label))
        for argument, wanted in (("label", [self.label]), ("input_columns", columns)):
            missing = [name for name in wanted if name not in table.column_names]
            if missing:
                raise ValueError(
                    f"`{argument}` must name columns of {self.path!r} ({', '.join(table.column_names)}), "
                    f"but got {', '.join(missing)}."
                )
        return columns

    def _encode(self, values: dict[str, NDArray[Any]], table: Table) -> dict[str, Tensor]:
        known = getattr(table.features[self.label], "names", None)
        every = np.concatenate(list(values.values()))
        if every.dtype.kind not in "iubUS" or (known and every.min() < 0):
            raise ValueError(
                f"`label` must be a column of classes (whole numbers or names, none missing), but {self.label!r} "
                "is not. Give another column, or drop its rows without a label."
            )
        if known:
            self.classes = list(known)
            return {name: torch.tensor(column, dtype=torch.int64) for name, column in values.items()}
        classes = np.unique(every)
        self.classes = classes.tolist()
        return {name: torch.from_numpy(np.searchsorted(classes, column)) for name, column in values.items()}

    def _parts(self, labels: dict[str, Tensor]) -> dict[str, tuple[str, Indices]]:
        shares = {name: 0.0 if name in labels else share for name, share in self.shares.items()}
        own = {name: (name, np.arange(len(column))) for name, column in labels.items() if name != "train"}
        cut = stratified_split(
            labels["train"].numpy(), validation=shares["validation"], test=shares["test"], seed=self.split_seed
        )
        return own | {name: ("train", indices) for name, indices in cut.items()}


def _open(path: str, name: str | None) -> dict[str, Table]:
    """All splits that `path` leads to, by name."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ValueError(f"Data from {path!r} need the package `datasets`. Run `pip install regatta[hub]`.") from error
    place = str(Path(path).expanduser())
    files = place.endswith(".parquet") or any(mark in place for mark in "*?[")
    try:
        if files:
            return dict(datasets.load_dataset("parquet", data_files=place))
        return dict(datasets.load_dataset(place if Path(place).is_dir() else path, name))
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise ValueError(
            f"`data.init_args.path` must be a data set on the Hugging Face hub, a folder or parquet files, "
            f"but got {path!r} ({str(error).splitlines()[0]}). Correct it, or download the data and give their folder."
        ) from error


def _column(name: str, values: list[Any], *, image_size: int | None) -> Tensor:
    """One column of a batch as float32: images as [n, C, H, W] in [0, 1], numbers as [n, 1], lists as they are."""
    if hasattr(values[0], "getbands"):  # a PIL image
        return _stacked([_pixels(image, size=image_size) for image in values])
    try:
        array = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`input_columns` must hold numbers, equally long lists of numbers or images, but {name!r} does not "
            f"({error}). Leave it out."
        ) from error
    if not np.isfinite(array).all():
        raise ValueError(
            f"`input_columns` must be complete, but {name!r} has missing or infinite numbers. Fill them first."
        )
    return torch.from_numpy(array.reshape(len(values), -1) if array.ndim == 1 else array)


def _pixels(image: Any, *, size: int | None) -> Tensor:
    """A PIL image as [1, 1, H, W] (grey) or [1, 3, H, W] (any other) in [0, 1]."""
    plain = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    sized = plain if size is None else plain.resize((size, size))
    array = np.asarray(sized, dtype=np.float32) / 255.0
    return torch.from_numpy(np.atleast_3d(array)).permute(2, 0, 1).unsqueeze(0)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Batches joined along the examples; a `ValueError` where their shapes differ."""
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        raise ValueError(
            f"Inputs must have one shape, but got {' and '.join(map(str, shapes[:2]))}. "
            "Set `image_size` for images of several sizes; make lists equally long, images all grey or all in colour."
        )
    return torch.cat(list(parts))


def _chunks(positions: Indices) -> list[Indices]:
    return [positions[start : start + CHUNK] for start in range(0, len(positions), CHUNK)]
