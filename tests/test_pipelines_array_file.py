"""Files of rows: what is read from them, what is refused and how it is told, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.array_file import Array, read_rows, write_rows

TABLE = [[1.0, 2.5, -3.0], [4.0, 5e-3, 6.0]]
PLAIN = "1,2.5,-3\n4,5e-3,6\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"a,b,c\n{PLAIN}",
        f'"a, b","c",""\n{PLAIN}',
        f"0,1,2\n{PLAIN}",
        f"\ufeffa,b,c\n{PLAIN}",
        f"\n{PLAIN.replace(chr(10), chr(13) + chr(10))}\n\n",
        ' 1 ,2.5,"-3"\n4,5e-3,6',
    ],
    ids=["plain", "header", "quoted header", "pandas' own header", "byte order mark", "blank lines", "quotes"],
)
def test_a_csv_is_read_with_or_without_a_header(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    assert read_rows(tmp_path / "x.csv").tolist() == TABLE


def test_two_columns_of_0_and_1_are_numbers_and_not_a_header(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("0,1\n1,0\n")
    assert read_rows(tmp_path / "x.csv").tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must hold rows of numbers, but is empty"),
        ("a,b\n", "must hold rows of numbers, but is empty"),
        ("1,2\n3,x\n", "but line 2, column 2 holds 'x'."),
        ("a,b\n\n1,2\n3,\n", "but line 4, column 2 (`b`) holds nothing."),
        ("1,2\n3,nan\n", "but line 2, column 2 holds 'nan'."),
        ("1,inf\n", "but line 1, column 2 holds 'inf'."),
        ("1,two\n3,4\n", "but line 1, column 2 holds 'two'."),
        ("1,2\n3,4,5\n", "must have 2 columns in every line, but has 3 in line 2."),
        ("a,b,c\n1,2\n3,4\n", "must have 3 columns in every line, but has 2 in line 2."),
        ("1;2\n3;4\n", "but line 2, column 1 (`1;2`) holds '3;4'."),
        ("1_000,2\n", "could not convert string '1_000' to float64"),
    ],
)
def test_a_wrong_cell_of_a_csv_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert sentence in refusal(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"a": [1, 2], "b": ["x", "y"]}, "must hold numbers, but column `b` holds values of the type str."),
        ({"a": [1.0, None]}, "but row 2, column `a` holds nan."),
        ({"a": pd.array([1, None], dtype="Int64")}, "but row 2, column `a` holds <NA>."),
        ({"a": [1.0, 2.0], "b": [np.inf, 1.0]}, "but row 1, column `b` holds inf."),
        ({"a": []}, "is empty"),
        ({}, "is empty"),
    ],
)
def test_a_wrong_value_of_a_parquet_file_is_named(tmp_path: Path, columns: dict[str, Any], sentence: str) -> None:
    pd.DataFrame(columns).to_parquet(tmp_path / "x.parquet")
    assert sentence in refusal(tmp_path / "x.parquet")


def test_a_parquet_file_keeps_its_numbers_whatever_its_index(tmp_path: Path) -> None:
    frame = pd.DataFrame(TABLE, index=["one", "two"], columns=["a", "b", "c"]).astype({"a": "int64"})
    frame.to_parquet(tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet").tolist() == TABLE


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.array([["a"]]), "must hold real numbers, but holds <U1."),
        (np.array([1j]), "must hold real numbers, but holds complex128."),
        (np.array([[1.0, np.nan]]), "must hold finite numbers, but has nan at [0, 1]."),
        (np.array([{}]), "Object arrays cannot be loaded"),
        (np.array(1.0), "is empty (shape ())."),
        (np.empty((0, 3)), "is empty (shape (0, 3))."),
    ],
)
def test_an_array_without_rows_of_finite_numbers_is_refused(tmp_path: Path, array: Array, sentence: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    assert sentence in refusal(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_a_file_that_is_something_else_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"\xff\xfe\x00PK\x03\x04")
    assert refusal(path).startswith("cannot be read: ")


def test_a_cut_array_cannot_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((10, 10)))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-8])
    assert refusal(tmp_path / "x.npy").startswith("cannot be read: ")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x.csv", "must be a file, but there is none."),
        ("x.xlsx", "must end in .npy, .csv or .parquet, but ends in '.xlsx'."),
        ("x", "must end in .npy, .csv or .parquet, but ends in ''."),
    ],
)
def test_a_file_that_is_not_there_or_of_an_unknown_kind_is_refused(tmp_path: Path, name: str, sentence: str) -> None:
    assert refusal(tmp_path / name) == sentence


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.PARQUET"])
def test_what_is_written_is_read_again_to_the_bit(tmp_path: Path, name: str) -> None:
    outputs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    write_rows(tmp_path / name, outputs)
    assert (read_rows(tmp_path / name).astype(np.float32) == outputs).all()
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_tables_have_a_column_for_every_number_of_an_output_and_arrays_their_shape(tmp_path: Path) -> None:
    outputs = np.arange(8.0).reshape(2, 2, 2)
    for suffix in ("npy", "csv", "parquet"):
        write_rows(tmp_path / f"x.{suffix}", outputs)
    assert np.load(tmp_path / "x.npy").shape == (2, 2, 2)
    assert (tmp_path / "x.csv").read_text().splitlines() == [
        "output_0,output_1,output_2,output_3",
        "0.0,1.0,2.0,3.0",
        "4.0,5.0,6.0,7.0",
    ]
    assert list(pd.read_parquet(tmp_path / "x.parquet")) == ["output_0", "output_1", "output_2", "output_3"]


def test_an_output_that_is_no_number_is_written_as_nan(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.csv", np.array([np.nan, 1.0]))
    assert (tmp_path / "x.csv").read_text() == "output_0\nnan\n1.0\n"


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("before")
    with pytest.raises(Exception, match="complex"):
        write_rows(tmp_path / "x.parquet", np.array([1j]))
    assert (tmp_path / "x.parquet").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1
