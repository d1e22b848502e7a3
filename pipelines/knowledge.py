"""What a recipe takes over from the earlier studies that it names: gathered once, when its own study begins."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from models.seeds import derive
from pipelines.recipe import Recipe
from pipelines.session import fingerprint, recalled, space_of
from search.earlier import earlier
from search.knowledge import Knowledge
from search.measured import measured
from tracking.ledger import Ledger
from tracking.ledger_file import FILE
from tracking.place import existing_study


def knowledge_of(recipe: Recipe, folder: Path) -> Knowledge:
    """What the study in a folder was told when it began; of one that is to begin, what the named studies say now.

    Raises:
        ValueError: if there is no such study, or if it has nothing to say of this recipe.
    """
    search = recipe.search
    if search.law is None and search.from_study is None:
        return Knowledge()
    of = str(derive(json.dumps(fingerprint(recipe), sort_keys=True)))
    if (folder / FILE).exists():
        with Ledger.open(folder, create=False) as ledger:
            known = recalled(ledger)
        if known.of == of:
            return known
    law, results = Knowledge(), Knowledge()
    if search.law is not None:
        law = measured(space_of(recipe), _other(search.law, folder, setting="law"))
    if search.from_study is not None:
        results = earlier(space_of(recipe, law), _other(search.from_study, folder, setting="from_study"))
    return dataclasses.replace(results, of=of, rates=law.rates, said=[*law.said, *results.said])


def _other(study: str, own: Path, *, setting: str) -> Path:
    """The folder of a study that a setting names."""
    try:
        folder = existing_study(study)
    except ValueError as error:
        said = str(error).replace("`study`", f"`search.{setting}`", 1)
        raise ValueError(said if setting in said else f"`search.{setting}` is {study!r}, but {said}") from error
    if folder == own.absolute():
        raise ValueError(f"`search.{setting}` must be another study than this one, but got {study!r}.")
    return folder
