"""Where things are kept: the state folder, and the folder of each study in it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from tracking.ledger_file import FILE


def home() -> Path:
    """The state folder: `REGATTA_HOME`, or `runs` in the current folder."""
    return Path(os.environ.get("REGATTA_HOME") or "runs").absolute()


def study_folder(study: str) -> Path:
    """The folder of a study, whether it exists or not."""
    return home() / study


def existing_study(study: str | Path | None) -> Path:
    """The folder of a study that has been searched, by its name or its folder; without either, the one searched last.

    A name goes before a folder of the same name.

    Raises:
        ValueError: if there is none.
    """
    studies = {path.parent.name: path for path in home().glob(f"*/{FILE}")}
    if study is not None and str(study) not in studies and _is_study(Path(study)):
        return Path(study).absolute()
    if not studies:
        raise ValueError(f"there must be a study in {home()}, but there is none yet. Run `regatta search` first.")
    if study is None:
        return max(studies.values(), key=_changed).parent
    if str(study) not in studies:
        raise ValueError(f"`study` must be one of {', '.join(sorted(studies))}, but got {str(study)!r}.")
    return studies[str(study)].parent


def _is_study(folder: Path) -> bool:
    try:
        return (folder / FILE).is_file()
    except OSError:  # A name longer than any file's, or a folder closed to us.
        return False


def _changed(ledger: Path) -> float:
    """Unix time of the last commit; while a search runs, or once it was killed, only the write-ahead log tells."""
    states = [ledger.stat()]
    with suppress(FileNotFoundError):  # It goes with the last connection.
        states.append(ledger.with_name(f"{FILE}-wal").stat())
    # An empty log is one that a mere reader has made.
    return max((state.st_mtime for state in states if state.st_size), default=0.0)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
