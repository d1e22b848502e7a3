"""Panel 9: what the best of so many trials is expected to be, per schedule."""

from __future__ import annotations

import math
import statistics

import altair as alt

from tracking.analysis.budgets import expected_best, expected_best_band
from tracking.analysis.data import counts
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import Figure, Panel, Rows
from tracking.report.panels_rates import log_objective
from tracking.rows import Row

LEAST_TRIALS = 4
"""A curve up to half of fewer trials than this is no curve."""


def budget_panel(analysis: Analysis) -> Panel:
    """What the best of n quasi-random trials is expected to be, per schedule."""
    number, name, question = "9", "budget", "Which method is best for my budget?"
    rows = [row for method in analysis.methods for row in _budget_rows(analysis, method.name)]
    if not rows:
        lack = f"This needs at least {LEAST_TRIALS} quasi-random trials of a schedule with results."
        return Panel(number=number, name=name, question=question, sentence=lack)
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_budget_sentence(analysis, rows),
        figures=[
            _budget_figure(analysis, rows, name, "trials", "trials of the schedule"),
            _budget_figure(analysis, rows, "budget-seconds", "seconds", "training seconds spent"),
        ],
        notes=[
            "An unbiased estimate from the quasi-random trials of a schedule, all batch sizes together, up to half of "
            "them; the band holds 80 % of resampled searches. A curve begins where a search of that many trials cannot "
            "consist of diverged ones only."
        ],
    )


def _budget_rows(analysis: Analysis, method: str) -> Rows:
    trials: list[Row] = [
        row
        for cell in analysis.cells
        if cell.method == method
        for row in cell.trials
        if row["phase"] == "explore" and (counts(row) or row["status"] == "DIVERGED")
    ]
    if len(trials) < LEAST_TRIALS:
        return []
    values = [row["value"] if counts(row) else math.inf for row in trials]
    seconds = statistics.fmean([row["seconds"] or 0.0 for row in trials])
    direction, upto = analysis.data.direction, len(trials) // 2
    means = expected_best(values, direction=direction, upto=upto)
    low, high = expected_best_band(values, direction=direction, upto=upto)
    points = [
        {"trials": n, "seconds": n * seconds, "value": mean, "method": method}
        | ({"low": lower, "high": upper} if math.isfinite(lower + upper) else {})
        for n, (mean, lower, upper) in enumerate(zip(means, low, high, strict=True), start=1)
        if math.isfinite(mean)
    ]
    return drawing.thinned(points)


def _budget_figure(analysis: Analysis, rows: Rows, name: str, field: str, title: str) -> Figure:
    names = [method.name for method in analysis.methods]
    pick = drawing.legend_toggle("method")
    values = [row["value"] for row in rows]
    log = log_objective(analysis)
    scale = drawing.log_scale(values) if log else alt.Scale(zero=False)
    axis = alt.Axis(format="~g", values=drawing.log_ticks(values)) if log else alt.Axis(format="~g")
    x = alt.X(f"{field}:Q", title=title, scale=alt.Scale(zero=True, nice=False), axis=alt.Axis(format=",~r"))
    base = alt.Chart(drawing.named("budget")).encode(x=x, color=drawing.method_colour(names))
    objective = f"expected best {analysis.data.objective}"
    layers = [
        base.transform_filter("isValid(datum.low)")
        .mark_area(clip=True)
        .encode(
            y=alt.Y("low:Q", scale=scale, axis=axis, title=objective),
            y2=alt.Y2("high:Q"),
            opacity=drawing.faded(pick, shown=0.12),
        ),
        base.mark_line(strokeWidth=2)
        .encode(
            y=alt.Y("value:Q", scale=scale, title=objective),
            opacity=drawing.faded(pick),
            tooltip=drawing.tips(["method:N", f"{field}:Q", "value:Q"]),
        )
        .add_params(pick),
    ]
    chart = alt.layer(*layers).properties(height=drawing.HEIGHT - 60, width=drawing.WIDTH)
    return Figure(name=name, chart=chart, data={"budget": rows}, label=f"{objective} against {title}.")


def _budget_sentence(analysis: Analysis, rows: Rows) -> str:
    sign = 1 if analysis.data.direction == "min" else -1
    ends = {row["method"]: row for row in rows}
    most = min(row["trials"] for row in ends.values())
    level = [row for row in rows if row["trials"] == most] or list(ends.values())
    first = min(level, key=lambda row: sign * row["value"])
    parts = [
        f"{row['method']} {words.number(row['value'])}"
        for row in sorted(level, key=lambda row: sign * row["value"])
        if row is not first
    ]
    rest = f", against {words.listed(parts)}" if parts else ""
    return (
        f"With {words.count(first['trials'], 'quasi-random trial')} the best {analysis.data.objective} is expected at "
        f"{words.number(first['value'])} with {first['method']}{rest}."
    )
