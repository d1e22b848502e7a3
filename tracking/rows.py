"""A study's folder as plain rows: one per trial, one per evaluation. Nothing is rounded and nothing left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracking.analysis.convergence import FIGURES
from tracking.analysis.objectives import marked
from tracking.ledger import Ledger
from tracking.spans import Span, spans_of

Row = dict[str, Any]

TOTALS = ("value", "steps", "examples", "epochs", "seconds", "wall_seconds")
TO_TARGET = {
    "steps_to_target": "step",
    "examples_to_target": "examples",
    "epochs_to_target": "epoch",
    "seconds_to_target": "seconds",
}
TAGS = ("tier", "width", "fallback_reason", "time_mode", "gap_reason")
"""How a trial was trained: alone or in an array of that width, why alone, which seconds its times are, and why it has
no generalization gap."""
METRICS = ("best", "final", "fit", "gap")
"""What a result has of each metric."""
EXPECTED = "expected"
"""The note of what complete trials' configurations are expected to come to on a fresh seed: number to the value, and to
one that is one standard error worse."""
PAUSED = "paused"
"""The note of the trials that a call has left in the middle of their training: number to why; empty while one runs."""
POINT_FIRST = ("step", "examples", "epoch", "seconds", "learning_rate")


def trials(folder: Path) -> list[Row]:
    """One flat row per trial, by number; what is not known (yet) is None, what was never measured is absent.

    Every parameter is a key of its own. `best_*` is the evaluation with the best objective and `final_*` the last one:
    their axes (`best_step`, ...) and metrics (`best_val_loss`, ...); `fit_*` are the same metrics on a fixed subset of
    the training set, and `gap_*` is `final_*` less `fit_*`. `*_to_target` are None for a trial that never arrived;
    `hit_after` is the step of the evaluation before, `censoring` says why it did not. `reason` says why a trial came to
    nothing; while it is paused, why, until it goes on. Times of day are Unix seconds.
    With several objectives, `front` says whether none is better in all of them; of a search for the best alone,
    `expected` is what a complete trial's configuration is expected to come to on a fresh seed, and `expected_bound` is
    one standard error worse.
    """
    with Ledger.open(folder, create=False) as ledger:
        paused = ledger.meta(PAUSED) or {}
        rows = [_trial(row, paused.get(str(row["number"]))) for row in ledger.trials()]
        return with_expected(marked(rows, ledger.meta("space"), ledger.meta("metrics")), ledger.meta(EXPECTED))


def with_expected(rows: Sequence[Row], expected: Mapping[str, Sequence[float]] | None) -> list[Row]:
    """The rows with what is expected of them, where anything is known of that."""
    if not expected:
        return list(rows)
    names = ("expected", "expected_bound")
    return [{**row, **dict(zip(names, expected.get(str(row["number"]), (None, None)), strict=False))} for row in rows]


def curves(folder: Path) -> list[Row]:
    """One row per evaluation, by trial and step: the trial's number, the axes, and each metric that was logged then.

    Examples and seconds count from the trial's start.
    """
    with Ledger.open(folder, create=False) as ledger:
        return [
            {"trial": row["number"], **dict.fromkeys(POINT_FIRST), **point}
            for row in ledger.trials()
            for segment in ledger.segments(row["number"])
            for point in segment["curve"]
        ]


def spans(folder: Path) -> dict[int, list[Span]]:
    """When and where each trial trained, by number; those are left out that have not brought anything back."""
    with Ledger.open(folder, create=False) as ledger:
        found = {row["number"]: spans_of(ledger.segments(row["number"])) for row in ledger.trials()}
    return {number: trained for number, trained in found.items() if trained}


def _trial(row: Mapping[str, Any], paused: str | None) -> Row:
    config = row["config"]
    result = row["result"] or {}
    hit = result.get("hit") or {}
    known: Row = {
        "number": row["number"],
        "cell": row["cell"],
        "index": row["index"],
        "phase": config["phase"],
        "status": row["status"],
        "reason": (result.get("reason") if result else paused) or None,
    }
    known |= {name: result.get(name) for name in TOTALS}
    known |= {name: hit.get(axis) for name, axis in TO_TARGET.items()}
    known["hit_after"] = result.get("hit_after") if hit else None
    known["censoring"] = result.get("censoring") or None
    known |= {name: result.get("figures", {}).get(name) for name in FIGURES}
    known |= {name: result.get(name) for name in ("started", "ended", "worker")}
    known |= {name: (result.get("tags") or {}).get(name) for name in TAGS}
    known |= {name: config["train"][name] for name in ("seed_init", "accumulate")}
    for part in METRICS:
        known |= {f"{part}_{name}": value for name, value in result.get(part, {}).items()}
    # A parameter never hides a result.
    return {**config["params"], **known}
