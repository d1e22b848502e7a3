"""A ledger's file: made whole, looked over when it is opened, and locked by the one process that drives its study."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

FILE = "study.db"
SCHEMA_VERSION = 1
PAGE = 4096
"""Bytes in a page of the file."""
BUSY_SECONDS = 30.0
"""How long a commit waits for another connection's."""
NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_WRITE")
"""Names of SQLite's errors where the files beside the ledger, which reading needs too, find no room."""
CLOSED = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")
"""How names of its errors begin where the system does not let us at the ledger."""

SCHEMA = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, changed REAL NOT NULL,
    version INTEGER NOT NULL DEFAULT 1, sent INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE trials (
    number INTEGER PRIMARY KEY, cell TEXT NOT NULL, idx INTEGER NOT NULL, config TEXT NOT NULL, asked REAL NOT NULL,
    status TEXT NOT NULL DEFAULT 'RUNNING', result TEXT, UNIQUE (cell, idx)
);
CREATE INDEX trials_by_status ON trials (status);
CREATE TABLE segments (
    trial INTEGER NOT NULL REFERENCES trials (number), from_step INTEGER NOT NULL, to_step INTEGER NOT NULL,
    result TEXT NOT NULL, UNIQUE (trial, from_step)
);
CREATE TABLE runs (
    trial INTEGER PRIMARY KEY, run_id TEXT, points INTEGER NOT NULL DEFAULT -1,
    closed INTEGER NOT NULL DEFAULT 0, creating INTEGER NOT NULL DEFAULT 0
);
"""

COLUMNS = {
    "meta": {"key", "value", "changed", "version", "sent"},
    "trials": {"number", "cell", "idx", "config", "asked", "status", "result"},
    "segments": {"trial", "from_step", "to_step", "result"},
    "runs": {"trial", "run_id", "points", "closed", "creating"},
}


class LedgerUnwritable(OSError):
    """The system did not let the ledger be written; what was committed before is safe."""


@contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Be the only driver of a study. The lock goes with the process, however that ends.

    Raises:
        ValueError: if another driver has it, with its process id and host, or if the folder cannot be written.
    """
    path = Path(folder) / "driver.lock"
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{_holder(path)} is running this study. Wait until it has ended, or stop it first."
            raise ValueError(message) from error
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "time": time.strftime("%F %T")}, file)
        file.flush()
        yield


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ValueError(closed(path.parent, error.strerror or str(error))) from error


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} (since {holder['time']})"
    except (ValueError, KeyError, TypeError):
        return "another process"  # it has the lock, but has not written its name yet


def create(path: Path) -> None:
    """Make an empty ledger elsewhere and move it into place: a file that is there is a whole ledger, or damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
            origin = {"id": uuid.uuid4().hex, "created": time.time()}
            rows = [(key, encode(value), time.time()) for key, value in origin.items()]
            connection.executemany("INSERT INTO meta (key, value, changed) VALUES (?, ?, ?)", rows)
        finally:
            connection.close()
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a ledger that has been looked over (`quick_check` reads every page once: 0.1 s for 100 MB)."""
    size, log = path.stat().st_size, path.with_name(f"{path.name}-wal")
    # SQLite fills up a page that is cut short; only a write-ahead log that is still to be replayed accounts for one.
    if size == 0 or (size % PAGE and not (log.exists() and log.stat().st_size)):
        raise ValueError(unreadable(path, f"it ends after {size} bytes"))
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise ValueError(closed(path.parent, str(error))) from error
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"the ledger {path} must be of version {SCHEMA_VERSION} at most, but it is of version {version}. "
                "Update Regatta to continue this study."
            )
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok" or version < SCHEMA_VERSION:
            raise ValueError(unreadable(path, verdict if verdict != "ok" else "it is not a ledger of Regatta"))
        _refuse_other_tables(path, connection)
        connection.execute("PRAGMA foreign_keys = ON")
        # In WAL mode a commit survives the process without a flush to the disk for each.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException as error:
        connection.close()
        if (told := _told(path, error)) is not None:
            raise told from error
        raise
    return connection


def _told(path: Path, error: BaseException) -> Exception | None:
    """What SQLite's error comes to; None if it is none of SQLite's."""
    # Text that is no UTF-8 is told without a name of the error.
    name = getattr(error, "sqlite_errorname", "") if isinstance(error, sqlite3.Error) else ""
    if name in NO_ROOM:
        return LedgerUnwritable(unwritable(path, error))
    if name.startswith(CLOSED):
        return ValueError(closed(path.parent, str(error)))
    found = isinstance(error, sqlite3.DatabaseError | UnicodeDecodeError)
    return ValueError(unreadable(path, str(error))) if found else None


def _refuse_other_tables(path: Path, connection: sqlite3.Connection) -> None:
    for table, columns in COLUMNS.items():
        lacking = columns - {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if lacking:
            raise ValueError(unreadable(path, f"its table `{table}` lacks {', '.join(sorted(lacking))}"))


def unwritable(path: Path, why: BaseException) -> str:
    """One sentence, with what to do."""
    remedy = "What was committed is safe: see to the disk, then run the same command again."
    return f"the ledger {path} cannot be written ({why}). {remedy}"


def closed(folder: Path, why: str) -> str:
    """One sentence, with what to do."""
    remedy = "Get the right to write there, or copy it into a state folder of your own (REGATTA_HOME)."
    return f"the study's folder {folder} must be writable, even to be read, but is not: {why}. {remedy}"


def unreadable(path: Path, why: str) -> str:
    """One sentence, with what to do."""
    remedy = "Restore it from a copy, or move the study's folder away to start anew."
    return f"the ledger {path} cannot be read ({' '.join(why.split())}). {remedy}"


def encode(value: Any) -> str:
    """A value as the ledger keeps it."""
    return json.dumps(value, separators=(",", ":"))
