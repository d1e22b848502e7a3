"""The ledger: one SQLite file per study that holds what was asked, what came back, and what MLflow already has.

Every commit survives the death of the process (SQLite's write-ahead log); a power cut may take the last few. Values are
plain JSON; curves may hold NaN and infinities, which Python's `json` writes as `NaN` and `Infinity` and reads back.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tracking import ledger_file
from tracking.ledger_file import FILE, LedgerUnwritable, connect, encode, unreadable, unwritable

SEARCH_RUN = -1
"""In place of a trial's number: the run of the search itself, parent of all trials' runs."""

UNSENT = """
FROM trials LEFT JOIN runs ON runs.trial = trials.number
WHERE coalesce(runs.closed, 0) = 0 AND (trials.status != 'RUNNING' OR EXISTS (
    SELECT 1 FROM segments WHERE segments.trial = trials.number AND segments.to_step > coalesce(runs.points, -1)))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """How far a trial has got in MLflow."""

    run_id: str | None = None
    points: int = -1
    """Every evaluation up to this optimizer step is there; -1: none."""
    closed: bool = False
    """The trial has ended and all of it is there."""
    creating: bool = False
    """A run may have been made whose id was never learnt: look for its key before making another."""


class Note(NamedTuple):
    """An entry of the ledger's notes, with the version that tells whether MLflow has it."""

    key: str
    value: Any
    changed: float
    """Unix time of the last change."""
    version: int


class Ledger:
    """One connection to a study's ledger. It belongs to one thread; another thread opens its own."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, folder: Path, *, create: bool) -> Ledger:
        """The ledger in a study's folder.

        Raises:
            ValueError: if there is none and `create` is false, or if it is damaged, foreign or of a newer version.
        """
        path = Path(folder) / FILE
        if not path.exists():
            if not create:
                raise ValueError(f"there must be a ledger at {path}, but there is none. Run `regatta search` first.")
            ledger_file.create(path)
        return cls(path, connect(path))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this connection; closing twice is fine."""
        self._db.close()

    # -- what the search writes and reads

    def meta(self, key: str, default: Any = None) -> Any:
        """A note on the study as a whole."""
        rows = self._read("SELECT value FROM meta WHERE key = ?", (key,))
        return self._decode(rows[0][0]) if rows else default

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a note on the study as a whole; the same value again changes nothing."""
        statement = (
            "INSERT INTO meta (key, value, changed) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "value = excluded.value, changed = excluded.changed, version = version + 1 WHERE value != excluded.value"
        )
        with self._transaction():
            self._db.execute(statement, (key, encode(value), time.time()))

    def ask(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """Commit configurations (`TrialConfig.to_json()`) before anything runs: all of them or none."""
        now = time.time()
        rows = [(trial["number"], trial["cell"], trial["index"], encode(trial), now) for trial in trials]
        with self._transaction():
            self._db.executemany("INSERT INTO trials (number, cell, idx, config, asked) VALUES (?, ?, ?, ?, ?)", rows)

    def record(self, segment: Mapping[str, Any], result: Mapping[str, Any] | None = None) -> bool:
        """Commit a `SegmentResult` and, if it ended the trial, its `TrialResult`, together.

        The first result wins: false, and nothing is changed, if this stretch is there or the trial has ended.
        """
        values = (segment["trial"], segment["from_step"], segment["to_step"], encode(segment))
        with self._transaction():
            if not self._running(segment["trial"]):
                return False
            statement = "INSERT OR IGNORE INTO segments (trial, from_step, to_step, result) VALUES (?, ?, ?, ?)"
            if self._db.execute(statement, values).rowcount == 0:
                return False
            if result is not None:
                self._end(result)
            return True

    def finish(self, result: Mapping[str, Any]) -> bool:
        """End a trial whose last segment brought nothing back; false if it has ended already."""
        with self._transaction():
            if running := self._running(result["number"]):
                self._end(result)
            return running

    def revise(self, trial: Mapping[str, Any]) -> None:
        """Commit another configuration (`TrialConfig.to_json()`) of a trial that has no segment yet."""
        with self._transaction():
            self._db.execute("UPDATE trials SET config = ? WHERE number = ?", (encode(trial), trial["number"]))

    def restart(self, trial: int) -> None:
        """Forget the segments of a running trial: its checkpoint is lost, and it starts again."""
        with self._transaction():
            if self._running(trial):
                self._db.execute("DELETE FROM segments WHERE trial = ?", (trial,))

    def withdraw(self) -> bool:
        """Forget all trials if none has brought anything back yet, so that others can be asked; false if one has."""
        with self._transaction():
            ended = "SELECT EXISTS (SELECT 1 FROM segments) OR EXISTS (SELECT 1 FROM trials WHERE status != 'RUNNING')"
            if self._db.execute(ended).fetchone()[0]:
                return False
            self._db.execute("DELETE FROM trials")
            self._db.execute("DELETE FROM runs WHERE trial != ?", (SEARCH_RUN,))
            return True

    def trials(self) -> list[dict[str, Any]]:
        """All trials by number: number, cell, index, config, asked, status and result (None while it runs)."""
        return list(self._trials("ORDER BY number"))

    def trial(self, number: int) -> dict[str, Any]:
        """One trial, as in `trials()`."""
        return next(self._trials("WHERE number = ?", number))

    def segments(self, trial: int) -> list[dict[str, Any]]:
        """The `SegmentResult`s of one trial, in the order of their steps."""
        rows = self._read("SELECT result FROM segments WHERE trial = ? ORDER BY from_step", (trial,))
        return [self._decode(row[0]) for row in rows]

    def known_trials(self) -> set[int]:
        """Numbers of the trials of which there are segments or runs."""
        return {row[0] for row in self._read("SELECT trial FROM segments UNION SELECT trial FROM runs")}

    def unreadable(self, why: str) -> str:
        """The sentence that refuses this ledger."""
        return unreadable(self.path, why)

    def spent(self) -> tuple[int, float]:
        """Examples trained on, and seconds of workers, by all trials of the search; a verification does not count."""
        # Each member of an array has the seconds of the whole array.
        seconds = (
            "json_extract(s.result, '$.wall_seconds') / coalesce(json_extract(s.result, '$.tags.width') + 0.0, 1.0)"
        )
        examples = "json_extract(s.result, '$.examples')"
        (row,) = self._read(
            f"SELECT total({examples}), total({seconds}) FROM segments AS s JOIN trials ON trials.number = s.trial "
            "WHERE json_extract(trials.config, '$.phase') != 'confirm'"
        )
        return int(row[0]), float(row[1])

    def changes(self) -> int:
        """A number that differs from the last one if another connection has committed in between."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    # -- what the way to MLflow writes and reads

    def unsent(self) -> list[int]:
        """Numbers of the trials of which MLflow lacks something."""
        return [row[0] for row in self._read(f"SELECT trials.number {UNSENT} ORDER BY trials.number")]

    def unsent_count(self) -> int:
        """How many trials MLflow lacks something of."""
        return int(self._read(f"SELECT count(*) {UNSENT}")[0][0])

    def unsent_evaluations(self) -> int:
        """How many evaluations MLflow lacks.

        Their steps are counted in the text: to decode those of 10,000 trials would take the search's processor.
        """
        step = '"step":'
        row = self._db.execute(
            "SELECT sum((length(result) - length(replace(result, ?, ''))) / ?) FROM segments LEFT JOIN runs "
            "USING (trial) WHERE coalesce(closed, 0) = 0 AND to_step > coalesce(points, -1)",
            (step, len(step)),
        ).fetchone()
        return int(row[0] or 0)

    def run(self, trial: int) -> RunState:
        """How far a trial (or `SEARCH_RUN`) has got in MLflow."""
        rows = self._read("SELECT run_id, points, closed, creating FROM runs WHERE trial = ?", (trial,))
        run_id, points, closed, creating = rows[0] if rows else (None, -1, False, False)
        return RunState(run_id=run_id, points=points, closed=bool(closed), creating=bool(creating))

    def open_runs(self) -> dict[int, str]:
        """The runs of trials that have not ended, by the trial's number: their ids."""
        rows = self._read("SELECT trial, run_id FROM runs WHERE trial >= 0 AND closed = 0 AND run_id IS NOT NULL")
        return dict(sorted(rows))

    def save_run(self, trial: int, state: RunState) -> None:
        """Keep how far a trial (or `SEARCH_RUN`) has got in MLflow."""
        self.save_runs({trial: state})

    def save_runs(self, states: Mapping[int, RunState]) -> None:
        """The same for many trials, all of them or none."""
        rows = [(trial, state.run_id, state.points, state.closed, state.creating) for trial, state in states.items()]
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)", rows)

    def forget_runs(self) -> None:
        """Everything has to be sent again: what this MLflow store has of the study is unknown."""
        with self._transaction():
            self._db.execute("DELETE FROM runs")
            self._db.execute("INSERT INTO runs (trial, creating) SELECT number, 1 FROM trials")
            self._db.execute("UPDATE meta SET sent = 0")

    def unsent_notes(self) -> list[Note]:
        """Notes that have changed since MLflow was told."""
        rows = self._read("SELECT key, value, changed, version FROM meta WHERE sent < version AND typeof(key) = 'text'")
        return [Note(key, self._decode(value), changed, version) for key, value, changed, version in rows]

    def notes_sent(self, notes: Sequence[Note]) -> None:
        """MLflow has these versions of these notes."""
        with self._transaction():
            self._db.executemany("UPDATE meta SET sent = ? WHERE key = ?", [(note.version, note.key) for note in notes])

    # -- within

    def _running(self, trial: int) -> bool:
        row = self._db.execute("SELECT status FROM trials WHERE number = ?", (trial,)).fetchone()
        assert row is not None, f"trial {trial} was never asked"
        return bool(row[0] == "RUNNING")

    def _end(self, result: Mapping[str, Any]) -> None:
        values = (result["status"], encode(result), result["number"])
        self._db.execute("UPDATE trials SET status = ?, result = ? WHERE number = ?", values)

    def _trials(self, which: str, *values: int) -> Iterator[dict[str, Any]]:
        rows = self._read(f"SELECT number, cell, idx, config, asked, status, result FROM trials {which}", values)
        for number, cell, index, config, asked, status, result in rows:
            yield {
                "number": number,
                "cell": cell,
                "index": index,
                "config": self._decode(config),
                "asked": asked,
                "status": status,
                "result": None if result is None else self._decode(result),
            }

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query: a damaged page may show when it is read, and not before."""
        try:
            return self._db.execute(statement, values).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise ValueError(self.unreadable(str(error))) from error

    def _decode(self, text: Any) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(self.unreadable(f"an entry is not JSON: {error}")) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block's statements, or none of them."""
        try:
            # IMMEDIATE: two writers queue for the file at the start instead of one failing halfway.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise LedgerUnwritable(unwritable(self.path, error)) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise  # What was handed over breaks a rule of the tables; else a page is damaged.
            raise ValueError(self.unreadable(str(error))) from error
