"""A damaged ledger is refused in a sentence, or what it holds is used: never a traceback, never a silent new start."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fuzzing import BASE, edited, examples, is_sentence, wounded, written
from hypothesis import given
from hypothesis import strategies as st
from tracking_rows import segment

from pipelines.recipe import from_yaml_text
from pipelines.session import opened, space_of
from pipelines.stages import REPORT, SEARCH
from pipelines.studies import ledger_of, recipe_of
from search.objectives import study_of
from search.race import Race
from search.records import NEVER_NULL
from search.resuming import restore
from search.trial import recorded, summarise
from search.verification import Verification
from tracking.analysis.data import load
from tracking.analysis.study import analyse
from tracking.ledger import SEARCH_RUN, RunState
from tracking.ledger_file import COLUMNS, FILE
from tracking.memory_runs import MemoryWriter
from tracking.place import study_folder
from tracking.sending import push
from tracking.tables import write_tables

RECIPE = from_yaml_text(
    written({**BASE, "tracking": {"mlflow": False}, "search": {"batch_sizes": [64], "trials": 3, "refine": 0}}),
    "r.yaml",
)
ENDED = 3
"""Trials of the sound study that have their result; one more is under way."""
NOTES = {
    "origin": {"code": {}, "fingerprint": None, "lightning": "pytorch_lightning", "drop_last": False, "hardware": {}},
    "probes": {"steps": {"64-sgd": 0.01}},
}
FOREIGN = ("", "SQLite format 3\0", "PK\3\4", "not a database")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a study with trials that have ended, and one under way."""
    folder = tmp_path_factory.mktemp("sound") / RECIPE.study_name
    study = study_of(space_of(RECIPE))
    with opened(RECIPE, folder) as ledger:
        for name, value in NOTES.items():
            ledger.set_meta(name, value)
        while (trial := study.ask()) is not None:
            ledger.ask([trial.to_json()])
            first, last = segment(trial.number, 0, 40, status="PAUSED"), segment(trial.number, 40, 60)
            ledger.record(first.to_json())
            if trial.number < ENDED:
                ledger.record(last.to_json(), summarise(trial.number, [first, last], RECIPE.metrics).to_json())
            ledger.save_run(trial.number, RunState(run_id=f"{trial.number}", points=20))
        ledger.save_run(SEARCH_RUN, RunState(run_id="search"))
    return folder / FILE


# Damage


@st.composite
def files(draw: st.DrawFn) -> Callable[[Path], None]:
    """Damage to the file as such, or to the log beside it."""
    kind = draw(st.sampled_from(("wound", "wound", "wound", "page", "cut", "log", "foreign")))
    where, junk_bytes = draw(st.integers(0, 200)), draw(st.binary(min_size=1, max_size=100))
    flips = draw(st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=20))

    def damage(path: Path) -> None:
        content = path.read_bytes()
        if kind == "wound":
            for at, flip in flips:
                content = wounded(content, "flip", at % len(content), bytes([flip]))
        elif kind == "page":
            at = 4096 * (where % (len(content) // 4096))
            content = content[:at] + bytes(4096) + content[at + 4096 :]
        elif kind == "cut":
            content = content[: len(content) * where // 200]
        elif kind == "foreign":
            content = FOREIGN[where % len(FOREIGN)].encode()
        else:
            path.with_name(f"{FILE}-wal").write_bytes(40 * junk_bytes)
        path.write_bytes(bytes(content))

    return damage


@st.composite
def statements(draw: st.DrawFn) -> Callable[[Path], None]:
    """One change by SQL: a row, a table, the version; or a value within the JSON of an entry."""
    table = draw(st.sampled_from(sorted(COLUMNS)))
    column = draw(st.sampled_from(sorted(COLUMNS[table])))
    row, value = (
        draw(st.integers(0, 8)),
        draw(st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=5), st.binary())),
    )
    edit, version = draw(edited()), draw(st.sampled_from((-1, 0, 2, 99)))
    kind = draw(st.sampled_from(("set", "json", "json", "json", "json", "delete", "drop", "rename", "version")))

    def damage(path: Path) -> None:
        database = sqlite3.connect(path, isolation_level=None)
        with contextlib.closing(database), contextlib.suppress(sqlite3.IntegrityError):
            rows = [one[0] for one in database.execute(f"SELECT rowid FROM {table}")]
            at = rows[row % len(rows)]
            if kind == "set":
                database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, at))
            elif kind == "delete":
                database.execute(f"DELETE FROM {table} WHERE rowid = ?", (at,))
            elif kind == "drop":
                database.execute(f"DROP TABLE {table}")
            elif kind == "rename":
                database.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
            elif kind == "version":
                database.execute(f"PRAGMA user_version = {version}")
            else:
                _edit(database, table, at, edit)

    return damage


def _edit(database: sqlite3.Connection, table: str, row: int, edit: Callable[[Any], Any]) -> None:
    """Change something within the JSON of a row."""
    column = {"meta": "value", "trials": "config" if row % 2 else "result", "segments": "result"}.get(table)
    if column is not None:
        (text,) = database.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()
        changed = json.dumps(edit(json.loads(text))) if text is not None else "{"
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (changed, row))


# What reads a ledger


def search(folder: Path) -> None:
    study = study_of(space_of(RECIPE))
    with opened(RECIPE, folder) as ledger:
        before = sum(row["status"] == "COMPLETE" for row in ledger.trials())
        race = Race(study, ledger, str(folder / "checkpoints"))
        restore(race)
        assert before == ENDED, "a study that has lost trials is refused, not gone on with"
        assert study.ask() is None or study.planned > ENDED


def verify(folder: Path) -> None:
    study = study_of(space_of(RECIPE))
    with ledger_of(folder) as ledger:
        study.restore(recorded(ledger.trials()))
        restore(Race(Verification(study, top=1, seeds=2), ledger, str(folder / "verification")))


def report(folder: Path) -> None:
    with ledger_of(folder) as ledger:
        analyse(load(folder))
        recipe_of(ledger)


def sync(folder: Path) -> None:
    with ledger_of(folder) as ledger:
        recipe_of(ledger)
        push(ledger, MemoryWriter())


def tables(folder: Path) -> None:
    with ledger_of(folder):
        write_tables(folder)


def stages(folder: Path) -> None:
    SEARCH.why(folder, {}, None)
    REPORT.inputs(RECIPE, folder)


READERS: Mapping[str, Callable[[Path], None]] = {
    "search": search,
    "report": report,
    "sync": sync,
    "export": tables,
    "verify": verify,
    "all": stages,
}


def check(sound: Path, damage: Callable[[Path], None], reader: str) -> None:
    """Damage a copy of the sound ledger, and read it."""
    folder = study_folder(RECIPE.study_name)
    folder.mkdir(parents=True)
    try:
        shutil.copyfile(sound, folder / FILE)
        damage(folder / FILE)
        READERS[reader](folder)
    except ValueError as error:
        assert all(is_sentence(f"regatta: {line}") for line in str(error).splitlines()), error
    finally:
        shutil.rmtree(folder)


DAMAGE = st.one_of(files(), statements(), statements())


@examples(30)
@given(damage=DAMAGE, reader=st.sampled_from(sorted(READERS)))
def test_a_damaged_ledger_is_refused_or_used(sound: Path, damage: Callable[[Path], None], reader: str) -> None:
    check(sound, damage, reader)


@pytest.mark.slow
@examples(450)
@given(damage=DAMAGE, reader=st.sampled_from(sorted(READERS)))
def test_any_of_many_damaged_ledgers_is_refused_or_used(
    sound: Path, damage: Callable[[Path], None], reader: str
) -> None:
    check(sound, damage, reader)


@pytest.mark.parametrize("name", NEVER_NULL)
def test_a_note_that_was_emptied_is_refused(sound: Path, name: str) -> None:
    folder = study_folder(RECIPE.study_name)
    folder.mkdir(parents=True)
    shutil.copyfile(sound, folder / FILE)
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as database:
        database.execute("INSERT OR REPLACE INTO meta (key, value, changed) VALUES (?, 'null', 1.0)", (name,))
    with pytest.raises(ValueError, match=f"its note `{name}` is damaged"):
        sync(folder)


@pytest.mark.parametrize("reader", READERS)
def test_a_sound_ledger_is_used(sound: Path, reader: str) -> None:
    """Or else every damaged one could be refused for something that none has."""
    folder = study_folder(RECIPE.study_name)
    folder.mkdir(parents=True)
    shutil.copyfile(sound, folder / FILE)
    READERS[reader](folder)
