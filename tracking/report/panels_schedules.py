"""Panel 6: is a schedule better, or only better tuned or more forgiving?"""

from __future__ import annotations

import math
import statistics
from typing import Any

import altair as alt

from tracking.analysis.cells import CellResult
from tracking.analysis.convergence import selection_interval
from tracking.analysis.data import counts, is_number
from tracking.analysis.judging import figure
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import Figure, Panel, Rows, Table
from tracking.report.panels_rates import facets, log_objective, rate_axis

GOOD_SHARE = 0.01
"""A trial within this share of the best objective counts as good; or within the noise between its evaluations."""


def schedules_panel(analysis: Analysis) -> Panel:
    """Each schedule at each batch size: best objective with an interval, and how wide its range of good rates is."""
    number, name, question = "6", "schedules", "Is a schedule better, or only better tuned or more forgiving?"
    if not analysis.ranked:
        return Panel(number=number, name=name, question=question, sentence="No trial has a result yet.")
    rows = [_result_row(analysis, cell) for cell in analysis.ranked]
    widths = [row for cell in analysis.ranked if (row := _good_row(analysis, cell))]
    figures = [_values_figure(analysis, rows, name)]
    if widths and any(row["low"] < row["high"] for row in widths):
        figures.append(_widths_figure(analysis, widths))
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_schedules_sentence(analysis),
        figures=figures,
        table=_budget_table(analysis),
        notes=[
            "Bars reach over what the luck of the search leaves open (the central 80 % of the best of as many trials, "
            "drawn again from these), not over other seeds. Good rates are those of neighbouring trials within 1 % of "
            "the best, or within the scatter of its last evaluations, whichever is more."
        ],
        concerns=["unequal"],
    )


def _values(cell: CellResult) -> list[float]:
    return [row["value"] for row in cell.trials if counts(row)]


def _facts(cell: CellResult) -> dict[str, Any]:
    return {"batch": str(cell.batch_size), "batch_size": cell.batch_size, "method": cell.method}


def _result_row(analysis: Analysis, cell: CellResult) -> dict[str, Any]:
    assert cell.best is not None, "a ranked cell has a best trial"
    low, high = _luck(analysis, cell)
    return _facts(cell) | {
        "value": cell.best["value"],
        "low": low,
        "high": high,
        "rate": words.number(cell.best.get("learning_rate")),
        "trial": cell.best["number"],
    }


def _luck(analysis: Analysis, cell: CellResult) -> tuple[float, float]:
    """10-90 % of the best of as many trials: the bootstrap of a minimum or a maximum."""
    sign = 1.0 if analysis.data.direction == "min" else -1.0
    lost = [math.inf] * sum(row["status"] == "DIVERGED" for row in cell.trials)
    low, high = selection_interval([sign * value for value in _values(cell)] + lost)
    ends = sorted((sign * low, sign * high))
    return ends[0], ends[1]


def _good_row(analysis: Analysis, cell: CellResult) -> dict[str, Any] | None:
    """The stretch of rates around the best in which neighbouring trials are as good as it."""
    best = cell.best
    if best is None or not is_number(best.get("learning_rate")):
        return None
    rows = sorted(
        (row for row in cell.trials if is_number(row.get("learning_rate"))), key=lambda row: row["learning_rate"]
    )
    record = next(record for record in cell.records if record.number == best["number"])
    room = max(GOOD_SHARE * abs(best["value"]), record.last_sd or 0.0)
    good = [counts(row) and abs(row["value"] - best["value"]) <= room for row in rows]
    first = last = rows.index(best)
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(rows) - 1 and good[last + 1]:
        last += 1
    low, high = rows[first]["learning_rate"], rows[last]["learning_rate"]
    return _facts(cell) | {"low": low, "high": high, "rate": best["learning_rate"], "decades": math.log10(high / low)}


def _values_figure(analysis: Analysis, rows: Rows, name: str) -> Figure:
    names = [method.name for method in analysis.methods]
    pick = drawing.legend_toggle("method")
    ends = [row[end] for row in rows for end in ("low", "high", "value") if is_number(row[end])]
    log = log_objective(analysis) and min(ends) > 0
    scale = drawing.log_scale(ends) if log else alt.Scale(zero=False)
    axis = alt.Axis(format="~g", values=drawing.log_ticks(ends)) if log else alt.Axis(format="~g")
    sizes = [str(size) for size in analysis.batch_sizes]
    base = alt.Chart(drawing.named("results")).encode(
        x=alt.X("batch:N", sort=sizes, title="batch size (examples per step)", axis=alt.Axis(labelAngle=0, grid=False)),
        xOffset=alt.XOffset("method:N", sort=names),
        color=drawing.method_colour(names),
    )
    y = alt.Y("value:Q", title=f"best {analysis.data.objective}", scale=scale, axis=axis)
    layers = [
        base.mark_rule(strokeWidth=2, clip=True).encode(
            y=alt.Y("low:Q", scale=scale, axis=axis, title=y["title"]),
            y2=alt.Y2("high:Q"),
            opacity=drawing.faded(pick, shown=0.5),
        ),
        base.mark_point(filled=True, size=60)
        .encode(
            y=y,
            opacity=drawing.faded(pick),
            tooltip=drawing.tips(["method:N", "batch:N", "value:Q", "rate:N", "trial:Q"]),
        )
        .add_params(pick),
    ]
    chart = alt.layer(*layers).properties(height=drawing.HEIGHT - 40, width=drawing.WIDTH)
    return Figure(name=name, chart=chart, data={"results": rows}, label="Best objective by batch size and schedule.")


def _widths_figure(analysis: Analysis, rows: Rows) -> Figure:
    names = [method.name for method in analysis.methods]
    x = rate_axis("low:Q", [row[end] for row in rows for end in ("low", "high")], title="good peak learning rates")
    base = alt.Chart().encode(
        y=alt.Y("batch:N", sort=[str(size) for size in analysis.batch_sizes], title="batch size"),
        color=drawing.method_colour(names, shown=False),
    )
    tip = ["method:N", "batch:N", "low:Q", "high:Q", "rate:Q", "decades:Q"]
    layers = [
        base.mark_bar(height=9, opacity=0.55).encode(x=x, x2=alt.X2("high:Q"), tooltip=drawing.tips(tip)),
        base.mark_tick(thickness=3, size=15).encode(x=alt.X("rate:Q", scale=x["scale"])),
    ]
    chart = facets(alt.layer(*layers), "widths", names, height=24 * len(analysis.batch_sizes) + 10)
    return Figure(
        name="good-rates",
        chart=chart,
        data={"widths": rows},
        label="The range of good learning rates of each cell; the mark is the best.",
        columns=2 if len(names) > 1 else 1,
    )


def _schedules_sentence(analysis: Analysis) -> str:
    if len(analysis.methods) == 1:
        return f"Only {analysis.methods[0].name} was tried: there is no other schedule to compare it with."
    wins = {method.name: 0 for method in analysis.methods}
    for size in analysis.batch_sizes:
        mine = [cell for cell in analysis.ranked if cell.batch_size == size]
        if mine:
            wins[mine[0].method] += 1
    first = analysis.ranked[0]
    assert first.best is not None, "a ranked cell has a best trial"
    shares = words.listed(
        [f"{name} at {amount}" for name, amount in sorted(wins.items(), key=lambda win: -win[1]) if amount]
    )
    tolerance = [row for cell in analysis.ranked if (row := _good_row(analysis, cell))]
    widest = ""
    if tolerance and len(analysis.methods) > 1:
        widths = {
            method.name: statistics.median(
                [row["decades"] for row in tolerance if row["method"] == method.name] or [0.0]
            )
            for method in analysis.methods
        }
        name = max(widths, key=lambda key: widths[key])
        if widths[name] > 0:
            widest = f"; most forgiving is {name}, whose good rates span {widths[name]:.2f} decades in the median cell"
    return (
        f"Of {words.count(len(analysis.batch_sizes), 'batch size')}, each with its own tuned rate, the best is "
        f"{shares}; "
        f"the best of all is {first.method} at batch size {first.batch_size:,} "
        f"({analysis.data.objective} {words.number(figure(first.best))}){widest}."
    )


def _budget_table(analysis: Analysis) -> Table | None:
    """What part of its peak rate each schedule spends, at its best cell."""
    rows = []
    for method in analysis.methods:
        cell = next((cell for cell in analysis.ranked if cell.method == method.name), None)
        if cell is None or cell.best is None:
            continue
        rates = [
            p["learning_rate"]
            for p in analysis.data.curves.get(cell.best["number"], ())
            if is_number(p.get("learning_rate"))
        ]
        peak = cell.best.get("learning_rate")
        spent = f"{statistics.fmean(rates) / peak:.2f}" if rates and peak else "–"
        rows.append(
            [
                method.name,
                f"{cell.batch_size:,}",
                words.number(peak),
                words.number(cell.best["value"]),
                words.number(cell.best.get("best_step")),
                spent,
            ]
        )
    heads = [
        "schedule",
        "best at batch size",
        "peak rate",
        f"best {analysis.data.objective}",
        "at step",
        "mean rate / peak",
    ]
    return Table(columns=heads, rows=rows) if rows else None
