"""`regatta report`: one page and its pictures that say what a study found, and the same in MLflow."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pipelines.studies import ledger_of, recipe_of
from tracking.analysis.data import from_remote
from tracking.credentials import without_credentials
from tracking.direct_runs import DirectWriter
from tracking.files import announce, announce_notes
from tracking.ledger import Ledger
from tracking.ledger_file import driver_lock
from tracking.place import existing_study, home, study_folder
from tracking.remote import fetch
from tracking.report import ReportFiles, key_figures, write
from tracking.report.verdict import headline
from tracking.runs import WriteRefused
from tracking.sending import push


def main(study: str | None, uri: str | None) -> int:
    """Write the report of a study, the last one if none is named, whether it has ended or still runs.

    Args:
        uri: of the MLflow that holds the study, for a machine that has no folder of it.

    Raises:
        ValueError: if there is no such study.
    """
    console = Console(soft_wrap=True, highlight=False)
    if uri is not None:
        return from_mlflow(study, uri, console)
    folder = existing_study(study)
    with ledger_of(folder) as ledger:
        files = write(folder)
        show(files, console)
        publish(ledger, folder, files)
        problem = send(ledger, folder)
    if problem is not None:
        console.print(escape(f"MLflow has not got it ({problem}): `regatta sync` sends it."))
    return 0


def from_mlflow(study: str | None, uri: str, console: Console) -> int:
    """The report from MLflow alone."""
    try:
        with console.status("reading the runs from MLflow"):
            data = from_remote(fetch(study, uri=uri, home=home()))
    except ConnectionError as error:
        said = f"MLflow at {uri} does not answer: {' '.join(str(error).split())}"
        console.print(escape(without_credentials(said)))
        return 1
    # A name from elsewhere stays within the state folder, whatever is in it.
    folder = study_folder(re.sub(r"[^\w-]+", "_", data.name))
    folder.mkdir(parents=True, exist_ok=True)
    show(write(folder, data), console)
    return 0


def show(files: ReportFiles, console: Console) -> None:
    """The verdict, and where the page lies."""
    for sentence in headline(files.analysis):
        console.print(escape(sentence))
    console.print(f"report: [bold]{escape(str(files.page))}[/]")


def publish(ledger: Ledger, folder: Path, files: ReportFiles) -> None:
    """Note what MLflow should have of it: the page, the pictures, and the key figures as metrics of the search."""
    announce_notes(ledger)
    announce(ledger, [str(file.relative_to(folder)) for file in (files.page, *files.pictures)])
    ledger.set_meta("analysis", key_figures(files.analysis))


def send(ledger: Ledger, folder: Path) -> str | None:
    """Send it, unless a search that is under way does so; returns what hinders, if anything does."""
    recipe = recipe_of(ledger)
    if not recipe.tracking.mlflow:
        return None
    with ExitStack() as stack:
        try:
            stack.enter_context(driver_lock(folder))
        except ValueError:
            return None
        try:
            refused = push(ledger, DirectWriter(recipe.tracking.uri, home()))
        except (ConnectionError, WriteRefused) as error:
            return " ".join(str(error).split())
    return next(iter(refused.values()), None)
