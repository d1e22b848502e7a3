"""A study as two CSV files, for a spreadsheet or a data frame: `trials.csv` and `curves.csv`."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracking import rows as study_rows
from tracking.analysis.convergence import FIGURES
from tracking.rows import POINT_FIRST, TAGS, TO_TARGET, TOTALS

TRIAL_COLUMNS = (
    *("number", "cell", "index", "phase", "status", "reason", *TOTALS),
    *(*TO_TARGET, "hit_after", "censoring", *FIGURES, *TAGS),
)
CURVE_COLUMNS = ("trial", *POINT_FIRST)


def write_tables(folder: Path) -> tuple[Path, Path]:
    """Write both tables into a study's folder, each whole or not at all. Floats read back equal to the last bit."""
    trials, curves = Path(folder) / "trials.csv", Path(folder) / "curves.csv"
    write_rows(trials, study_rows.trials(folder), TRIAL_COLUMNS)
    write_rows(curves, study_rows.curves(folder), CURVE_COLUMNS)
    return trials, curves


def columns(rows: Iterable[Mapping[str, Any]], first: Sequence[str]) -> list[str]:
    """The fixed columns, then the others by name: independent of which trial came back first."""
    return [*first, *sorted({name for row in rows for name in row} - set(first))]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> None:
    """Write a CSV file whole or not at all, its columns as `columns` says."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns(rows, first), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
