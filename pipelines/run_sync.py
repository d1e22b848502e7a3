"""`regatta sync`: send to MLflow what it has not got yet."""

from __future__ import annotations

from rich.console import Console

from pipelines.studies import ledger_of, recipe_of
from tracking.direct_runs import DirectWriter
from tracking.ledger_file import driver_lock
from tracking.place import existing_study, home
from tracking.runs import WriteRefused
from tracking.sending import push


def main(study: str | None, uri: str | None) -> int:
    """Bring MLflow up to a study's ledger, the last study's if none is named; returns the exit code.

    Raises:
        ValueError: if there is no such study, or if it is being searched now.
    """
    folder, console = existing_study(study), Console()
    # A search sends its own results; two at it would make two runs of one trial.
    with driver_lock(folder), ledger_of(folder) as ledger:
        recipe = recipe_of(ledger)
        try:
            with console.status(f"sending {folder.name} to MLflow"):
                refused = push(ledger, DirectWriter(uri or recipe.tracking.uri, home()))
        except (ConnectionError, WriteRefused) as error:
            refused = {-1: " ".join(str(error).split())}
    if refused:
        reason = next(iter(refused.values()))
        console.print(f"not everything arrived: {reason}", highlight=False, markup=False, soft_wrap=True)
        return 1
    console.print(f"MLflow has everything of {folder.name}", highlight=False)
    return 0
