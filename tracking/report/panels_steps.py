"""Panel 1: steps to the target against batch size, with the critical batch size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import altair as alt

from tracking.analysis.cells import CellResult
from tracking.analysis.scaling import Regime
from tracking.analysis.study import OVERALL, Analysis, Method
from tracking.report import drawing, words
from tracking.report.drawing import INK, Figure, Panel, Rows, Table

NO_TARGET = "No target is set, so there is no speed to compare. Set `metrics.target` and `metrics.target_metric`."
NONE_ARRIVED = "No trial reached the target {target}. Set an easier one, or train longer."


def steps_panel(analysis: Analysis) -> Panel:
    """Steps to the target against batch size."""
    number, name, question = "1", "steps", "Where does parallelism stop paying?"
    lack = lacking(analysis)
    if lack:
        return Panel(number=number, name=name, question=question, sentence=lack)
    data = {"cells": cell_rows(analysis), "lines": _step_lines(analysis), "band": _band(analysis)}
    label = f"Optimizer steps to {words.target(analysis.data.metrics)} against batch size."
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_steps_sentence(analysis),
        figures=[Figure(name=name, chart=_steps_chart(analysis, data), data=data, label=label)],
        table=_regime_table(analysis),
        notes=list(_steps_notes(analysis)),
        concerns=["tuning", "hits", "resolution", "target"],
    )


def lacking(analysis: Analysis) -> str:
    """Why no speed can be shown, or nothing."""
    if analysis.data.target is None:
        return NO_TARGET
    if analysis.fastest is None:
        return NONE_ARRIVED.format(target=words.target(analysis.data.metrics))
    return ""


def frontier(analysis: Analysis) -> Method:
    """The method that stands for the study: the best cell of each batch size."""
    assert analysis.overall is not None, "a study in which a cell arrived has a method"
    return analysis.overall


def _names(analysis: Analysis) -> list[str]:
    return [method.name for method in analysis.methods]


def colour(analysis: Analysis) -> drawing.Chart:
    """The colour channel of the methods."""
    return drawing.method_colour(_names(analysis))


def cell_rows(analysis: Analysis) -> Rows:
    """One point per cell, those that never arrived at the top."""
    finite = [cell.steps for cell in analysis.cells if math.isfinite(cell.steps)]
    top = max(finite, default=1.0) * 2.2
    return [_cell_row(cell, top, _names(analysis)) for cell in analysis.cells]


def _cell_row(cell: CellResult, top: float, names: list[str]) -> dict[str, object]:
    arrived = math.isfinite(cell.steps)
    winner = cell.winner
    return {
        "batch_size": cell.batch_size,
        "batch": str(cell.batch_size),
        "place": drawing.place(cell.batch_size, cell.method, names),
        "method": cell.method,
        "steps": cell.steps if arrived else top,
        "examples": cell.speed.examples,
        "seconds": cell.seconds,
        "low": cell.speed.low,
        "high": min(cell.speed.high, top) if arrived else None,
        "outcome": drawing.NEVER if not arrived else drawing.EDGE if cell.edge else drawing.ARRIVED,
        "rate": words.number(None if winner is None else winner.get("learning_rate")),
        "hits": f"{cell.speed.n_hit} of {cell.speed.n_trials}",
    }


def _step_lines(analysis: Analysis) -> Rows:
    """The fit over the best of each batch size, and what a doubling would save if it always halved the steps."""
    method, sizes = frontier(analysis), analysis.batch_sizes
    arrived = [cell for cell in method.cells if math.isfinite(cell.steps)]
    rows: Rows = []
    if not arrived or len(sizes) < 2:
        return rows
    first, across = arrived[0], drawing.grid(sizes[0], sizes[-1])
    lowest = min(cell.steps for cell in arrived) / 2
    ideal = [(size, first.steps * first.batch_size / size) for size in across]
    rows += [
        {"batch_size": size, "steps": value, "line": "perfect scaling"} for size, value in ideal if value >= lowest
    ]
    fit = method.hyperbola
    if fit is not None and fit.reason is None:
        rows += [{"batch_size": size, "steps": fit.steps(size), "line": f"fit, {method.name}"} for size in across]
    return rows


def _band(analysis: Analysis) -> Rows:
    fit = frontier(analysis).hyperbola
    if fit is None or fit.reason is not None or not fit.bracketed:
        return []
    low, high = analysis.batch_sizes[0] / 1.4, analysis.batch_sizes[-1] * 1.4
    inside = low <= fit.critical <= high
    return [
        {
            "low": min(max(fit.low, low), high),
            "high": min(max(fit.high, low), high),
            "critical": fit.critical if inside else None,
            "label": f"B_crit {words.number(fit.critical)}",
        }
    ]


def _steps_chart(analysis: Analysis, data: dict[str, Rows]) -> drawing.Chart:
    pick = drawing.legend_toggle("method")
    x, beside = (drawing.batch_axis(analysis.batch_sizes, field_name=name) for name in ("batch_size", "place"))
    values = [row["steps"] for row in data["cells"]] + [row["low"] for row in data["cells"]]
    scale = drawing.log_scale([value for value in values if value], base=2)
    axis = alt.Axis(format=",d", tickCount=8)
    y = alt.Y("steps:Q", title="optimizer steps to the target", scale=scale, axis=axis)
    base = alt.Chart(drawing.named("cells")).encode(x=beside, y=y, color=colour(analysis))
    tip = ["method:N", "batch_size:Q", "steps:Q", "examples:Q", "rate:N", "hits:N", "outcome:N"]
    arrived = base.transform_filter("datum.outcome != 'never'")
    layers = [
        *_band_layers(data["band"], x),
        *_line_layers(data["lines"], x, y),
        arrived.mark_line(strokeWidth=2).encode(opacity=drawing.faded(pick)),
        arrived.mark_rule(strokeWidth=1, clip=True).encode(
            y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), opacity=drawing.faded(pick, shown=0.5)
        ),
        *drawing.markers(base, tip, pick),
    ]
    return alt.layer(*layers).properties(height=drawing.HEIGHT + 60, width=drawing.WIDTH)


def _line_layers(lines: Rows, x: alt.X, y: alt.Y) -> list[drawing.Chart]:
    if not lines:
        return []  # A legend without entries has no size, and the picture none either.
    names = list(dict.fromkeys(row["line"] for row in lines))
    dashes = [[1, 0] if name.startswith("fit") else [5, 4] for name in names]
    legend = alt.Legend(title=None, symbolStrokeColor=INK)
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=dashes), sort=None, legend=legend)
    chart = alt.Chart(drawing.named("lines")).mark_line(color=INK, strokeWidth=1.5, clip=True)
    return [chart.encode(x=x, y=y, strokeDash=dash)]


def _band_layers(band: Rows, x: alt.X) -> list[drawing.Chart]:
    if not band:
        return []
    chart = alt.Chart(drawing.named("band"))
    layers = [
        chart.mark_rect(color="#f0c808", opacity=0.18).encode(
            x=alt.X("low:Q", scale=x["scale"], title=x["title"], axis=x["axis"]), x2=alt.X2("high:Q")
        )
    ]
    if band[0]["critical"] is not None:
        at = alt.X("critical:Q", scale=x["scale"])
        layers.append(chart.mark_rule(color="#8a6d00", strokeWidth=2).encode(x=at))
        layers.append(
            chart.mark_text(color="#6b5500", dx=5, dy=12, align="left", fontSize=12).encode(
                x=at, y=alt.value(0), text=alt.Text("label:N")
            )
        )
    return layers


def _regime_table(analysis: Analysis) -> Table | None:
    """What each next larger batch size saves, to the target and, beside it, to the easier one."""
    methods = {"target": frontier(analysis)}
    if analysis.easier is not None:
        methods["easier_target"] = analysis.easier
    ways = {key: {(way.small, way.large): way for way in method.regimes} for key, method in methods.items()}
    pairs = sorted({pair for found in ways.values() for pair in found})
    if not pairs:
        return None
    heads = ["from", "to"]
    for key in methods:
        heads += [f"steps to {words.target(analysis.data.metrics, key)}", "ratio per doubling", "regime"]
    steps = {key: {cell.batch_size: cell.steps for cell in method.cells} for key, method in methods.items()}
    rows = [
        [f"{small:,.0f}", f"{large:,.0f}"]
        + [text for key, found in ways.items() for text in _regime_cells(found.get((small, large)), steps[key])]
        for small, large in pairs
    ]
    return Table(columns=heads, rows=rows)


def _regime_cells(way: Regime | None, steps: dict[int, float]) -> list[str]:
    if way is None:
        return ["–"] * 3
    ends = [words.number(steps[round(size)]) for size in (way.small, way.large)]
    return [" → ".join(ends), words.number(way.ratio), way.label]


def _steps_sentence(analysis: Analysis) -> str:
    method, metrics = frontier(analysis), analysis.data.metrics
    arrived = [cell for cell in method.cells if math.isfinite(cell.steps)]
    first, last = arrived[0], min(arrived, key=lambda cell: cell.steps)
    if first is last:
        return (
            f"Batch size {first.batch_size:,} reaches {words.target(metrics)} in {words.number(first.steps)} steps "
            f"({words.number(first.speed.examples)} examples)."
        )
    gain, growth = first.steps / last.steps, last.batch_size / first.batch_size
    return (
        f"From batch size {first.batch_size:,} to {last.batch_size:,}, {words.number(growth)} times the examples per "
        f"step, the steps to {words.target(metrics)} fall {words.number(gain)} times "
        f"({words.number(first.steps)} to {words.number(last.steps)}); {_critical(method)}."
    )


def _critical(method: Method) -> str:
    fit = method.hyperbola
    if fit is None:
        return "no critical batch size is fitted"
    if fit.reason is not None:
        return f"no critical batch size: {fit.reason.rstrip('.')}"
    if not fit.bracketed:
        return f"the critical batch size is {fit.bound} {words.number(fit.critical)}, the end of what was tried"
    span = words.interval(fit.low, fit.high)
    return f"the critical batch size is {words.number(fit.critical)} (about 95 %: {span})"


def _steps_notes(analysis: Analysis) -> Iterator[str]:
    method = frontier(analysis)
    if method.economical is not None and math.isfinite(method.economical):
        yield (
            f"Batch sizes up to {words.number(method.economical)} cost at most 20 % more examples than the cheapest "
            "(read from the points, without a fit)."
        )
    if analysis.easier is not None:
        easier = words.target(analysis.data.metrics, "easier_target")
        yield (
            f"To the easier target {easier}, {_critical(analysis.easier)}; to the target itself, {_critical(method)}. "
            "A critical batch size usually rises as the target gets harder."
        )
    for other in analysis.methods if len(analysis.methods) > 1 else ():
        yield f"{other.name}: {_critical(other)}."
    if method.name == OVERALL:
        yield (
            f"“{OVERALL}” takes the fewest steps of all schedules at each batch size: of more trials, so that luck "
            "favours it more than any schedule alone."
        )
    decay = (analysis.data.space.get("training") or {}).get("weight_decay")
    yield (
        f"A critical batch size belongs to its target ({words.target(analysis.data.metrics)}), tuning protocol "
        f"({protocol(analysis)}), optimizer ({words.listed(sorted({cell.optimizer for cell in analysis.cells}))}), "
        f"schedule ({words.listed(list(dict.fromkeys(cell.schedule for cell in analysis.cells)))}) and weight decay "
        f"({words.number(decay)}): another one of these, another critical batch size."
    )


def protocol(analysis: Analysis) -> str:
    """How each cell was tuned, in words."""
    amounts = sorted({len(cell.trials) for cell in analysis.cells})
    span = words.count(amounts[0], "trial") if len(amounts) == 1 else f"{amounts[0]} to {amounts[-1]} trials"
    tuned = all(cell.searched for cell in analysis.cells)
    return f"{span} per cell, {'a learning rate searched in each' if tuned else 'not every rate searched'}"
