"""Rows of numbers as a model takes them: its shape, its type of number, so many at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Predict = Callable[[Array], Array]
"""Outputs [N, ...] of inputs [N, ...]."""


def shaped(rows: Array, shape: Sequence[int]) -> Array:
    """Rows [N, ...] as [N, *shape]; -1 in `shape` stands for any length.

    Tables are folded and arrays flattened, but an array of other axes is not made to fit, except for those of length 1:
    pixels by place and channel are not pixels by channel and place.

    Raises:
        ValueError: if they do not fit, in one sentence that goes on from the rows' name.
    """
    given = rows.shape[1:]
    if len(given) == len(shape) and all(want in (-1, got) for want, got in zip(shape, given, strict=True)):
        return rows
    foldable = min(len(given), len(shape)) <= 1 or _long(given) == _long(shape)
    if -1 not in shape and foldable and math.prod(given) == math.prod(shape):
        return rows.reshape(len(rows), *shape)
    raise ValueError(f"must have rows of {_told(shape)}, which the model takes, but has rows of {_told(given)}.")


def _long(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _told(shape: Sequence[int]) -> str:
    if -1 in shape:
        return "shape " + " x ".join("any" if length == -1 else str(length) for length in shape)
    count = f"{math.prod(shape)} number{'s' if math.prod(shape) != 1 else ''}"
    return count if len(shape) < 2 else f"{count} ({' x '.join(map(str, shape))})"


def cast(rows: Array, dtype: str) -> Array:
    """The same numbers as another type: rounded to its precision, but never cut to a whole number or a truth value.

    Raises:
        ValueError: if a number is none of that type, in one sentence that goes on from the rows' name.
    """
    target = np.dtype(dtype)
    if target.kind not in "biuf":
        raise ValueError(f"must hold what the model takes, but that is {target}, and files hold numbers.")
    with np.errstate(over="ignore", invalid="ignore"):
        found = rows.astype(target, copy=False)
    wrong = ~np.isfinite(found) if target.kind == "f" else found != rows
    if wrong.any():
        row, *place = np.argwhere(wrong)[0].tolist()
        column = int(np.ravel_multi_index(place, rows.shape[1:])) + 1 if place else 1
        value = rows[(row, *place)]
        where = f"row {row + 1}, number {column}"
        raise ValueError(f"must hold numbers of the type {target}, which the model takes, but {where} is {value}.")
    return found


def in_batches(predict: Predict, rows: Array, *, batch_size: int) -> Array:
    """Outputs of all rows, computed `batch_size` rows at a time.

    Raises:
        ValueError: if the model cannot take the rows, or does not give an output for each.
    """
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        try:
            part = predict(batch)
        except Exception as error:  # A user's code may raise anything.
            said = " ".join(str(error).split())[:400] or type(error).__name__
            raise ValueError(f"does not go through the model, which says: {said}") from error
        if part.shape[:1] != batch.shape[:1]:
            raise ValueError(
                f"must come out as one output a row, but {len(batch)} rows came out in the shape {part.shape}."
            )
        parts.append(part)
    return np.concatenate(parts)
