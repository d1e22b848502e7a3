"""Panel 8: does a large batch generalize worse once it is tuned."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import numpy as np

from tracking.analysis.cells import CellResult
from tracking.analysis.data import is_number
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import Figure, Panel, Rows
from tracking.report.panels_rates import log_objective
from tracking.rows import Row

WHOLE, STEPS, EXAMPLES = "whole training", "equal steps", "equal examples"
VIEWS = (WHOLE, STEPS, EXAMPLES)
MIDDLE = (0.05, 0.95)
"""Share of the gaps that the axis covers at least: some trials with a hopeless rate lie far outside."""
COLOURS = ("#a8a8a8", "#0072B2", "#D55E00")


def generalization_panel(analysis: Analysis) -> Panel:
    """The best objective of each batch size, after equal work and after all of it; gap and sharpness where measured."""
    number, name, question = "8", "generalization", "Does a large batch generalize worse here, once tuned?"
    rows = [row for size in analysis.batch_sizes for row in _rows(analysis, size)]
    if not rows:
        return Panel(number=number, name=name, question=question, sentence="No trial has an evaluation yet.")
    figures = [_figure(analysis, rows, name)]
    gaps, sharpness = _gaps(analysis), _sharpness(analysis)
    if gaps:
        figures.append(_gap_figure(analysis, gaps))
    if sharpness:
        figures.append(_points_figure(analysis, "sharpness", sharpness, "ascent sharpness"))
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_sentence(analysis, rows),
        figures=figures,
        notes=_notes(analysis, gaps, sharpness=bool(sharpness)),
    )


def _rows(analysis: Analysis, size: int) -> Rows:
    cells = [cell for cell in analysis.cells if cell.batch_size == size]
    limits = _limits(analysis)
    within: dict[str, Callable[[Row, Row], bool]] = {
        WHOLE: lambda trial, point: trial["status"] == "COMPLETE",
        STEPS: lambda trial, point: point["step"] <= limits["step"],
        EXAMPLES: lambda trial, point: point["examples"] <= limits["examples"],
    }
    rows: Rows = []
    for view in VIEWS:
        found = _best(analysis, cells, within[view])
        if found is not None:
            rows.append({"batch_size": size, "value": found[0], "method": found[1], "view": view})
    return rows


def _limits(analysis: Analysis) -> dict[str, float]:
    """The steps and examples that every batch size has come to, which has any: the least of their longest trainings."""
    seen: dict[int, list[Row]] = {}
    for cell in analysis.cells:
        for row in cell.trials:
            seen.setdefault(cell.batch_size, []).extend(analysis.data.curves.get(row["number"], ()))
    return {
        axis: min((max(point[axis] for point in points) for points in seen.values() if points), default=0)
        for axis in ("step", "examples")
    }


def _best(analysis: Analysis, cells: list[CellResult], within: Callable[[Row, Row], bool]) -> tuple[float, str] | None:
    sign, objective = (1 if analysis.data.direction == "min" else -1), analysis.data.objective
    found = [
        (sign * point[objective], cell.method)
        for cell in cells
        for row in cell.trials
        if row["status"] != "DIVERGED"
        for point in analysis.data.curves.get(row["number"], ())
        if is_number(point.get(objective)) and within(row, point)
    ]
    return (sign * min(found)[0], min(found)[1]) if found else None


def _figure(analysis: Analysis, rows: Rows, name: str) -> Figure:
    pick = drawing.legend_toggle("view")
    values = [row["value"] for row in rows]
    log = log_objective(analysis)
    scale = drawing.log_scale(values, room=0.12) if log else alt.Scale(zero=False)
    axis = alt.Axis(format="~g", values=drawing.log_ticks(values)) if log else alt.Axis(format="~g")
    base = alt.Chart(drawing.named("rows")).encode(
        x=drawing.batch_axis(analysis.batch_sizes),
        y=alt.Y("value:Q", title=f"best {analysis.data.objective}", scale=scale, axis=axis),
        color=alt.Color("view:N", sort=None, title=None, scale=alt.Scale(domain=list(VIEWS), range=list(COLOURS))),
    )
    tip = ["view:N", "batch_size:Q", "value:Q", "method:N"]
    dash = alt.StrokeDash(
        "view:N", sort=None, title=None, scale=alt.Scale(domain=list(VIEWS), range=[[1, 0], [6, 3], [2, 2]])
    )
    lines = base.encode(strokeDash=dash, opacity=drawing.faded(pick, shown=0.8))
    layers = [
        # Where the views agree, the broad line shows beside the narrow ones.
        lines.transform_filter(f"datum.view == '{WHOLE}'").mark_line(strokeWidth=5),
        lines.transform_filter(f"datum.view != '{WHOLE}'").mark_line(strokeWidth=2),
        base.mark_point(filled=True, size=55)
        .encode(opacity=drawing.faded(pick), tooltip=drawing.tips(tip))
        .add_params(pick),
    ]
    chart = alt.layer(*layers).properties(height=drawing.HEIGHT - 60, width=drawing.WIDTH)
    return Figure(name=name, chart=chart, data={"rows": rows}, label="Best objective against batch size.")


def _gaps(analysis: Analysis) -> Rows:
    records = [(cell, record) for cell in analysis.cells for record in cell.records]
    return [
        {
            "batch_size": cell.batch_size,
            "value": record.gap,
            "method": cell.method,
            "trial": record.number,
            "best": cell.best is not None and record.number == cell.best["number"],
        }
        for cell, record in records
        if is_number(record.gap)
    ]


def _sharpness(analysis: Analysis) -> Rows:
    cells = {row["number"]: cell for cell in analysis.cells for row in cell.trials}
    return [
        {"batch_size": cell.batch_size, "value": found["ascent"], "method": cell.method, "trial": found["trial"]}
        for found in analysis.data.probes.get("sharpness") or ()
        if is_number(found.get("ascent")) and (cell := cells.get(found.get("trial", -1))) is not None
    ]


def _gap_figure(analysis: Analysis, rows: Rows) -> Figure:
    """The best trial of each cell over all others, of which those of hopeless rates may lie outside."""
    reached = np.quantile([row["value"] for row in rows], MIDDLE).tolist() + [
        row["value"] for row in rows if row["best"]
    ]
    title = f"generalization gap ({analysis.data.objective})"
    scale = alt.Scale(domain=[min(0.0, *reached), max(0.0, *reached)], nice=True)
    base = alt.Chart(drawing.named("rows")).encode(
        x=drawing.batch_axis(analysis.batch_sizes),
        y=alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(format="~g", tickCount=5)),
        color=drawing.method_colour([method.name for method in analysis.methods]),
        tooltip=drawing.tips(["method:N", "batch_size:Q", "value:Q", "trial:Q"]),
    )
    others = base.transform_filter("!datum.best").mark_point(size=25, strokeWidth=1, opacity=0.4, clip=True)
    best = base.transform_filter("datum.best").mark_point(filled=True, size=90, opacity=1)
    chart = alt.layer(others, best).properties(height=200, width=drawing.WIDTH)
    return Figure(name="gap", chart=chart, data={"rows": rows}, label=f"{title} against batch size.")


def _points_figure(analysis: Analysis, name: str, rows: Rows, title: str) -> Figure:
    base = alt.Chart(drawing.named("rows")).encode(
        x=drawing.batch_axis(analysis.batch_sizes),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(format="~g", tickCount=5)),
        color=drawing.method_colour([method.name for method in analysis.methods]),
    )
    tip = ["method:N", "batch_size:Q", "value:Q", "trial:Q"]
    chart = base.mark_point(filled=True, size=60).encode(tooltip=drawing.tips(tip))
    sized = chart.properties(height=160, width=drawing.WIDTH)
    return Figure(name=name, chart=sized, data={"rows": rows}, label=f"{title} against batch size.")


def _sentence(analysis: Analysis, rows: Rows) -> str:
    whole = {row["batch_size"]: row["value"] for row in rows if row["view"] == WHOLE}
    if not whole:
        return "No trial has been trained to its end yet."
    small, large = min(whole), max(whole)
    if small == large:
        return f"Only of batch size {small:,} a trial was trained to its end: there is nothing to compare it with."
    sign = 1 if analysis.data.direction == "min" else -1
    first = min(whole, key=lambda size: sign * whole[size])
    worse = sign * (whole[large] - whole[small]) > 0
    return (
        f"After the whole training batch size {large:,} comes to {analysis.data.objective} "
        f"{words.number(whole[large])}, {'worse' if worse else 'no worse'} than the {words.number(whole[small])} of "
        f"batch size {small:,}; the best is "
        f"batch size {first:,} with {words.number(whole[first])}."
    )


def _notes(analysis: Analysis, gaps: Rows, *, sharpness: bool) -> list[str]:
    limits = _limits(analysis)
    notes = [
        f"Equal steps are the first {words.number(limits['step'])}, equal examples the first "
        f"{words.number(limits['examples'])} of each training: as many as every batch size came to. A schedule that "
        "decays had not finished there; only the whole training is its verdict."
    ]
    notes.append("One seed a trial: no interval over seeds tells chance from effect.")
    notes.append(_gap_note(analysis, gaps))
    if not sharpness:
        notes.append("Sharpness was not measured in this study.")
    else:
        notes.append("Sharpness is a diagnostic, not evidence of generalization (Dinh 2017; Andriushchenko 2023).")
    reasons = [row.get("gap_reason") for cell in analysis.cells for row in cell.trials]
    reasons += [found.get("reason") for found in analysis.data.probes.get("sharpness") or ()]
    lacks = list(dict.fromkeys(str(reason).rstrip(".") for reason in reasons if reason))
    return [*notes, *(f"Not measured everywhere: {lack}." for lack in lacks)]


def _gap_note(analysis: Analysis, gaps: Rows) -> str:
    if not gaps:
        return "No trial of this study was validated on training examples too, so there is no generalization gap."
    said = (
        f"The generalization gap is the {analysis.data.objective} that a training ended with, less the same on as many "
        "training examples, the same ones for every trial, both in evaluation mode. Large points: the best of each cell"
    )
    best = [row for row in gaps if row["best"]]
    first = next((cell.method for cell in analysis.ranked if any(row["method"] == cell.method for row in best)), None)
    if first is None:
        return f"{said}. No cell's best has one."
    by_size = sorted((row for row in best if row["method"] == first), key=lambda row: row["batch_size"])
    parts = [f"{words.number(row['value'])} at batch size {row['batch_size']:,}" for row in (by_size[0], by_size[-1])]
    ends = words.listed(list(dict.fromkeys(parts)))
    return f"{said}; with {first} {ends}. One training each: a difference may be chance."
