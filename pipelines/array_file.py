"""Rows of numbers in a file, read and written: .npy, .csv and .parquet."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]


def read_rows(path: Path) -> Array:
    """Rows of finite numbers, shape [N, ...], N at least 1; a .csv or .parquet gives [N, columns].

    The first line of a .csv is a header where none of its cells is a number, or where they count 0, 1, 2, ... as pandas
    names columns that have no name (three or more).

    Raises:
        ValueError: what the file must be, in one sentence that goes on from its name.
    """
    read, _ = _format(path)
    if not path.is_file():
        raise ValueError("must be a file, but there is none.")
    try:
        rows = read(path)
    except (OSError, EOFError, MemoryError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}.") from error
    if rows.ndim == 0 or rows.size == 0:
        raise ValueError(f"must hold rows of numbers, but is empty (shape {rows.shape}).")
    return rows


def write_rows(path: Path, rows: Array) -> None:
    """Write outputs, shape [N, ...], whole or not at all; .csv and .parquet get the columns `output_0`, ..."""
    _, write = _format(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        write(temporary, rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_unknown(path: Path) -> None:
    """Raise ValueError where a file's name does not say which of the formats it is."""
    _format(path)


def _format(path: Path) -> tuple[Callable[[Path], Array], Callable[[Path, Array], None]]:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise ValueError(f"must end in .npy, .csv or .parquet, but ends in {path.suffix!r}.")
    return found


def _read_npy(path: Path) -> Array:
    with path.open("rb") as file:
        try:
            # Not `np.load`, which would take an archive or a pickle for what the name says.
            rows: Array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"cannot be read: {' '.join(str(error).split())}.") from error
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"must hold real numbers, but holds {rows.dtype}.")
    finite = np.isfinite(rows)
    if not finite.all():
        index = np.argwhere(~finite)[0]
        raise ValueError(f"must hold finite numbers, but has {rows[tuple(index)]} at {index.tolist()}.")
    return rows


def _write_npy(path: Path, rows: Array) -> None:
    with path.open("wb") as file:
        np.save(file, rows, allow_pickle=False)


def _read_csv(path: Path) -> Array:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next((cells for cells in csv.reader(file) if cells), [])
        if not _is_header(header):
            header = []
            file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*no data.*")
                rows = np.loadtxt(file, delimiter=",", ndmin=2, quotechar='"', comments=None)
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            raise ValueError(next(_mistakes(path, header), f"cannot be read: {error}.")) from error
    if rows.size and (not np.isfinite(rows).all() or len(header) not in (0, rows.shape[1])):
        raise ValueError(next(_mistakes(path, header)))
    return rows


def _is_header(cells: Sequence[str]) -> bool:
    counted = len(cells) > 2 and list(cells) == [str(number) for number in range(len(cells))]
    return counted or (any(cells) and not any(_number(cell) is not None for cell in cells))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _mistakes(path: Path, header: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong, by line: numpy counts its rows without blank lines and header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        rows = ((lines.line_num, cells) for cells in lines if cells)
        width = len(next(rows)[1]) if header else 0
        for line, cells in rows:
            width = width or len(cells)
            if len(cells) != width:
                yield f"must have {width} columns in every line, but has {len(cells)} in line {line}."
            for number, cell in enumerate(cells[:width]):
                value = _number(cell)
                if value is None or not np.isfinite(value):
                    name = f" (`{header[number]}`)" if header else ""
                    found = repr(cell) if cell.strip() else "nothing"
                    yield f"must hold finite numbers, but line {line}, column {number + 1}{name} holds {found}."


def _write_csv(path: Path, rows: Array) -> None:
    _table(rows).to_csv(path, index=False, na_rep="nan")


def _read_parquet(path: Path) -> Array:
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ValueError as error:  # what pyarrow raises for a damaged file
        raise ValueError(f"cannot be read: {' '.join(str(error).split())}.") from error
    for number, name in enumerate(frame.columns):
        column = frame.iloc[:, number]
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
            raise ValueError(f"must hold numbers, but column `{name}` holds values of the type {column.dtype}.")
        wrong = column.isna() | column.isin([np.inf, -np.inf])
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise ValueError(f"must hold finite numbers, but row {row + 1}, column `{name}` holds {column.iloc[row]}.")
    if frame.empty:
        return np.empty(frame.shape)
    return np.column_stack([frame.iloc[:, number].to_numpy() for number in range(frame.shape[1])])


def _write_parquet(path: Path, rows: Array) -> None:
    _table(rows).to_parquet(path, engine="pyarrow", index=False)


def _table(rows: Array) -> pd.DataFrame:
    flat = rows.reshape(len(rows), -1)
    return pd.DataFrame(flat, columns=[f"output_{number}" for number in range(flat.shape[1])])


FORMATS: dict[str, tuple[Callable[[Path], Array], Callable[[Path, Array], None]]] = {
    ".npy": (_read_npy, _write_npy),
    ".csv": (_read_csv, _write_csv),
    ".parquet": (_read_parquet, _write_parquet),
}
"""A file's ending: how it is read, and how it is written."""
