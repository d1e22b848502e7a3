"""Panel 4: every trial against its learning rate; was the space wide and dense enough?"""

from __future__ import annotations

import math
from typing import Any, Literal

import altair as alt

from tracking.analysis.cells import CellResult
from tracking.analysis.data import counts, is_number
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import WARNING, Figure, Panel, Rows

NO_RATE = "The module brings its own optimizer: there is no learning rate of ours to show."


def axis_panel(analysis: Analysis) -> Panel:
    """Best objective against learning rate, one curve per batch size, small multiples per schedule."""
    number, name, question = "4", "rates", "Was the space of learning rates wide and dense enough?"
    if not any(cell.bounds for cell in analysis.cells):
        return Panel(number=number, name=name, question=question, sentence=NO_RATE)
    top, data = _axis_data(analysis)
    figure = Figure(
        name=name,
        chart=_axis_chart(analysis, data, top),
        data=data,
        label=f"{analysis.data.objective} of every trial against its learning rate.",
        columns=2 if len(analysis.methods) > 1 else 1,
    )
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_axis_sentence(analysis),
        figures=[figure],
        notes=[
            "One point a trial; a red cross at the top diverged; the strips below are the rates searched. A large dot "
            "marks the best trial, hollow where it lies at an end of the strip or beside diverged ones."
        ],
        concerns=["edge", "infeasible", "trials"],
    )


def log_objective(analysis: Analysis) -> bool:
    """Whether the objective is drawn on a logarithmic axis: all values positive, and they span a factor."""
    values = [row["value"] for row in analysis.data.trials if counts(row)]
    return bool(values) and min(values) > 0 and max(values) > 3 * min(values)


def _axis_data(analysis: Analysis) -> tuple[tuple[float, float], dict[str, Rows]]:
    log, sizes = log_objective(analysis), analysis.batch_sizes
    values = [row["value"] for row in analysis.data.trials if counts(row)] or [0.0, 1.0]
    place = math.log10 if log else float
    back = (lambda x: 10.0**x) if log else float
    low, high = place(min(values)), place(max(values))
    reach = (high - low) or 1.0
    top = back(high + 0.08 * reach)
    trials = [_trial_row(cell, row, top) for cell in analysis.cells for row in cell.trials if _drawn(row)]
    strips: Rows = []
    for cell in analysis.cells:
        if cell.bounds is not None:
            depth = low - reach * (0.06 + 0.03 * sizes.index(cell.batch_size))
            strips.append(cell_facts(cell) | {"low": cell.bounds[0], "high": cell.bounds[1], "value": back(depth)})
    ends = back(low - reach * (0.09 + 0.03 * len(sizes))), back(high + 0.14 * reach)
    best = [
        cell_facts(cell)
        | {
            "rate": cell.best["learning_rate"],
            "value": cell.best["value"],
            "outcome": drawing.EDGE if cell.edge else drawing.ARRIVED,
        }
        for cell in analysis.cells
        if cell.best is not None and is_number(cell.best.get("learning_rate"))
    ]
    return ends, {"trials": trials, "strips": strips, "best": best}


def _drawn(row: dict[str, Any]) -> bool:
    return is_number(row.get("learning_rate")) and (counts(row) or row["status"] == "DIVERGED")


def _trial_row(cell: CellResult, row: dict[str, Any], top: float) -> dict[str, Any]:
    lost = row["status"] == "DIVERGED"
    return cell_facts(cell) | {
        "trial": row["number"],
        "rate": row["learning_rate"],
        "value": top if lost else row["value"],
        "outcome": "diverged" if lost else "trained",
        "status": row["status"].lower(),
        "phase": row["phase"],
    }


def cell_facts(cell: CellResult) -> dict[str, Any]:
    """What every row of a cell says: which one it is."""
    return {"batch": str(cell.batch_size), "batch_size": cell.batch_size, "method": cell.method}


def rate_axis(field: str, values: list[float], *, title: str) -> alt.X:
    """A logarithmic axis of learning rates."""
    scale = drawing.log_scale(values, room=0.04)
    return alt.X(field, title=title, scale=scale, axis=alt.Axis(format="~g", values=drawing.log_ticks(values)))


def _axis_chart(analysis: Analysis, data: dict[str, Rows], ends: tuple[float, float]) -> drawing.Chart:
    pick = drawing.legend_toggle("batch")
    rates = [row["rate"] for row in data["trials"]] + [row[end] for row in data["strips"] for end in ("low", "high")]
    x = rate_axis("rate:Q", rates, title="peak learning rate")
    kind: Literal["log", "linear"] = "log" if log_objective(analysis) else "linear"
    scale = alt.Scale(type=kind, domain=list(ends), nice=False)
    axis = (
        alt.Axis(format="~g", values=drawing.log_ticks(ends)) if kind == "log" else alt.Axis(format="~g", tickCount=5)
    )
    y = alt.Y("value:Q", title=f"{analysis.data.objective} of the trial", scale=scale, axis=axis)
    base = alt.Chart().encode(x=x, y=y, color=drawing.batch_colour(analysis.batch_sizes))
    trained, lost = "datum.outcome == 'trained'", "datum.outcome == 'diverged'"
    tip = ["trial:Q", "batch_size:Q", "rate:Q", "value:Q", "status:N", "phase:N"]
    # A facet has one data set: the layers tell their rows apart.
    layers = [
        base.transform_filter(f"datum.kind == 'trials' && {trained}")
        .mark_line(strokeWidth=1)
        .encode(opacity=drawing.faded(pick, shown=0.45)),
        base.transform_filter(f"datum.kind == 'trials' && {trained}")
        .mark_circle(size=22)
        .encode(opacity=drawing.faded(pick, shown=0.9), tooltip=drawing.tips(tip)),
        base.transform_filter(f"datum.kind == 'trials' && {lost}")
        .mark_point(shape="cross", angle=45, size=45, filled=True)
        .encode(color=alt.ColorValue(WARNING), opacity=drawing.faded(pick, shown=0.8), tooltip=drawing.tips(tip)),
        *drawing.markers(base.transform_filter("datum.kind == 'best'"), tip[1:4], pick, size=110),
        base.transform_filter("datum.kind == 'strips'")
        .mark_rule(strokeWidth=3)
        .encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), opacity=drawing.faded(pick)),
    ]
    rows = [row | {"kind": kind} for kind, members in data.items() for row in members]
    data.clear()
    data["rows"] = rows
    return facets(alt.layer(*layers), "rows", [method.name for method in analysis.methods])


def facets(
    layered: drawing.Chart, data: str, names: list[str], *, by: str = "method", height: int = 0
) -> drawing.Chart:
    """Small multiples of one layered chart, two in a row, in the order given."""
    columns = 2 if len(names) > 1 else 1
    width = (drawing.WIDTH - 70 * (columns - 1)) / columns
    sized = layered.properties(width=width, height=height or drawing.FACET_HEIGHT, data=drawing.named(data))
    header = alt.Header(title=None, labelFontSize=12)
    return sized.facet(facet=alt.Facet(f"{by}:N", sort=names, header=header), columns=columns)


def _axis_sentence(analysis: Analysis) -> str:
    tuned = [cell for cell in analysis.cells if cell.optimum is not None]
    edges = [cell for cell in tuned if cell.edge]
    lost = sum(row["status"] == "DIVERGED" for row in analysis.data.trials)
    cells = f"{len(tuned) - len(edges)} of {words.count(len(tuned), 'cell')}"
    inside = f"In {cells} the best rate lies inside of what was searched"
    worst = ""
    if edges:
        sides = {side: sum(cell.edge == side for cell in edges) for side in ("low", "high", "infeasible")}
        names = {"low": "at the lower end", "high": "at the upper end", "infeasible": "beside diverged trials"}
        parts = [f"{amount} {names[side]}" for side, amount in sides.items() if amount]
        worst = f", in {words.listed(parts)}"
    return f"{inside}{worst}; {words.share(lost, len(analysis.data.trials))} of the trials diverged."
