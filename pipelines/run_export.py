"""`regatta export`: a study's trials as Optuna studies, for `optuna.load_study` and optuna-dashboard."""

from __future__ import annotations

from rich.console import Console

from pipelines.session import recalled, space_of
from pipelines.studies import ledger_of, recipe_of
from search.export import FILE, export
from tracking.place import existing_study
from tracking.tables import write_tables


def main(study: str | None) -> int:
    """Write `optuna.db`, `trials.csv` and `curves.csv` of a study, the last one if none is named."""
    folder = existing_study(study)
    with ledger_of(folder) as ledger:
        recipe = recipe_of(ledger)
        added = export(ledger, space_of(recipe, recalled(ledger)), folder)
    write_tables(folder)
    Console().print(
        f"{added} trials added to {folder / FILE}; `optuna-dashboard sqlite:///{folder / FILE}` shows them.",
        highlight=False,
        soft_wrap=True,
    )
    return 0
