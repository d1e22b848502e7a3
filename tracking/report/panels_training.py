"""Panels 7 and 8: the curves of the winners, the noise scale beside them, and generalization against batch size."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tracking.analysis.cells import CellResult
from tracking.analysis.data import is_number
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import GREY, INK, Figure, Panel, Rows
from tracking.report.panels_rates import facets, log_objective
from tracking.rows import Row

VALIDATION, TRAINING = "validation", "training (running mean)"
LATE = 0.9
"""A best evaluation after this share of the training: it might have gone on improving."""


# -- 7: training curves


def curves_panel(analysis: Analysis) -> Panel:
    """Training and validation of the best trial of each cell."""
    number, name, question = "7", "curves", "Do the winners overfit, wobble, or still improve at the end?"
    rows = [row for cell in analysis.ranked for row in _curve_rows(analysis, cell)]
    if not rows:
        return Panel(number=number, name=name, question=question, sentence="No trial has an evaluation yet.")
    figures = [_curves_figure(analysis, rows, name)]
    matched = _matched_rows(analysis)
    if matched:
        figures.append(_matched_figure(analysis, matched))
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_curves_sentence(analysis),
        figures=figures,
        notes=[
            "A dot marks the best evaluation. The dashed line is the running training loss, taken while the weights "
            "move: its distance from the validation curve is not the generalization gap."
        ],
        concerns=["progress"],
    )


def _points(analysis: Analysis, cell: CellResult) -> list[Row]:
    assert cell.best is not None, "a ranked cell has a best trial"
    return drawing.thinned(analysis.data.curves.get(cell.best["number"], ()))


def _curve_rows(analysis: Analysis, cell: CellResult) -> Rows:
    objective = analysis.data.objective
    kinds = {VALIDATION: objective, TRAINING: "train_loss"} if "loss" in objective else {VALIDATION: objective}
    facts = {"batch": str(cell.batch_size), "method": cell.method, "kind": "curve"}
    rows = [
        facts | {"examples": point["examples"], "value": point[key], "curve": kind}
        for point in _points(analysis, cell)
        for kind, key in kinds.items()
        if is_number(point.get(key))
    ]
    best = cell.best or {}
    if is_number(best.get("best_examples")) and is_number(best.get(f"best_{objective}")):
        at = {"examples": best["best_examples"], "value": best[f"best_{objective}"], "trial": best["number"]}
        rows.append(facts | at | {"curve": VALIDATION, "kind": "best"})
    return rows


def _curves_figure(analysis: Analysis, rows: Rows, name: str) -> Figure:
    pick = drawing.legend_toggle("batch")
    # Large batches see many times the examples of small ones: only a logarithmic axis shows both.
    seen = [row["examples"] for row in rows]
    axis = alt.Axis(format="~s", values=drawing.log_ticks(seen))
    x = alt.X("examples:Q", title="examples processed", axis=axis, scale=drawing.log_scale(seen, room=0.02))
    base = alt.Chart().encode(
        x=x,
        y=_objective_axis(analysis, [row["value"] for row in rows], title=_loss_title(analysis)),
        color=drawing.batch_colour(analysis.batch_sizes),
    )
    kinds = [VALIDATION, TRAINING] if any(row["curve"] == TRAINING for row in rows) else [VALIDATION]
    dash = alt.StrokeDash(
        "curve:N",
        sort=None,
        scale=alt.Scale(domain=kinds, range=[[1, 0], [3, 3]][: len(kinds)]),
        legend=alt.Legend(title=None, symbolStrokeColor=INK) if len(kinds) > 1 else None,
    )
    layers = [
        base.transform_filter("datum.kind == 'curve'")
        .mark_line(strokeWidth=1.4)
        .encode(strokeDash=dash, opacity=drawing.faded(pick, shown=0.85)),
        base.transform_filter("datum.kind == 'best'")
        .mark_circle(size=50)
        .encode(
            opacity=drawing.faded(pick),
            tooltip=drawing.tips(["method:N", "batch:N", "trial:Q", "examples:Q", "value:Q"]),
        )
        .add_params(pick),
    ]
    return Figure(
        name=name,
        chart=facets(alt.layer(*layers), "rows", [method.name for method in analysis.methods]),
        data={"rows": rows},
        label="Training and validation of the best trial of each cell, against examples.",
        columns=2 if len(analysis.methods) > 1 else 1,
    )


def _loss_title(analysis: Analysis) -> str:
    return f"{analysis.data.objective} and train_loss" if "loss" in analysis.data.objective else analysis.data.objective


def _objective_axis(analysis: Analysis, values: Sequence[float], *, title: str) -> alt.Y:
    if log_objective(analysis):
        positive = [value for value in values if value > 0]
        axis = alt.Axis(format="~g", values=drawing.log_ticks(positive))
        return alt.Y("value:Q", title=title, scale=drawing.log_scale(positive), axis=axis)
    return alt.Y("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g"))


def _matched_rows(analysis: Analysis) -> Rows:
    """Schedules at the batch size of the best cell, over the share of their training."""
    size = analysis.ranked[0].batch_size
    rows: Rows = []
    for cell in analysis.ranked:
        if cell.batch_size != size or cell.best is None or not cell.best.get("steps"):
            continue
        for point in _points(analysis, cell):
            at = {"method": cell.method, "progress": point["step"] / cell.best["steps"]}
            if is_number(point.get(analysis.data.objective)):
                rows.append(at | {"value": point[analysis.data.objective], "rate": None, "kind": "value"})
            if is_number(point.get("learning_rate")):
                rows.append(at | {"value": None, "rate": point["learning_rate"], "kind": "rate"})
    return rows


def _matched_figure(analysis: Analysis, rows: Rows) -> Figure:
    pick = drawing.legend_toggle("method")
    colour = drawing.method_colour([method.name for method in analysis.methods])
    x = alt.X(
        "progress:Q",
        title="share of the training",
        axis=alt.Axis(format="%", tickCount=10),
        scale=alt.Scale(domain=[0, 1]),
    )
    base = alt.Chart(drawing.named("rows")).encode(x=x, color=colour)
    y = _objective_axis(
        analysis,
        [row["value"] for row in rows if row["value"] is not None],
        title=f"{analysis.data.objective} (solid)",
    )
    rates = [row["rate"] for row in rows if row["rate"]]
    right = alt.Axis(orient="right", format="~g", grid=False, tickCount=5)
    rate = alt.Y("rate:Q", title="learning rate (dashed)", scale=alt.Scale(zero=True), axis=right)
    layers = [
        base.transform_filter("datum.kind == 'value'")
        .mark_line(strokeWidth=2)
        .encode(y=y, opacity=drawing.faded(pick))
        .add_params(pick)
    ]
    if rates:
        layers.append(
            base.transform_filter("datum.kind == 'rate'")
            .mark_line(strokeWidth=1.2, strokeDash=[4, 3])
            .encode(y=rate, opacity=drawing.faded(pick, shown=0.75))
        )
    chart = (
        alt.layer(*layers).resolve_scale(y="independent").properties(height=drawing.HEIGHT - 60, width=drawing.WIDTH)
    )
    size = analysis.ranked[0].batch_size
    return Figure(
        name="schedules-over-time",
        chart=chart,
        data={"rows": rows},
        label=f"The schedules at batch size {size} over the share of training, with their learning rates.",
    )


def _curves_sentence(analysis: Analysis) -> str:
    ranked = analysis.ranked
    late = sum(1 for cell in ranked if (_best_share(cell) or 0.0) >= LATE)
    first = ranked[0]
    assert first.best is not None, "a ranked cell has a best trial"
    record = next(record for record in first.records if record.number == first.best["number"])
    share, noise = _best_share(first), record.last_sd
    at = f" at {100 * share:.0f} % of its training" if share is not None else ""
    wobble = f"; its last evaluations scatter by {words.number(noise)}" if noise is not None else ""
    return (
        f"{late} of {words.count(len(ranked), 'winner')} "
        f"{'was' if late == 1 else 'were'} best in the last tenth of their training and may not have "
        f"finished; the best of all peaked{at}{wobble}."
    )


def _best_share(cell: CellResult) -> float | None:
    best = cell.best or {}
    return best["best_step"] / best["steps"] if best.get("best_step") and best.get("steps") else None


# -- the noise scale


def noise_panel(analysis: Analysis) -> Panel:
    """The gradient noise scale along a training, against the batch size it was trained with."""
    number, name, question = "7b", "noise", "Should the batch grow during training?"
    noise = analysis.data.probes.get("noise") or {}
    windows = [window for window in noise.get("windows") or () if is_number(window.get("noise_scale"))]
    if not windows:
        lack = "The gradient noise scale was not measured in this study."
        reasons = [str(window["reason"]) for window in noise.get("windows") or () if window.get("reason")]
        return Panel(number=number, name=name, question=question, sentence=f"{lack} {' '.join(reasons[:1])}".strip())
    rows = [_window_row(window) for window in windows]
    size = noise.get("batch_size")
    first, last = rows[0], rows[-1]
    said = (
        f"The noise scale goes from {words.number(first['noise_scale'])} to "
        f"{words.number(last['noise_scale'])} examples "
        f"over the training"
    )
    trained = f", which used batch size {size:,}" if size else ""
    advice = "" if not size else " Batches below it lose little by being larger; batches above it gain little."
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=f"{said}{trained}.{advice}",
        figures=[_noise_figure(rows, size)],
        notes=[
            f"Measured on one well-tuned training (learning rate {words.number(noise.get('learning_rate'))}, "
            f"{noise.get('optimizer') or 'its optimizer'}); it tells an order of magnitude, no critical batch size. "
            "Hollow points were not resolved: they are lower bounds."
        ],
    )


def _window_row(window: Row) -> Row:
    keys = ("examples", "noise_scale", "low", "high")
    return {key: window.get(key) for key in keys} | {"resolved": bool(window.get("resolved", True))}


def _noise_figure(rows: Rows, size: int | None) -> Figure:
    ends = [row[key] for row in rows for key in ("noise_scale", "low", "high") if is_number(row[key]) and row[key] > 0]
    values = [*ends, float(size)] if size else ends
    scale, axis = drawing.log_scale(values), alt.Axis(format=",~g", values=drawing.log_ticks(values))
    x = alt.X("examples:Q", title="examples processed", axis=alt.Axis(format="~s"))
    y = alt.Y("noise_scale:Q", title="gradient noise scale (examples)", scale=scale, axis=axis)
    base = alt.Chart(drawing.named("rows")).encode(x=x)
    fill = alt.condition("datum.resolved", alt.value(INK), alt.value("white"))
    layers = [
        base.mark_rule(color=GREY, clip=True).encode(
            y=alt.Y("low:Q", scale=scale, axis=axis, title=y["title"]), y2=alt.Y2("high:Q")
        ),
        base.mark_line(color=INK).encode(y=y),
        base.mark_point(size=60, stroke=INK).encode(
            y=y, fill=fill, tooltip=drawing.tips(["examples:Q", "noise_scale:Q", "low:Q", "high:Q"])
        ),
    ]
    data: dict[str, Rows] = {"rows": rows}
    if size:
        data["size"] = [{"noise_scale": size, "label": f"batch size {size:,}"}]
        line = alt.Chart(drawing.named("size"))
        layers.append(line.mark_rule(color="#D55E00", strokeDash=[5, 4]).encode(y=y))
        text = line.mark_text(align="left", dx=4, dy=-7, color="#b34700").encode(
            y=y, x=alt.value(0), text=alt.Text("label:N")
        )
        layers.append(text)
    chart = alt.layer(*layers).properties(height=190, width=drawing.WIDTH)
    return Figure(name="noise", chart=chart, data=data, label="Gradient noise scale over the training.")
