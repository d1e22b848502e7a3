"""Files of a study's folder that MLflow gets as artifacts of the search's own run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from tracking.ledger import Ledger, Note
from tracking.place import write
from tracking.rows import EXPECTED

ARTIFACT = "artifact:"
"""Notes whose key begins so name a file, relative to the study's folder; their value is its digest."""
MEASURED = "notes.json"
"""What was noted of a study besides its trials, for a report from MLflow alone."""
NOTED = ("probes", "bounds", "calibration", "verification", "ended", "too_large", EXPECTED)
RECIPE = "recipe"
"""The note that holds the recipe itself."""


def announce(ledger: Ledger, names: Iterable[str]) -> None:
    """Note which files MLflow should have; one that has not changed is not sent again."""
    for name in names:
        content = (ledger.path.parent / name).read_bytes()
        ledger.set_meta(f"{ARTIFACT}{name}", hashlib.sha256(content).hexdigest())


def announce_notes(ledger: Ledger) -> None:
    """Write what was measured besides the trials into a file that MLflow gets."""
    notes = {key: ledger.meta(key) for key in NOTED}
    write(ledger.path.parent / MEASURED, json.dumps(notes, indent=1))
    announce(ledger, [MEASURED])


def unsent_files(ledger: Ledger) -> Iterable[tuple[Note, str, bytes | None]]:
    """Yield each note about a file that MLflow lacks, the file's name and its content; None as `content_of` says."""
    for note in ledger.unsent_notes():
        if note.key == RECIPE:
            yield note, "recipe.yaml", note.value.encode()
        elif note.key.startswith(ARTIFACT):
            name = note.key.removeprefix(ARTIFACT)
            yield note, name, content_of(ledger.path.parent, name)


def content_of(folder: Path, name: str) -> bytes | None:
    """A file of a study's folder; None if it is gone, or if its name or a link leads elsewhere.

    The folder itself may lie behind a link. What it holds may have come from somebody else, and is sent to a server.
    """
    root = folder.resolve()
    file = root / name
    own = file.is_relative_to(root) and Path(os.path.realpath(file)) == file
    return file.read_bytes() if own and file.is_file() else None
