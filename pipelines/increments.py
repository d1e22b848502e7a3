"""`--search.seconds +600`: so much more than a study has had, as the total that this comes to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.options import Override
from pipelines.recipe_file import draft_of
from pipelines.schema import default_of
from search.cluster_config import ClusterConfig
from search.config import SearchConfig
from tracking.ledger import Ledger
from tracking.ledger_file import FILE
from tracking.place import study_folder

SPENT = "seconds_spent"
"""The note of how long earlier calls have searched."""
SETTINGS = ("search.seconds", "search.device_seconds", "search.examples", "search.trials")
"""Those that can be raised so."""
MORE = re.compile(r"\+\d+(\.\d+)?")


def is_increment(override: Override) -> bool:
    """Whether an override says how much more, not how much."""
    return override.name in SETTINGS and not override.append and MORE.fullmatch(override.text) is not None


def resolved(override: Override, values: Mapping[str, Any]) -> Override:
    """The same as a total: on top of what the study has used; of trials, on top of those that it was to have.

    Args:
        values: the recipe as it is otherwise asked for, which names the study.

    Raises:
        ValueError: if the study's ledger cannot be read.
    """
    study = values.get("study") or values.get("name")
    folder = study_folder(study) if isinstance(study, str) else None
    setting = override.name.removeprefix("search.")
    if folder is None or not (folder / FILE).is_file():
        before = _trials(values) if setting == "trials" else 0.0
    else:
        with Ledger.open(folder, create=False) as ledger:
            before = _used(ledger, values)[setting]
    total = round(before + float(override.text), 3)
    return replace(override, text=str(int(total) if total.is_integer() else total))


def _used(ledger: Ledger, values: Mapping[str, Any]) -> dict[str, float]:
    examples, worker_seconds = ledger.spent()
    recipe = draft_of(ledger.meta("recipe") or "{}", "the study's recipe").values
    return {
        "seconds": float(ledger.meta(SPENT) or 0.0),
        "device_seconds": worker_seconds
        / (_number(values, "cluster", "per_gpu") or default_of(ClusterConfig, "per_gpu")),
        "examples": float(examples),
        "trials": _trials(recipe),
    }


def _trials(values: Mapping[str, Any]) -> float:
    return _number(values, "search", "trials") or float(default_of(SearchConfig, "trials"))


def _number(values: Mapping[str, Any], section: str, key: str) -> float | None:
    """A number of a recipe that need not be sound; None where there is none."""
    found = values.get(section)
    value = found.get(key) if isinstance(found, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
