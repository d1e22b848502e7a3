"""Rows of numbers in the shape and type that a model takes, so many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.inputs import Array, cast, in_batches, shaped


@pytest.mark.parametrize(
    ("given", "shape", "expected"),
    [
        ((5, 6), (6,), (5, 6)),
        ((5, 6), (1, 2, 3), (5, 1, 2, 3)),
        ((5, 2, 3), (1, 2, 3), (5, 1, 2, 3)),
        ((5, 2, 3, 1), (1, 2, 3), (5, 1, 2, 3)),
        ((5, 1, 2, 3), (6,), (5, 6)),
        ((5,), (), (5,)),
        ((5, 1), (), (5,)),
        ((5,), (1,), (5, 1)),
        ((5, 7), (-1,), (5, 7)),
        ((5, 7, 3), (-1, 3), (5, 7, 3)),
    ],
)
def test_rows_take_the_shape_of_the_model(
    given: tuple[int, ...], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    rows = np.arange(float(np.prod(given))).reshape(given)
    found = shaped(rows, shape)
    assert found.shape == expected
    assert found.ravel().tolist() == rows.ravel().tolist()


@pytest.mark.parametrize(
    ("given", "shape", "sentence"),
    [
        (
            (5, 7),
            (1, 2, 3),
            "must have rows of 6 numbers (1 x 2 x 3), which the model takes, but has rows of 7 numbers.",
        ),
        ((5,), (2,), "must have rows of 2 numbers, which the model takes, but has rows of 1 number."),
        ((5, 4, 4, 3), (3, 4, 4), "but has rows of 48 numbers (4 x 4 x 3)."),
        ((5, 6), (-1, 3), "must have rows of shape any x 3, which the model takes, but has rows of 6 numbers."),
    ],
)
def test_rows_that_do_not_fit_are_refused(given: tuple[int, ...], shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        shaped(np.zeros(given), shape)
    assert str(caught.value).endswith(sentence)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, -2.5], "float32"),
        ([1, 2], "float64"),
        ([1.0, 2.0], "int64"),
        ([0.0, 255.0], "uint8"),
        ([0, 1], "bool"),
        ([True, False], "float32"),
    ],
)
def test_numbers_are_cast_to_the_type_of_the_model(values: list[Any], dtype: str) -> None:
    found = cast(np.array(values), dtype)
    assert (found.dtype, found.tolist()) == (np.dtype(dtype), np.array(values, dtype).tolist())


def test_numbers_of_the_right_type_are_not_copied() -> None:
    rows = np.zeros((2, 3), np.float32)
    assert cast(rows, "float32") is rows


@pytest.mark.parametrize(
    ("rows", "dtype", "sentence"),
    [
        ([[1.0, 2.0], [3.0, 4.5]], "int64", "of the type int64, which the model takes, but row 2, number 2 is 4.5."),
        ([[1, 300]], "uint8", "but row 1, number 2 is 300."),
        ([[-1]], "uint8", "but row 1, number 1 is -1."),
        ([1e300], "float32", "but row 1, number 1 is 1e+300."),
        ([1e300], "int64", "but row 1, number 1 is 1e+300."),
        ([[[0, 1], [2, 0]]], "bool", "but row 1, number 3 is 2."),
        ([1.0], "str", "files hold numbers."),
    ],
)
def test_a_number_that_the_type_cannot_hold_is_named(rows: Any, dtype: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        cast(np.array(rows), dtype)
    assert str(caught.value).endswith(sentence)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 1000])
def test_outputs_do_not_depend_on_how_many_rows_go_at_a_time(batch_size: int) -> None:
    rows, sizes = np.arange(10.0).reshape(5, 2), list[int]()

    def predict(batch: Array) -> Array:
        sizes.append(len(batch))
        total: Array = batch.sum(1)
        return total

    assert in_batches(predict, rows, batch_size=batch_size).tolist() == [1, 5, 9, 13, 17]
    assert sum(sizes) == 5 and max(sizes) == min(batch_size, 5)


def _breaks(batch: Array) -> Array:
    raise RuntimeError("shapes do\nnot match")


@pytest.mark.parametrize(
    ("predict", "sentence"),
    [
        (_breaks, "does not go through the model, which says: shapes do not match"),
        (np.sum, "must come out as one output a row, but 4 rows came out in the shape ()."),
        (lambda batch: batch[:2], "must come out as one output a row, but 4 rows came out in the shape (2, 3)."),
    ],
)
def test_a_model_that_does_not_answer_row_by_row_is_refused(predict: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        in_batches(predict, np.ones((5, 3)), batch_size=4)
    assert str(caught.value) == sentence
