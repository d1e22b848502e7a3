"""`regatta all`: search, report, verify, train; each stage only where something has changed since it ended well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from models.user_code import as_they_are, changes
from pipelines.recipe import Recipe
from pipelines.stage_record import note, read
from pipelines.stages import PAGE, REPORT, SEARCH, STAGES, Stage, plain
from pipelines.studies import ledger_of
from tracking.place import study_folder

INTERRUPTED = (129, 130, 143)
"""Exit codes after a hangup, Ctrl-C and a `kill`."""


def main(recipe: Recipe) -> int:
    """Go through all stages of a recipe; returns the exit code of the first that does not end well, or 0."""
    folder, console = study_folder(recipe.study_name), Console(soft_wrap=True, highlight=False)
    for stage in STAGES:
        if stage is REPORT and not recipe.tracking.report:
            _say(console, stage, "left out, `tracking.report` is false")
            continue
        code = go_through(stage, recipe, folder, console)
        if code:
            return code
    return 0


def go_through(stage: Stage, recipe: Recipe, folder: Path, console: Console) -> int:
    """Run a stage if it has to, and keep that it has ended well; returns its exit code."""
    inputs = plain(stage.inputs(recipe, folder))
    done = read(folder).get(stage.name)
    why = stage.why(folder, inputs, done)
    if why is None and done is not None:
        _say(console, stage, f"up to date ({stage.said(folder, inputs)} {_clock(done.at)})")
        for sentence in changed_code(folder) if stage is SEARCH else ():
            console.print(escape(f"{sentence} No trial is trained again; a new `--study` begins anew."))
        return 0
    _say(console, stage, f"runs, {why}")
    started = time.time()
    code = stage.run(recipe, folder)
    if code:
        ending = "interrupted" if code in INTERRUPTED else f"ended with exit code {code}"
        _say(console, stage, f"{ending}; `regatta all` goes on here")
        return code
    note(folder, stage.name, inputs, stage.files)
    page = folder / PAGE
    if stage is not REPORT and page.is_file() and page.stat().st_mtime >= started:
        # A search and a verification end with a report of their own.
        note(folder, REPORT.name, REPORT.inputs(recipe, folder), REPORT.files)
    return 0


def _say(console: Console, stage: Stage, text: str) -> None:
    console.print(f"[bold]{stage.name}[/]: {escape(text)}")


def _clock(at: float) -> str:
    """A time of today as such, an earlier one with its date."""
    then = time.localtime(at)
    today = time.strftime("%F", then) == time.strftime("%F")
    return time.strftime("%H:%M" if today else "%F %H:%M", then)


def changed_code(folder: Path) -> Iterator[str]:
    """Yield a sentence for every file of the user's classes that is not what the trials were trained with."""
    with ledger_of(folder) as ledger:
        before = (ledger.meta("origin") or {}).get("code") or {}
    yield from changes(before, as_they_are(before))
