"""Which trials lie on the front of a search with several objectives, as a note of the ledger and a tag in MLflow."""

from __future__ import annotations

from collections.abc import Iterable

from tracking.ledger import Ledger
from tracking.runs import RunWriter

FRONT = "front"
"""The note, trial number to whether it lies there, and the tag `true` or `false` of its run."""


def note_front(ledger: Ledger, numbers: Iterable[int]) -> None:
    """Note the trials of the front; those of an earlier one that have left it are told so too."""
    left = dict.fromkeys(ledger.meta(FRONT) or {}, False)
    now = {**left, **{str(number): True for number in numbers}}
    if now:
        ledger.set_meta(FRONT, now)


def send_front(ledger: Ledger, writer: RunWriter) -> None:
    """Tag the runs of these trials, if that has not been done; their runs are open by then."""
    for note in ledger.unsent_notes():
        if note.key == FRONT:
            for number, lies in note.value.items():
                run_id = ledger.run(int(number)).run_id
                if run_id is not None:
                    writer.log(run_id, params={}, tags={FRONT: str(lies).lower()}, points=[])
            ledger.notes_sent([note])
