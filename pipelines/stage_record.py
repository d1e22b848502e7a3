"""What each stage of `regatta all` had before it and left behind, kept with the study: whether it must run again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracking.place import write

FILE = "stages.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileState:
    """A file as a stage has left it."""

    size: int
    changed: int
    """Time of its last change, nanoseconds: where it and the size are the same, a large file need not be read."""
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A stage that has ended well."""

    at: float
    """Unix time of its end."""
    inputs: Mapping[str, Any]
    """What it depended on, as plain JSON values."""
    outputs: Mapping[str, FileState]
    """What it has left, by path in the study's folder."""


def read(folder: Path) -> dict[str, Done]:
    """The stages that have ended well, by name; none where their record is missing or damaged: all then run again."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {
            name: Done(
                at=float(one["at"]),
                inputs=dict(one["inputs"]),
                outputs={path: FileState(**state) for path, state in one["outputs"].items()},
            )
            for name, one in values.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def note(folder: Path, name: str, inputs: Mapping[str, Any], files: Iterable[str]) -> None:
    """Keep that a stage has ended well just now; of its files, those that there are."""
    states = {file: _state(folder / file) for file in files if (folder / file).is_file()}
    done = {**read(folder), name: Done(at=time.time(), inputs=inputs, outputs=states)}
    write(folder / FILE, json.dumps({name: asdict(one) for name, one in done.items()}, indent=1))


def altered(folder: Path, done: Done) -> Iterator[str]:
    """Yield a few words for every file that is not as the stage has left it."""
    for name, state in done.outputs.items():
        path = folder / name
        if not path.is_file():
            yield f"`{name}` is gone"
        elif not _is(path, state):
            yield f"`{name}` has changed"


def _is(path: Path, state: FileState) -> bool:
    found = path.stat()
    if found.st_size != state.size:
        return False
    return found.st_mtime_ns == state.changed or _digest(path) == state.sha256


def _state(path: Path) -> FileState:
    found = path.stat()
    return FileState(size=found.st_size, changed=found.st_mtime_ns, sha256=_digest(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
