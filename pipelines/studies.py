"""A study's ledger opened for reading on, and the recipe in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.recipe import Recipe, from_yaml_text
from search.records import examine
from tracking.ledger import Ledger


@contextmanager
def ledger_of(folder: Path) -> Iterator[Ledger]:
    """The ledger of a study that has been searched, looked over.

    Raises:
        ValueError: if there is none, or if it is damaged.
    """
    with Ledger.open(folder, create=False) as ledger:
        examine(ledger)
        yield ledger


def recipe_of(ledger: Ledger) -> Recipe:
    """The recipe that a study was last searched with.

    Raises:
        ValueError: if there is none, or if it is damaged.
    """
    text = ledger.meta("recipe")
    if not isinstance(text, str):
        raise ValueError(ledger.unreadable("its recipe is missing"))
    return from_yaml_text(text, f"the recipe of {ledger.path.parent}")
