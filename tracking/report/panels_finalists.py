"""The finalists: is the winner real, and what to copy to production?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tracking.analysis.cells import CellResult
from tracking.analysis.data import is_number
from tracking.analysis.judging import behind
from tracking.analysis.study import Analysis
from tracking.analysis.verdicts import Verdict
from tracking.report import words
from tracking.report.drawing import Panel, Table

FINALISTS = 8
"""Rows of the table of configurations."""
VERIFIED_NOTES = (
    "In the search, each of these was a single training, chosen among many and so partly a lucky one: the mean on "
    "fresh seeds is what to expect. The best of the smallest batch size is among them as a baseline.",
    "The difference is the mean of the best less that of the line; all its intervals hold together with 95 % "
    "confidence (Welch, Holm). Detectable is what so many seeds find in 80 % of cases.",
    "The test split was used for the chosen configuration alone, at the end of its trainings, after the choice.",
)


def finalists_panel(analysis: Analysis) -> Panel:
    """The best configurations, with what is known of the difference between them."""
    number, name, question = "10", "finalists", "Is the winner real, and what do I copy to production?"
    if not analysis.ranked:
        return Panel(number=number, name=name, question=question, sentence="No trial has a result yet.")
    verified = analysis.data.verification
    if verified is not None:
        return Panel(
            number=number,
            name=name,
            question=question,
            sentence=verified["sentence"],
            table=_verified_table(verified, analysis.data.objective),
            notes=VERIFIED_NOTES,
        )
    first = analysis.ranked[0]
    assert first.best is not None, "a ranked cell has a best trial"
    shown = analysis.ranked[:FINALISTS]
    expects = is_number(first.best.get("expected"))
    heads = ["batch size", "method", "learning rate", f"best {analysis.data.objective}"]
    heads += ["expected on a fresh seed"] if expects else []
    heads += ["behind by"]
    if analysis.data.target is not None:
        heads += ["steps to target", "time to target"]
    heads += ["training alone", "trial"]
    rows = [_row(analysis, cell, expects=expects) for cell in shown]
    if analysis.verdicts:
        sentence = "On fresh seeds: " + "; ".join(f"against {v.against} {v.outcome}" for v in analysis.verdicts) + "."
        notes = [_verdict_note(verdict) for verdict in analysis.verdicts]
    else:
        one = (
            "what all trials together say is no run on a fresh seed"
            if expects
            else "each line is a single training with its own seed, so a small lead may be luck"
        )
        sentence = (
            f"Not known yet: {one}. The first line is what to copy, and its configuration is that of trial "
            f"{first.best['number']}."
        )
        notes = [
            "Mean and spread over fresh seeds, intervals of the differences and the test metric need runs on fresh "
            "seeds, which this study does not hold: `regatta verify` adds them."
        ]
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=sentence,
        table=Table(columns=heads, rows=rows),
        notes=notes,
    )


def _verified_table(verified: Mapping[str, Any], objective: str) -> Table:
    """One line for each finalist: the one to use, then the best mean first."""
    tested, by = verified["test"], verified.get("judged_by", objective)
    heads = ["configuration", "learning rate", "in the search", "mean on fresh seeds", "SD", "seeds"]
    heads += ["best less this" if by == objective else f"best less this, {by}"]
    heads += ["chance that the best wins", "detectable", "the best is", "costs"]
    heads += list(tested["metrics"])
    rows = []
    for one in sorted(verified["finalists"], key=lambda one: one["name"] != verified["chosen"]):
        found = tested["metrics"].values() if one["name"] == tested["name"] else ()
        shown = [_with_deviation(figure["mean"], figure["sd"]) for figure in found]
        rows.append([*_verified_row(one, chosen=verified["chosen"]), *(shown or ["–"] * len(tested["metrics"]))])
    return Table(columns=heads, rows=rows)


def _verified_row(one: Mapping[str, Any], *, chosen: str) -> list[str]:
    lost = [f"{one[name]} {name}" for name in ("diverged", "failed") if one[name]]
    return [
        f"{one['name']}, chosen" if one["name"] == chosen else one["name"],
        words.number(one["params"].get("learning_rate")),
        words.number(one["search_value"], 4),
        words.number(one["mean"], 4),
        words.number(one["sd"], 2),
        ", ".join([str(len(one["values"])), *lost]),
        _ranged(one["difference"], one["low"], one["high"]),
        _ranged(one["p_better"], one["p_low"], one["p_high"]),
        words.number(one["detectable"], 2),
        "–" if one["outcome"] == "best" else one["outcome"],
        words.seconds(one["cost"]) if one["cost_unit"] == "seconds" else f"{one['cost']:,.0f} examples",
    ]


def _ranged(value: float | None, low: float | None, high: float | None) -> str:
    """A number with its interval, as far as both are known."""
    if not is_number(value):
        return "–"
    known = is_number(low) and is_number(high)
    return f"{words.number(value, 2)} ({words.number(low, 2)} to {words.number(high, 2)})" if known else f"{value:.2g}"


def _with_deviation(mean: float, deviation: float | None) -> str:
    return words.number(mean, 4) + ("" if deviation is None else f" (SD {words.number(deviation, 2)})")


def _row(analysis: Analysis, cell: CellResult, *, expects: bool) -> list[str]:
    trial = cell.best or {}
    gap = behind(trial, analysis.ranked[0].best or {}, analysis.data.sign)
    record = next(record for record in cell.records if record.number == trial["number"])
    known = [
        f"{cell.batch_size:,}",
        cell.method,
        words.number(trial.get("learning_rate")),
        words.number(trial["value"], 4),
        *([words.number(trial.get("expected"), 4)] if expects else []),
        words.number(gap) if gap > 0 else "–",
    ]
    step = cell.step_seconds
    if analysis.data.target is not None:
        hit = record.hit.step if record.hit is not None else math.inf
        known += [words.number(hit), words.seconds(hit * step if step else None)]
    return [*known, words.seconds((trial.get("steps") or 0) * step if step else None), str(trial["number"])]


def _verdict_note(verdict: Verdict) -> str:
    return (
        f"Against {verdict.against}: the difference of the means is {words.number(verdict.difference)} "
        f"({100 * verdict.confidence:.0f} %: {words.number(verdict.low)} to {words.number(verdict.high)}), the chance "
        f"that a run is better {verdict.p_better:.2f}; so many seeds find a difference of "
        f"{words.number(verdict.detectable)}."
    )
