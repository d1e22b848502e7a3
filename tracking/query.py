"""A study as pandas data frames, for a notebook: `from tracking.query import trials, curves`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tracking import rows as study_rows
from tracking.analysis.convergence import FIGURES, PER_STEP
from tracking.place import existing_study
from tracking.rows import TO_TARGET, TOTALS, Row
from tracking.tables import CURVE_COLUMNS, TRIAL_COLUMNS, columns

MEASURED = "measured"
"""The `time_mode` of a trial that trained alone."""
GRID = ("cell", "batch_size", "optimizer", "schedule", "learning_rate")
TRIAL_FIRST = ("number", *GRID, *(name for name in TRIAL_COLUMNS if name not in ("number", "cell")))
CURVE_FIRST = (
    *("trial", "cell", "batch_size", "optimizer", "schedule", "peak_learning_rate", "status", "phase"),
    *(name for name in CURVE_COLUMNS if name != "trial"),
    *("seconds_alone", "current_batch_size"),
)
CATEGORIES = (
    *("cell", "optimizer", "schedule", "phase", "status", "censoring"),
    *("tier", "fallback_reason", "time_mode", "gap_reason"),
)
INTEGERS = ("number", "trial", "index", "batch_size", "step")
NUMBERS = (
    *(*TOTALS, *TO_TARGET, "hit_after", *FIGURES, "started", "ended", "width", "learning_rate", "peak_learning_rate"),
    *("epoch", "seconds_alone", "current_batch_size"),
)
"""Numbers that some trial may lack: floats whether or not one does, counts among them."""


def trials(study: str | Path | None = None) -> pd.DataFrame:
    """One row per trial, by number, with the columns of `trials.csv`; what is not known (yet) is NaN.

    Args:
        study: its name (in `REGATTA_HOME`, or `runs` of the current folder) or its folder; None: the last one searched.

    Raises:
        ValueError: if there is no such study.
    """
    return _typed(_frame(study_rows.trials(existing_study(study)), TRIAL_FIRST))


def curves(study: str | Path | None = None) -> pd.DataFrame:
    """One row per evaluation, by trial and step, with what its trial was asked, so that a plot needs no join.

    `batch_size` and `peak_learning_rate` are the trial's, `current_batch_size` and `learning_rate` those at that step.
    `seconds` is the clock of the process, which the trials of an array share; `seconds_alone` counts the trial alone
    (steps times the step time that was measured alone) and is NaN where that is not known.

    Args and errors are those of `trials`.
    """
    folder = existing_study(study)
    # Evaluations first: a search under way asks more trials in between, and then there is none without its trial.
    points = study_rows.curves(folder)
    asked = {row["number"]: row for row in study_rows.trials(folder)}
    return _typed(_frame([_joined(point, asked[point["trial"]]) for point in points], CURVE_FIRST))


def _joined(point: Row, trial: Row) -> Row:
    """An evaluation and its trial; what the module calls as a column of ours does not hide it."""
    names = ("cell", "batch_size", "optimizer", "schedule", "status", "phase")
    return {
        **point,
        **{name: trial[name] for name in names},
        "peak_learning_rate": trial.get("learning_rate"),
        "current_batch_size": point.get("batch_size"),
        "seconds_alone": _seconds_alone(point, trial),
    }


def _seconds_alone(point: Row, trial: Row) -> float | None:
    if trial["time_mode"] == PER_STEP and trial["steps"]:
        return float(point["step"] * trial["seconds"] / trial["steps"])
    return point["seconds"] if trial["time_mode"] == MEASURED else None


def _frame(rows: list[Row], first: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns(rows, first))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    for name in frame.columns.intersection(list(CATEGORIES)):
        # In the order of the trials: cells come by batch size, not as b16, b256, b32.
        frame[name] = pd.Categorical(frame[name], categories=frame[name].dropna().unique())
    for name in frame.columns.intersection(list(INTEGERS)):
        frame[name] = frame[name].astype("int64")
    for name in frame.columns.intersection(list(NUMBERS)):
        frame[name] = pd.to_numeric(frame[name]).astype("float64")
    return frame
