"""A study as data frames: the rows of its folder, typed, and evaluations that know what their trial was asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tracking_rows import point, result, segment, trial

from search.trial import TrialResult
from tracking import rows as study_rows
from tracking.ledger import Ledger
from tracking.query import curves, trials
from tracking.tables import write_tables

ALONE = {"tier": "array", "time_mode": "steps x step time alone"}
TOGETHER = {"tier": "array", "time_mode": "array"}
MEASURED = {"tier": "solo", "time_mode": "measured"}


@pytest.fixture
def folder(regatta_home: Path) -> Path:
    """A study: trial 0 in an array and timed alone, 1 in an array, 2 alone, 3 runs, 4 never measured anything."""
    with Ledger.open(regatta_home / "small", create=True) as ledger:
        ledger.ask([trial(number) for number in range(5)])
        for number, tags in enumerate((ALONE, TOGETHER, MEASURED)):
            done = replace(segment(number, curve=[point(20), point(60, batch_size=64)]), tags=tags)
            seconds = {"seconds": 1.5} if tags is ALONE else {}
            ledger.record(done.to_json(), {**result([done]), **seconds})
        ledger.record(segment(3, 0, 20, status="PAUSED").to_json())
        ledger.finish(TrialResult(number=4, status="OOM").to_json())
    return regatta_home / "small"


def test_trials_are_the_rows_of_the_folder(folder: Path) -> None:
    frame, rows = trials(folder), study_rows.trials(folder)
    assert list(frame["number"]) == [0, 1, 2, 3, 4]
    for name in {name for row in rows for name in row}:
        for value, row in zip(frame[name], rows, strict=True):
            expected = row.get(name)
            assert value == expected or (pd.isna(value) and expected is None), name


def test_trials_have_the_columns_of_the_table(folder: Path) -> None:
    assert set(trials(folder).columns) == set(pd.read_csv(write_tables(folder)[0]).columns)


def test_curves_are_the_rows_of_the_folder_with_the_trials_grid(folder: Path) -> None:
    frame, rows = curves(folder), study_rows.curves(folder)
    for name in ("trial", "step", "examples", "epoch", "seconds", "learning_rate", "val_loss", "val_accuracy"):
        assert list(frame[name]) == [row[name] for row in rows], name
    first = frame.iloc[0]
    assert (first["cell"], first["optimizer"], first["schedule"]) == ("b32-sgd-cosine", "sgd", "cosine")
    assert set(frame["batch_size"]) == {32}
    assert list(frame["current_batch_size"][:2]) == [32, 64]
    assert list(frame["peak_learning_rate"].unique()) == [0.1, 0.1 / 2, 0.1 / 3, 0.1 / 4]
    assert list(frame["status"][-1:]) == ["RUNNING"]


def test_seconds_alone_are_those_of_one_trial_or_not_given(folder: Path) -> None:
    found = curves(folder).groupby("trial")["seconds_alone"]
    assert found.apply(list)[0] == [0.5, 1.5]
    assert found.apply(list)[2] == [2.0, 6.0]
    assert found.count().to_dict() == {0: 2, 1: 0, 2: 2, 3: 0}


@pytest.mark.parametrize("read", [trials, curves])
@pytest.mark.parametrize("empty", [False, True])
def test_types_do_not_depend_on_what_has_been_measured(
    folder: Path, tmp_path: Path, read: Callable[[Path], pd.DataFrame], empty: bool
) -> None:
    Ledger.open(tmp_path / "empty", create=True).close()
    types = read(tmp_path / "empty" if empty else folder).dtypes
    for name in {"number", "trial", "batch_size", "step"} & set(types.index):
        assert types[name] == "int64", name
    for name in {"value", "steps", "seconds", "steps_to_target", "learning_rate", "width"} & set(types.index):
        assert types[name] == "float64", name
    for name in {"cell", "status", "phase", "optimizer", "schedule"}:
        assert isinstance(types[name], pd.CategoricalDtype), name


def test_cells_stand_in_the_order_of_their_trials(regatta_home: Path) -> None:
    with Ledger.open(regatta_home / "order", create=True) as ledger:
        ledger.ask([{**trial(number), "cell": cell} for number, cell in enumerate(("b8", "b16", "b128"))])
    assert list(trials("order").sort_values("cell", ascending=False)["cell"]) == ["b128", "b16", "b8"]


def test_a_study_is_named_or_the_last_one(folder: Path) -> None:
    assert trials().equals(trials("small")) and trials().equals(trials(folder))
    with pytest.raises(ValueError, match="`study` must be one of small, but got 'smal'"):
        curves("smal")


def test_plain_rows_and_tables_do_without_pandas() -> None:
    script = "import sys, tracking.place, tracking.rows, tracking.sync, tracking.tables; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
