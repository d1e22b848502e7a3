"""`regatta sync`: send to MLflow what it has not got yet."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from pipelines.state import existing_study, home
from tracking.sync import Sync


def main(study: str | None, uri: str | None) -> int:
    """Bring MLflow up to a study's ledger, the last study's if none is named."""
    folder, console = existing_study(study), Console()
    sync = Sync(folder, uri=uri, home=home())
    sync.start()
    try:
        with console.status(f"sending {folder.name} to MLflow"):
            complete = sync.drain(None)
    finally:
        sync.close()
    problem = sync.problem()
    if not complete:
        console.print(f"not everything arrived: {escape(problem or 'unknown')}", highlight=False, soft_wrap=True)
        return 1
    console.print(f"MLflow has everything of {folder.name}", highlight=False)
    return 0
