"""Which trials lie on the front of a search with several objectives, as a note of the ledger and a tag in MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracking.ledger import Ledger, Note

FRONT = "front"
"""The note, trial number to whether it lies there, and the tag `true` or `false` of its run."""


def note_front(ledger: Ledger, numbers: Iterable[int]) -> None:
    """Note the trials of the front; those of an earlier one that have left it are told so too."""
    left = dict.fromkeys(ledger.meta(FRONT) or {}, False)
    now = {**left, **{str(number): True for number in numbers}}
    if now:
        ledger.set_meta(FRONT, now)


def front(note: Note) -> Iterator[tuple[int, dict[str, str]]]:
    """By trial, the tag of its run."""
    for number, lies in note.value.items():
        yield int(number), {FRONT: str(lies).lower()}
