"""Hugging Face data: parquet files, folders of images, splits of their own and made by us; no network."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from models import hub
from models.hub import HuggingFace, Rows

datasets = pytest.importorskip("datasets", reason="the optional package `datasets` is not installed")
parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")
images = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted tables go to this test's folder: `datasets` reads the variable of that name at import only."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(path: Path, columns: Mapping[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(dict(columns)), path)
    return str(path)


def table(examples: int = 100, *, seed: int = 0) -> dict[str, list[Any]]:
    draw = np.random.default_rng(seed)
    label = np.arange(examples) % 4
    return {
        "height": (label + draw.normal(size=examples)).tolist(),
        "weight": (5.0 + 3.0 * draw.normal(size=examples)).tolist(),
        "label": label.tolist(),
    }


def paint(folder: Path, *, mode: str = "L", size: tuple[int, int] = (6, 5), count: int = 10) -> None:
    """`count` images of each of two classes: dark ones in `night`, bright ones in `day`."""
    for name, level in (("night", 40), ("day", 200)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = images.new("L", size, level + number).convert(mode)
            image.save(folder / name / f"{mode}{number}.png")


def tensors(data: HuggingFace, split: str) -> tuple[torch.Tensor, ...]:
    data.setup()
    part = data.splits[split]
    assert isinstance(part, TensorDataset)
    return part.tensors


def test_numeric_columns_become_standardized_features_and_are_split_by_class(tmp_path: Path) -> None:
    data = HuggingFace(path=write(tmp_path / "table.parquet", table()), batch_size=8)
    inputs, labels = tensors(data, "train")
    assert inputs.shape == (80, 2)
    assert inputs.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.allclose(inputs.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(inputs.std(0, correction=0), torch.ones(2), atol=1e-5)
    assert labels.bincount().tolist() == [20, 20, 20, 20]
    assert {name: len(tensors(data, name)[1]) for name in data.splits} == {"train": 80, "validation": 10, "test": 10}
    assert [len(batch[1]) for batch in data.train_dataloader()] == [8] * 10


def test_named_columns_are_taken_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "table.parquet", table())
    swapped = tensors(HuggingFace(path=path, input_columns=["weight", "height"]), "train")[0]
    assert torch.equal(swapped, tensors(HuggingFace(path=path), "train")[0].flip(1))
    assert tensors(HuggingFace(path=path, input_columns=["weight"]), "train")[0].shape == (80, 1)


def test_a_column_of_lists_keeps_its_shape_and_a_constant_feature_is_only_centred(tmp_path: Path) -> None:
    rows = [[float(i), 7.0, float(-i)] for i in range(40)]
    path = write(tmp_path / "lists.parquet", {"vector": rows, "label": [i % 2 for i in range(40)]})
    inputs, _ = tensors(HuggingFace(path=path), "train")
    assert inputs.shape == (32, 3)
    assert torch.equal(inputs[:, 1], torch.zeros(32))


def test_a_folder_with_its_own_splits_is_used_as_it_is(tmp_path: Path) -> None:
    for name, examples, seed in (("train", 40, 0), ("validation", 12, 1), ("test", 8, 2)):
        write(tmp_path / "data" / f"{name}.parquet", table(examples, seed=seed))
    data = HuggingFace(path=str(tmp_path / "data"), validation=0.5, test=0.4)
    data.setup()
    assert {name: len(tensors(data, name)[1]) for name in data.splits} == {"train": 40, "validation": 12, "test": 8}


def test_a_test_split_whose_labels_are_withheld_is_not_used(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.parquet", table(40))
    write(tmp_path / "data" / "test.parquet", {**table(8), "label": [-1] * 8})
    data = HuggingFace(path=str(tmp_path / "data"), validation=0.0, test=0.25)
    assert len(tensors(data, "test")[1]) == 10
    assert len(tensors(data, "train")[1]) == 30


def test_a_pattern_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "a-1.parquet", table(30))
    write(tmp_path / "parts" / "a-2.parquet", table(20))
    data = HuggingFace(path=str(tmp_path / "parts" / "a-*.parquet"), validation=0.2, test=0.0)
    data.setup()
    assert {name: len(tensors(data, name)[1]) for name in data.splits} == {"train": 40, "validation": 10}


def test_names_as_labels_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    names = [["pear", "apple", "fig"][i % 3] for i in range(30)]
    path = write(tmp_path / "fruit.parquet", {"x": [float(len(name)) for name in names], "kind": names})
    data = HuggingFace(path=path, label="kind", validation=0.0, test=0.0)
    inputs, labels = tensors(data, "train")
    assert data.classes == ["apple", "fig", "pear"]
    assert labels.tolist() == [data.classes.index(name) for name in names]
    assert inputs.shape == (30, 1)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("1", 1)])
def test_a_folder_of_images_becomes_channels_height_width(tmp_path: Path, mode: str, channels: int) -> None:
    paint(tmp_path / "photos", mode=mode)
    data = HuggingFace(path=str(tmp_path / "photos"), validation=0.2, test=0.0)
    inputs, labels = tensors(data, "train")
    assert inputs.shape == (16, channels, 5, 6)
    assert data.classes == ["day", "night"]
    assert abs(float(inputs.mean())) < 1e-5
    assert inputs[labels == 0].mean() > inputs[labels == 1].mean()


def test_images_of_several_sizes_need_image_size(tmp_path: Path) -> None:
    paint(tmp_path / "photos", size=(6, 5))
    paint(tmp_path / "photos", size=(7, 7), mode="RGB")
    paint(tmp_path / "grey", size=(6, 5))
    with pytest.raises(ValueError, match=r"Inputs must have one shape, but got .* and .* Set `image_size`"):
        HuggingFace(path=str(tmp_path / "photos")).setup()
    assert tensors(HuggingFace(path=str(tmp_path / "grey"), image_size=4), "train")[0].shape[1:] == (1, 4, 4)


def test_a_split_too_large_for_memory_is_decoded_example_by_example_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "photos")
    whole = HuggingFace(path=str(tmp_path / "photos"))
    whole.setup()
    monkeypatch.setattr(hub, "IN_MEMORY_BYTES", 0)
    lazy = HuggingFace(path=str(tmp_path / "photos"))
    lazy.setup()
    for name, split in lazy.splits.items():
        assert isinstance(split, Rows)
        loaded = [split[index] for index in range(len(split))]
        assert torch.equal(torch.stack([item[0] for item in loaded]), tensors(whole, name)[0])
        assert torch.equal(torch.stack([item[1] for item in loaded]), tensors(whole, name)[1])


def test_a_second_setup_opens_nothing(tmp_path: Path) -> None:
    data = HuggingFace(path=write(tmp_path / "table.parquet", table()))
    before = tensors(data, "train")[0]
    data.path = str(tmp_path / "gone.parquet")
    assert tensors(data, "train")[0] is before


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # Python's own way to say: not to be imported
    with pytest.raises(ValueError, match=r"need the package `datasets`. Run `pip install regatta\[hub\]`"):
        HuggingFace(path="any/thing").setup()


@pytest.mark.parametrize("path", ["nobody/nothing-of-this-name", "absent/*.parquet", "absent.parquet"])
def test_data_that_cannot_be_found_name_the_argument(path: str) -> None:
    with pytest.raises(ValueError, match=r"^`data.init_args.path` must be a data set .* but got '.*Correct it"):
        HuggingFace(path=path).setup()


@pytest.mark.parametrize(
    ("columns", "arguments", "sentence"),
    [
        ({}, {"label": "class"}, r"`label` must name columns of .*\(height, weight, label\), but got class"),
        ({}, {"input_columns": ["age"]}, r"`input_columns` must name columns of .* but got age"),
        ({"label": [0.5] * 100}, {}, "`label` must be a column of classes"),
        ({"label": [None, *[1] * 99]}, {}, "`label` must be a column of classes"),
        ({"height": ["tall"] * 100}, {}, "`input_columns` must hold numbers, .* but 'height' does not .* Leave it out"),
        ({"height": [[1.0]] + [[1.0, 2.0]] * 99}, {}, "`input_columns` must hold numbers, equally long lists"),
        ({"height": [None, *[1.0] * 99]}, {}, "`input_columns` must be complete, but 'height' has missing"),
    ],
)
def test_columns_that_cannot_be_used_are_named(
    tmp_path: Path, columns: dict[str, Any], arguments: dict[str, Any], sentence: str
) -> None:
    path = write(tmp_path / "table.parquet", {**table(), **columns})
    with pytest.raises(ValueError, match=sentence):
        HuggingFace(path=path, **arguments).setup()


def test_a_data_set_without_a_training_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data" / "test.parquet", table())
    with pytest.raises(ValueError, match="must lead to a data set with a split `train`"):
        HuggingFace(path=str(tmp_path / "data")).setup()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"input_columns": "height"}, "`input_columns` must be a list of column names, but got 'height'"),
        ({"input_columns": []}, r"`input_columns` must be a list of column names, but got \[\]"),
        ({"image_size": 0}, "`image_size` must be a whole number of at least 1, but got 0"),
        ({"validation": 0.5, "test": 0.5}, r"`validation` \+ `test` must be less than 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        HuggingFace(path="never-opened", **arguments)
