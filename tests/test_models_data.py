"""Digits and the synthetic teacher: sizes, proportions, scaling, determinism, and arguments that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from models.data import Digits, SplitData, TeacherStudent, stratified_split


def tensors(data: SplitData, split: str) -> tuple[Tensor, ...]:
    data.setup()
    part = data.splits[split]
    assert isinstance(part, TensorDataset)
    return part.tensors


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [
        (0.1, 0.1, {"train": 1437, "validation": 180, "test": 180}),
        (0.2, 0.0, {"train": 1437, "validation": 360}),
        (0.0, 0.0, {"train": 1797}),
    ],
)
def test_digits_have_the_documented_sizes(validation: float, test: float, sizes: dict[str, int]) -> None:
    data = Digits(validation=validation, test=test)
    data.setup()
    assert {name: len(tensors(data, name)[0]) for name in data.splits} == sizes


def test_digits_are_standardized_by_the_training_pixels_alone() -> None:
    inputs, labels = tensors(Digits(), "train")
    assert inputs.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert abs(float(inputs.mean())) < 1e-5
    assert float(inputs.std()) == pytest.approx(1.0, abs=1e-5)
    assert abs(float(tensors(Digits(), "validation")[0].mean())) > 1e-4


def test_digits_come_flat_or_as_images_of_the_same_pixels() -> None:
    flat, image = tensors(Digits(), "test")[0], tensors(Digits(image=True), "test")[0]
    assert flat.shape == (180, 64)
    assert image.shape == (180, 1, 8, 8)
    assert torch.equal(image.flatten(1), flat)


def test_the_split_depends_on_its_seed_and_on_nothing_else() -> None:
    first = tensors(Digits(split_seed=3), "validation")[0]
    torch.manual_seed(1)
    assert torch.equal(first, tensors(Digits(batch_size=7, shuffle=False, split_seed=3), "validation")[0])
    assert not torch.equal(tensors(Digits(split_seed=3), "validation")[1], tensors(Digits(), "validation")[1])


@pytest.mark.parametrize("seed", range(5))
def test_a_stratified_split_takes_every_class_in_proportion_and_every_example_once(seed: int) -> None:
    labels = np.repeat([0, 1, 2, 3], [500, 300, 150, 50])
    parts = stratified_split(labels, validation=0.2, test=0.1, seed=seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1000))
    for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        wanted = np.array([500, 300, 150, 50]) * share
        assert np.abs(np.bincount(labels[parts[name]]) - wanted).max() <= 2


def test_a_share_that_is_a_whole_number_of_examples_is_met_exactly() -> None:
    # 0.07 * 100 is a little more than 7 in floating point.
    assert len(stratified_split(np.zeros(100, dtype=int), validation=0.07, test=0.0, seed=0)["validation"]) == 7


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="leave none of 2 examples to train on"):
        stratified_split(np.array([0, 1]), validation=0.5, test=0.4, seed=0)


@pytest.mark.parametrize("data", [Digits(), TeacherStudent()], ids=lambda data: type(data).__name__)
def test_a_second_setup_keeps_the_first_ones_tensors(data: SplitData) -> None:
    before = tensors(data, "train")
    data.setup("validate")
    assert all(a is b for a, b in zip(before, tensors(data, "train"), strict=True))


def test_training_batches_follow_the_arguments_and_evaluation_takes_large_ones() -> None:
    data = Digits(batch_size=100, drop_last=True)
    data.setup()
    assert [len(labels) for _, labels in data.train_dataloader()] == [100] * 14
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert isinstance(loader, DataLoader)
        assert [len(labels) for _, labels in loader] == [180]


def test_only_training_examples_are_shuffled() -> None:
    data = Digits(batch_size=1437)
    data.setup()
    torch.manual_seed(0)
    (shuffled,) = data.train_dataloader()
    assert not torch.equal(shuffled[1], tensors(data, "train")[1])
    assert torch.equal(shuffled[1].bincount(), tensors(data, "train")[1].bincount())
    data = Digits(batch_size=1437, shuffle=False)
    data.setup()
    (in_order,) = data.train_dataloader()
    assert torch.equal(in_order[1], tensors(data, "train")[1])


def test_without_a_share_there_is_no_loader_for_it() -> None:
    data = Digits(validation=0.0, test=0.0)
    data.setup()
    assert data.val_dataloader() == data.test_dataloader() == []


def test_a_batch_larger_than_the_training_set_names_both_numbers_where_it_would_be_dropped() -> None:
    data = Digits(batch_size=2000, drop_last=True)
    data.setup()
    with pytest.raises(ValueError, match=r"`batch_size` must be at most 1437 \(the training set\), but got 2000"):
        data.train_dataloader()
    kept = Digits(batch_size=2000)
    kept.setup()
    assert [len(labels) for _, labels in kept.train_dataloader()] == [1437]


def test_the_teacher_prefers_no_class_much_and_has_the_asked_sizes() -> None:
    data = TeacherStudent(examples=8000, validation_examples=500, features=16, classes=5)
    inputs, labels = tensors(data, "train")
    assert inputs.shape == (8000, 16)
    assert len(tensors(data, "validation")[0]) == len(tensors(data, "test")[0]) == 500
    assert labels.bincount(minlength=5).min() > 8000 / 5 / 2


def test_more_training_examples_leave_the_validation_set_as_it_was() -> None:
    small, large = TeacherStudent(examples=100), TeacherStudent(examples=5000)
    assert torch.equal(tensors(small, "validation")[0], tensors(large, "validation")[0])
    assert torch.equal(tensors(small, "validation")[1], tensors(large, "validation")[1])


def test_noise_replaces_its_share_of_labels_by_other_classes() -> None:
    clean, noisy = TeacherStudent(examples=10_000), TeacherStudent(examples=10_000, noise=0.3)
    assert torch.equal(tensors(clean, "train")[0], tensors(noisy, "train")[0])
    differing = tensors(clean, "train")[1] != tensors(noisy, "train")[1]
    assert float(differing.float().mean()) == pytest.approx(0.3, abs=0.02)


def test_another_seed_is_another_teacher() -> None:
    assert not torch.equal(tensors(TeacherStudent(), "train")[0], tensors(TeacherStudent(split_seed=1), "train")[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, but got 0"),
        ({"batch_size": True}, "`batch_size` must be a whole number of at least 1, but got True"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number of at least 1, but got 2.5"),
        ({"validation": 1.0}, r"`validation` must be a share in \[0, 1\), but got 1.0"),
        ({"test": -0.1}, r"`test` must be a share in \[0, 1\), but got -0.1"),
        ({"validation": float("nan")}, r"`validation` must be a share in \[0, 1\), but got nan"),
        ({"validation": 0.6, "test": 0.4}, r"`validation` \+ `test` must be less than 1, but got 0.6 \+ 0.4"),
        ({"split_seed": -1}, "`split_seed` must be a whole number of at least 0, but got -1"),
    ],
)
def test_digits_refuse_arguments_that_make_no_sense(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Digits(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"examples": 0}, "`examples` must be a whole number of at least 1, but got 0"),
        ({"validation_examples": 0}, "`validation_examples` must be a whole number of at least 1, but got 0"),
        ({"classes": 1}, "`classes` must be a whole number of at least 2, but got 1"),
        ({"noise": 1.0}, r"`noise` must be a share in \[0, 1\), but got 1.0"),
    ],
)
def test_the_teacher_refuses_arguments_that_make_no_sense(arguments: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TeacherStudent(**arguments)  # type: ignore[arg-type]


def test_a_datamodule_that_loads_nothing_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract method '?load"):
        SplitData(8)  # type: ignore[abstract]
