"""The state folder and the ledgers in it, looked at without changing them.

Each function returns what it found in a few words, or raises ValueError: what must be, what is, and the remedy.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tracking.ledger_file import FILE, SCHEMA_VERSION

SECONDS = 3.0
"""How long another may keep a database to itself."""
READ_WHOLE = 200 << 20
"""Bytes of a database up to which every page is read."""
ANOTHER = "Set REGATTA_HOME to a folder on a local disk that you may write to."


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def state_folder(home: Path) -> str:
    """Write, flush, rename, lock, and keep a database with a write-ahead log there, as a search does."""
    place = existing(home)
    if not place.is_dir():
        raise ValueError(f"the state folder must be a folder, but {place} is a file. Remove it, or set REGATTA_HOME.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".doctor.", dir=place))
    except OSError as error:
        raise ValueError(f"the state folder {home} must be writable, but: {error.strerror}. {ANOTHER}") from error
    try:
        _write(folder)
        _lock(folder)
        _keep_database(folder / "a.db")
    except (OSError, sqlite3.Error) as error:
        raise ValueError(
            f"the state folder {home} must take files, locks and SQLite's write-ahead log, but does not: {error}. "
            f"Network folders often do not. {ANOTHER}"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"{home}{'' if home.is_dir() else ' (made by the first search)'}: takes files, locks and databases"


def _write(folder: Path) -> None:
    with (folder / "a").open("wb") as file:
        file.write(b"a")
        file.flush()
        os.fsync(file.fileno())
    (folder / "a").replace(folder / "b")


def _lock(folder: Path) -> None:
    with (folder / "b").open() as one, (folder / "b").open() as other:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise OSError("a lock was given to two at the same time")


def _keep_database(path: Path) -> None:
    with (
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as one,
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other,
    ):
        if one.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("SQLite refuses the write-ahead log")
        one.execute("CREATE TABLE a (b)")
        one.execute("BEGIN IMMEDIATE")
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return
    raise sqlite3.OperationalError("two may write to a database at the same time")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A database that is read, and not even tidied up: the time of its last change says which study was last."""
    log = path.with_name(f"{path.name}-wal")
    # Without a log nobody writes to it, and SQLite would make one to read it.
    mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    size = path.stat().st_size
    if size == 0 or (size % 512 and mode == "immutable=1"):
        raise sqlite3.DatabaseError(f"it ends after {size} bytes")
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=SECONDS)) as connection:
        if size <= READ_WHOLE:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        yield connection


def ledger(folder: Path) -> str:
    """The ledger of a study: whether it can be read, and who has it."""
    path = folder / FILE
    try:
        with reading(path) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise ValueError(
                    f"the ledger {path} must be of version {SCHEMA_VERSION} at most, but is of {version}. "
                    "Update Regatta."
                )
            trials = connection.execute("SELECT count(*) FROM trials").fetchone()[0]
            row = connection.execute("SELECT value FROM meta WHERE key = 'status'").fetchone()
    except (sqlite3.Error, OSError) as error:
        raise ValueError(
            f"the ledger {path} cannot be read ({error}). Restore it from a copy, or move the study's folder away."
        ) from error
    found = f"{folder.name}: {trials} trial{'s' if trials != 1 else ''}"
    if holder := _holder(folder / "driver.lock"):
        return f"{found}, running: {holder}"
    killed = row is not None and json.loads(row[0]) == "RUNNING"
    return f"{found}, its search was killed: the same command goes on" if killed else found


def _holder(path: Path) -> str:
    """Who has a study's lock; empty where nobody has."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8") as file:
        try:
            # Shared and for a moment only, so that it is seldom in the way of a search that starts just now.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(file.read())
    return ""


def _named(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['time']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
