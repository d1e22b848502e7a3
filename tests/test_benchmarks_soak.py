"""The soak's books: every loss, double or changed bit is found, and nothing is found where all is well."""

from __future__ import annotations

import dataclasses
import importlib
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tracking_rows import segment, study
from tracking_stores import QUIET, mlflow_home, open_mlflow

from tracking.sending import push

# As `python benchmarks/soak.py` finds itself and what lies beside it.
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
accounts: Any = importlib.import_module("soak_accounts")
faults: Any = importlib.import_module("soak_faults")

pytestmark = QUIET
Damage = Callable[[sqlite3.Connection, list[str]], None]


def statement(text: str) -> Damage:
    """A change to the first of a study's runs in MLflow."""

    def damage(connection: sqlite3.Connection, runs: list[str]) -> None:
        connection.execute(text, (runs[0],))

    return damage


def doubled(connection: sqlite3.Connection, runs: list[str]) -> None:
    """The second run is one more of the first one's trial."""
    key = "(SELECT value FROM tags WHERE run_uuid = ? AND key = 'regatta.key')"
    connection.execute(f"UPDATE tags SET value = {key} WHERE run_uuid = ? AND key = 'regatta.key'", runs[:2])


DAMAGES = [
    (statement("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?"), "MLflow has the run of 0 as RUNNING"),
    (statement("DELETE FROM tags WHERE run_uuid = ?"), "0 has a run in MLflow or an end in the ledger, but not both"),
    (statement("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?"), "0 has a run in MLflow or an end"),
    (statement("DELETE FROM metrics WHERE run_uuid = ? AND step = 20"), "0 points too many and lacks 8"),
    (
        statement(
            "INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics "
            "WHERE run_uuid = ? AND key = 'validation/loss' AND step = 40"
        ),
        "1 points too many and lacks 0",
    ),
    (
        statement("UPDATE metrics SET value = value * (1 + 3e-16) WHERE run_uuid = ? AND key = 'train/loss'"),
        "3 points too many and lacks 3",
    ),
    (doubled, "MLflow has 2 runs of 0"),
]


@pytest.mark.parametrize(("damage", "line"), DAMAGES, ids=[line for _, line in DAMAGES])
def test_whatever_mlflow_lacks_or_has_twice_is_found(
    damage: Damage, line: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with study(tmp_path, 2) as ledger:
        ledger.set_meta("experiment", tmp_path.name)
        ledger.set_meta("status", "FINISHED")
        push(ledger, open_mlflow(tmp_path_factory))
        runs = [ledger.run(number).run_id or "" for number in (0, 1)]
    kept, database = accounts.books(tmp_path), mlflow_home(tmp_path_factory) / "mlflow.db"
    assert list(accounts.mistakes(kept, kept, accounts.store(database, kept.key))) == []
    with closing(sqlite3.connect(database)) as connection, connection:
        damage(connection, runs)
    found = list(accounts.mistakes(kept, kept, accounts.store(database, kept.key)))
    assert any(line in told for told in found), found


def books(company: dict[int, int], *, factor: float = 1.0) -> Any:
    """Three trials of one segment each, by the array that they are in; the last has a loss of its own."""
    trials = {}
    for number in range(3):
        part = dataclasses.replace(segment(number), started=float(company[number]))
        (*before, last) = part.curve
        values = {**last, "val_loss": last["val_loss"] * (factor if number == 2 else 1.0)}
        rows = [dataclasses.replace(part, curve=[*before, values]).to_json()]
        config = {"train": {"optimizer": "sgd", "schedule": "cosine", "objective": "val_loss", "direction": "min"}}
        trials["b32-sgd-cosine", number] = {"segments": rows, "config": config}
    return accounts.Books(trials=trials, key="")


TOGETHER, APART = {0: 7, 1: 8, 2: 8}, {0: 7, 1: 8, 2: 9}


@pytest.mark.parametrize(
    ("now", "factor", "compared", "wrong"),
    [
        (TOGETHER, 1.0, {"alone": 1, "the same arrays": 2}, 0),
        (TOGETHER, 1 + 3e-16, {"alone": 1, "the same arrays": 2}, 1),
        (APART, 1.0, {"alone": 1, "otherwise": 2}, 0),
        (APART, 1 + 3e-16, {"alone": 1, "otherwise": 2}, 0),
        (APART, 0.0, {"alone": 1, "otherwise": 2}, 1),
    ],
)
def test_a_curve_is_held_to_the_bit_unless_its_company_was_another(
    now: dict[int, int], factor: float, compared: dict[str, int], wrong: int
) -> None:
    curves = accounts.compared(books(now, factor=factor), books(TOGETHER))
    assert dict(curves.compared) == compared
    assert len(curves.mistakes) == wrong, curves.mistakes
    assert curves.equal.total() == (3 if factor == 1.0 else 2)


def test_a_plan_is_of_its_seed_has_every_kind_and_lies_within_the_search() -> None:
    planned = faults.plan(3, kills=40, trials=200)
    assert planned == faults.plan(3, kills=40, trials=200) != faults.plan(4, kills=40, trials=200)
    assert len(planned) == 40 and {fault.kind for fault in planned} == set(faults.KINDS)
    moments = [fault.after for fault in planned]
    assert moments == sorted(moments) and min(moments) >= 0 and max(moments) <= 200
