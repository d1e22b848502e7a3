"""Panels 17 and 18: the objective along each parameter, and over learning rate and batch size together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from tracking.analysis.curves import loss
from tracking.analysis.data import counts, is_number
from tracking.analysis.importance import GRID, RATE, coordinates
from tracking.analysis.rungs import is_tune
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import BATCH_STOPS, INK, Figure, Panel, Rows
from tracking.report.panels_rates import log_objective, rate_axis
from tracking.rows import Row

MOST = 8
"""Parameters that are drawn; with more, nobody looks."""
PER_DECADE = 4
"""Cells of the map for a factor of ten in the learning rate."""
ENDED, STOPPED = "trained to its end", "ended earlier"
PRUNED = "Hollow: ended at a rung; drawn at what it had come to there, which a whole training would have bettered."


def slices_panel(analysis: Analysis) -> Panel | None:
    """The objective of every trial against each parameter; None for a search that is no `tune`."""
    if not is_tune(analysis.data):
        return None
    number, name, question = "17", "slices", "Where along each parameter do good trials lie?"
    rows, names = _judged(analysis), coordinates(analysis.data)
    if not rows or not names:
        lack = "No trial has a result yet." if names else "No parameter has more than one value yet."
        return Panel(number=number, name=name, question=question, sentence=lack)
    lost = sum(row["status"] == "DIVERGED" for row in analysis.data.trials)
    notes = [PRUNED] if any(row["status"] != "COMPLETE" for row in rows) else []
    notes += [f"Not drawn: {words.count(lost, 'trial')} that diverged."] * (lost > 0)
    if len(names) > MOST:
        notes.append(f"Not drawn: {words.listed(names[MOST:])}; they are in `trials.csv`.")
    best = min(rows, key=lambda row: (row["status"] != "COMPLETE", loss(row["value"], analysis.data.direction)))
    lies = words.listed([f"{one.replace('_', ' ')} {_shown(best[one])}" for one in names if best.get(one) is not None])
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=f"The best trial ({analysis.data.objective} {words.number(best['value'])}) lies at {lies}.",
        figures=[_slice(analysis, rows, one) for one in names[:MOST]],
        notes=notes,
    )


def contour_panel(analysis: Analysis) -> Panel | None:
    """The best objective in each stretch of learning rates of each batch size; None for a search that is no `tune`."""
    if not is_tune(analysis.data):
        return None
    number, name, question = "18", "contour", "Which learning rates suit which batch size?"
    rows = [row for row in _judged(analysis) if is_number(row.get(RATE)) and row[RATE] > 0]
    if not rows:
        lack = "No trial with a learning rate has a result yet."
        return Panel(number=number, name=name, question=question, sentence=lack)
    cells = _cells(analysis, rows)
    possible = len({cell["batch"] for cell in cells}) * len({cell["low"] for cell in cells})
    best = min(cells, key=lambda cell: loss(cell["value"], analysis.data.direction))
    said = (
        f"The best value, {words.number(best['value'])}, lies at batch size {int(best['batch']):,} and learning rates "
        f"from {words.interval(best['low'], best['high'])}; {len(cells)} of {possible} stretches were tried."
    )
    notes = ["Each cell holds the best of its trials, over all other parameters; where none lies it is left empty."]
    notes += ["A value in brackets: no trial there ran to its end."] * any(cell["said"][0] == "(" for cell in cells)
    figures = [_map(analysis, cells, name)]
    return Panel(number=number, name=name, question=question, sentence=said, figures=figures, notes=notes)


def _judged(analysis: Analysis) -> list[Row]:
    return [row for row in analysis.data.trials if counts(row)]


def _shown(value: Any) -> str:
    return words.number(value) if is_number(value) else str(value)


def _slice(analysis: Analysis, rows: Sequence[Row], name: str) -> Figure:
    shown: Rows = [
        {
            "x": row[name],
            "value": row["value"],
            "batch": str(row["batch_size"]),
            "ended": ENDED if row["status"] == "COMPLETE" else STOPPED,
            **{key: row.get(key) for key in ("number", "cell", "learning_rate", "status")},
        }
        for row in rows
        if row.get(name) is not None
    ]
    pick = drawing.legend_toggle("batch")
    base = alt.Chart(drawing.named("slice")).encode(
        x=_axis(name, [row["x"] for row in shown]),
        y=_values(analysis, [row["value"] for row in shown]),
        color=drawing.batch_colour(analysis.batch_sizes),
        opacity=drawing.faded(pick, shown=0.85),
        tooltip=drawing.tips(["number:Q", "cell:N", "learning_rate:Q", "x:N", "value:Q", "status:N"]),
    )
    whole = base.transform_filter(f"datum.ended == '{ENDED}'").mark_point(size=45, filled=True)
    part = base.transform_filter(f"datum.ended == '{STOPPED}'").mark_point(size=35, fill="white", strokeWidth=1.2)
    # Filled ones last, on top; their layer holds the parameter, as its symbols are those of the legend.
    chart = alt.layer(whole.add_params(pick), part).properties(height=drawing.FACET_HEIGHT, width=drawing.WIDTH)
    label = f"{analysis.data.objective} of every trial against {name}."
    return Figure(name=f"slice-{name}", chart=chart, data={"slice": shown}, label=label)


def _axis(name: str, values: Sequence[Any]) -> alt.X:
    title = name.replace("_", " ") if name in (*GRID, RATE) else name
    if name == "batch_size" or not all(is_number(value) and not isinstance(value, bool) for value in values):
        return alt.X("x:N", title=title, sort=_order(values), axis=alt.Axis(labelAngle=0))
    if min(values) > 0 and max(values) > 10 * min(values):
        return rate_axis("x:Q", list(values), title=title)
    return alt.X("x:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g"))


def _order(values: Sequence[Any]) -> list[Any]:
    return sorted(set(values), key=lambda value: (isinstance(value, str), value if is_number(value) else str(value)))


def _values(analysis: Analysis, values: Sequence[float]) -> alt.Y:
    if log_objective(analysis):
        axis = alt.Axis(format="~g", values=drawing.log_ticks(values))
        return alt.Y("value:Q", title=analysis.data.objective, scale=drawing.log_scale(values), axis=axis)
    return alt.Y("value:Q", title=analysis.data.objective, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g"))


def _cells(analysis: Analysis, rows: Sequence[Row]) -> Rows:
    """One row for each stretch of rates of each batch size in which a trial lies."""
    held: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        held[row["batch_size"], math.floor(math.log10(row[RATE]) * PER_DECADE)].append(row)
    found = []
    for (size, at), members in sorted(held.items()):
        complete = [row for row in members if row["status"] == "COMPLETE"]
        best = min(complete or members, key=lambda row: loss(row["value"], analysis.data.direction))
        value = words.number(best["value"], 2)
        found.append(
            {
                "batch": str(size),
                "low": 10 ** (at / PER_DECADE),
                "middle": 10 ** ((at + 0.5) / PER_DECADE),
                "high": 10 ** ((at + 1) / PER_DECADE),
                "value": best["value"],
                "said": value if complete else f"({value})",
                "trials": len(members),
                "number": best["number"],
            }
        )
    return found


def _map(analysis: Analysis, cells: Rows, name: str) -> Figure:
    values = [cell["value"] for cell in cells]
    kind: Literal["log", "linear"] = "log" if min(values) > 0 and log_objective(analysis) else "linear"
    # Dark is good, whichever way the objective goes; the text is light on it.
    stops = list(BATCH_STOPS if analysis.data.direction == "min" else reversed(BATCH_STOPS))
    scale = alt.Scale(type=kind, range=stops, interpolate="rgb")
    base = alt.Chart(drawing.named("cells")).encode(
        y=alt.Y("batch:N", title=drawing.BATCH_TITLE, sort=[str(size) for size in reversed(analysis.batch_sizes)])
    )
    ends = [cell[end] for cell in cells for end in ("low", "high")]
    rects = base.mark_rect(stroke="white").encode(
        x=rate_axis("low:Q", ends, title="peak learning rate"),
        x2=alt.X2("high:Q"),
        color=alt.Color("value:Q", scale=scale, title=f"best {analysis.data.objective}", legend=None),
        tooltip=drawing.tips(["batch:N", "low:Q", "high:Q", "value:Q", "trials:Q", "number:Q"]),
    )
    place = math.log if kind == "log" else float
    half = (place(min(values)) + place(max(values))) / 2
    dark = [(place(value) < half) == (analysis.data.direction == "min") for value in values]
    rows = [cell | {"ink": "#ffffff" if low else INK} for cell, low in zip(cells, dark, strict=True)]
    text = base.mark_text(fontSize=10).encode(
        x=alt.X("middle:Q"), text="said:N", color=alt.Color("ink:N", scale=None, legend=None)
    )
    chart = alt.layer(rects, text).resolve_scale(color="independent")
    sized = chart.properties(height=34 * len(analysis.batch_sizes) + 40, width=drawing.WIDTH)
    label = f"The best {analysis.data.objective} for each batch size and stretch of learning rates."
    return Figure(name=name, chart=sized, data={"cells": rows}, label=label)
