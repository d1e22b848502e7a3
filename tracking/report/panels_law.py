"""Panel 5: how the best learning rate moves with the batch size, and which of the common rules that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import altair as alt

from tracking.analysis.cells import CellResult
from tracking.analysis.data import is_number
from tracking.analysis.study import Analysis, Method
from tracking.report import drawing, words
from tracking.report.drawing import GREY, Figure, Panel, Rows
from tracking.report.panels_rates import cell_facts

RULES = {"linear": "linear", "sqrt": "square-root", "constant": "constant"}
"""The rules of thumb by the names that the analysis gives them."""


def law_panel(analysis: Analysis) -> Panel:
    """The best learning rate against batch size, with the rules that are commonly used."""
    number, name, question = "5", "rate-law", "Which scaling rule of the learning rate holds here?"
    tuned = [cell for cell in analysis.cells if _optimal(cell)]
    if len({cell.batch_size for cell in tuned}) < 2:
        lack = "This needs the best learning rate of at least 2 batch sizes, but the study has fewer."
        return Panel(number=number, name=name, question=question, sentence=lack)
    names = [method.name for method in analysis.methods]
    data = {
        "optima": [_optimum_row(cell, names) for cell in tuned],
        "rules": _rules(analysis, tuned),
        "fits": _fits(analysis),
    }
    figure = Figure(
        name=name,
        chart=_law_chart(analysis, data),
        data=data,
        label="The best learning rate of each cell against batch size, with its interval.",
    )
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_law_sentence(analysis),
        figures=[figure],
        notes=list(_law_notes(analysis)),
        concerns=["tuning"],
    )


def _optimal(cell: CellResult) -> bool:
    return cell.optimum is not None and is_number(cell.optimum.learning_rate) and cell.optimum.learning_rate > 0


def _optimum_row(cell: CellResult, names: list[str]) -> dict[str, Any]:
    assert cell.optimum is not None, "an optimal cell has an optimum"
    low, high = cell.optimum.low, cell.optimum.high
    return cell_facts(cell) | {
        "place": drawing.place(cell.batch_size, cell.method, names),
        "rate": cell.optimum.learning_rate,
        "low": low if is_number(low) and low > 0 else None,
        "high": high if is_number(high) else None,
        "outcome": drawing.EDGE if cell.edge else drawing.ARRIVED,
    }


def _rules(analysis: Analysis, tuned: list[CellResult]) -> Rows:
    """Lines of slope 1 and 1/2 through the middle of the optima."""
    sizes = analysis.batch_sizes
    logs = [(math.log(cell.batch_size), math.log(_rate(cell))) for cell in tuned]
    x0, y0 = (sum(part) / len(logs) for part in zip(*logs, strict=True))
    rules = {"linear rule": 1.0, "square-root rule": 0.5}
    return [
        {"batch_size": size, "rate": math.exp(y0 + slope * (math.log(size) - x0)), "line": name}
        for name, slope in rules.items()
        for size in (sizes[0], sizes[-1])
    ]


def _rate(cell: CellResult) -> float:
    assert cell.optimum is not None, "a tuned cell has an optimum"
    return float(cell.optimum.learning_rate)


def _fits(analysis: Analysis) -> Rows:
    sizes = analysis.batch_sizes
    return [
        {"batch_size": size, "rate": rate, "method": method.name}
        for method in analysis.methods
        if method.law is not None and method.law.reason is None
        for size in drawing.grid(sizes[0], sizes[-1])
        if is_number(rate := method.law.rate(size)) and rate > 0
    ]


def _law_chart(analysis: Analysis, data: dict[str, Rows]) -> drawing.Chart:
    pick = drawing.legend_toggle("method")
    x, beside = (drawing.batch_axis(analysis.batch_sizes, field_name=name) for name in ("batch_size", "place"))
    values = [row[name] for row in data["optima"] for name in ("rate", "low", "high") if row[name]]
    # An interval without an end is cut: the points set the scale.
    middle = [row["rate"] for row in data["optima"]]
    values = [value for value in values if min(middle) / 8 <= value <= max(middle) * 8]
    scale, axis = drawing.log_scale(values), alt.Axis(format="~g", values=drawing.log_ticks(values))
    y = alt.Y("rate:Q", title="best peak learning rate", scale=scale, axis=axis)
    colour = drawing.method_colour([method.name for method in analysis.methods])
    base = alt.Chart(drawing.named("optima")).encode(x=beside, y=y, color=colour)
    rules = alt.StrokeDash(
        "line:N",
        sort=None,
        scale=alt.Scale(range=[[6, 4], [2, 3]]),
        legend=alt.Legend(title=None, symbolStrokeColor=GREY),
    )
    layers = [
        alt.Chart(drawing.named("rules")).mark_line(color=GREY, clip=True).encode(x=x, y=y, strokeDash=rules),
        alt.Chart(drawing.named("fits"))
        .mark_line(strokeWidth=2, clip=True)
        .encode(x=x, y=y, color=colour, opacity=drawing.faded(pick, shown=0.8)),
        base.mark_rule(clip=True).encode(
            y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), opacity=drawing.faded(pick, shown=0.45)
        ),
        *drawing.markers(base, ["method:N", "batch_size:Q", "rate:Q", "low:Q", "high:Q", "outcome:N"], pick),
    ]
    chart = alt.layer(*layers)
    momentum = _momentum(analysis)
    if momentum:
        chart = alt.layer(chart, _effective(x, scale, momentum)).resolve_scale(y="independent")
    return chart.properties(height=drawing.HEIGHT + 20, width=drawing.WIDTH)


def _momentum(analysis: Analysis) -> float:
    """The momentum that all cells share, 0 if there is none."""
    optimizers = (analysis.data.space.get("search") or {}).get("optimizers") or {}
    values = [(arguments or {}).get("momentum") for arguments in optimizers.values()]
    return float(values[0]) if len(values) == 1 and is_number(values[0]) and 0 < values[0] < 1 else 0.0


def _effective(x: alt.X, scale: alt.Scale, momentum: float) -> drawing.Chart:
    """A second axis on the right: momentum multiplies the rate by 1 / (1 - momentum) (methodology 1.1)."""
    domain = [end / (1 - momentum) for end in scale.to_dict()["domain"]]
    second = alt.Y(
        "effective:Q",
        title=f"effective rate, rate / (1 - {momentum:g})",
        scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(orient="right", format="~g", values=drawing.log_ticks(domain), grid=False),
    )
    chart = alt.Chart(drawing.named("optima")).transform_calculate(effective=f"datum.rate / {1 - momentum}")
    return chart.mark_point(opacity=0).encode(x=x, y=second)


def _law_sentence(analysis: Analysis) -> str:
    told = [method for method in analysis.methods if method.law is not None and method.law.reason is None]
    if not told:
        reasons = [method.law.reason for method in analysis.methods if method.law is not None]
        why = next((reason for reason in reasons if reason), "has no rates")
        return f"No rule can be read from these optima: the fit {why.rstrip('.')}."
    order = {cell.method: rank for rank, cell in reversed(list(enumerate(analysis.ranked)))}
    method = min(told, key=lambda method: order.get(method.name, len(order)))
    return f"With {method.name} the best rate grows as the batch size to the power {_exponent(method)}."


def _exponent(method: Method) -> str:
    law = method.law
    assert law is not None, "only methods with a law are told"
    rules = words.listed([RULES[name] for name in law.contains])
    held = f"{law.exponent:.2f} (95 %: {law.low:.2f} to {law.high:.2f})"
    if not rules:
        return f"{held}: none of the common rules holds"
    if len(law.contains) > 1:
        return f"{held}: too wide to tell the rules {rules} apart"
    return f"{held}: of the common rules only {rules} fits"


def _law_notes(analysis: Analysis) -> Iterator[str]:
    yield "The exponent of the linear rule is 1, of the square-root rule 0.5, of a constant rate 0."
    yield "Hollow points lie at an edge of the rates searched: no fit uses those at a bound."
    for method in analysis.methods:
        yield from _law_note(method)
    if _momentum(analysis):
        yield f"The axis on the right is the rate that momentum {_momentum(analysis):g} makes of it."


def _law_note(method: Method) -> Iterator[str]:
    law = method.law
    if law is not None and law.reason is None:
        bend = (
            f"; its residuals {law.residual_trend.replace('bends', 'bend')}, so a straight line is not the rule"
            if law.residual_trend
            else ""
        )
        left = f"; {words.count(law.dropped, 'batch size')} left out" if law.dropped else ""
        yield f"{method.name}: {_exponent(method)}{bend}{left}. Drawn is the {law.chosen} law."
    elif law is not None:
        yield f"{method.name}: no fit, which {(law.reason or '').rstrip('.')}."
