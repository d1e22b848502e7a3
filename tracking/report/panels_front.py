"""Panel 12: the trials that none is better than, of a search with several objectives."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from tracking.analysis.objectives import COST, objectives_of, score_of
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import GREY, METHODS, Figure, Panel, Rows
from tracking.rows import Row

TITLES = {
    "steps_to_target": "steps to the target",
    "examples_to_target": "examples to the target",
    "seconds_to_target": "seconds to the target",
    COST: "seconds of the whole training",
}


def front_panel(analysis: Analysis) -> Panel | None:
    """The first objective against each other one; None for a search with a single one."""
    data = analysis.data
    names = objectives_of(data.space, data.metrics)
    if len(names) < 2:
        return None
    number, name, question = "12", "front", "What do I give up for what?"
    complete = [row for row in data.trials if row["status"] == "COMPLETE"]
    arrived = [row for row in complete if score_of(row, names, data.direction).arrived]
    if not arrived:
        lack = "No complete trial has come to a value in every objective."
        return Panel(number=number, name=name, question=question, sentence=lack)
    rows = [_row(analysis, row, names) for row in arrived]
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_sentence(analysis, rows, names),
        figures=[_figure(rows, names[0], other, alone=len(names) == 2) for other in names[1:]],
        notes=_notes(names, len(complete) - len(arrived)),
    )


def _row(analysis: Analysis, row: Row, names: Sequence[str]) -> Row:
    # Signs once more: a metric that is to be large is drawn as it is.
    signs = [-1 if name == analysis.data.objective and analysis.data.direction == "max" else 1 for name in names]
    losses = score_of(row, names, analysis.data.direction).losses
    known = {name: sign * loss for name, sign, loss in zip(names, signs, losses, strict=True)}
    given = {key: row.get(key) for key in ("number", "cell", "learning_rate", "front")}
    return {**given, **known}


def _sentence(analysis: Analysis, rows: Rows, names: Sequence[str]) -> str:
    first, last = names[0], names[1]
    sign = -1 if first == analysis.data.objective and analysis.data.direction == "max" else 1
    best = sorted((row for row in rows if row["front"]), key=lambda row: sign * row[first])
    total = words.count(len(rows), "complete trial")
    if len(best) == 1:
        return f"Of {total} one is the best in every objective: {_named(best[0], names)}."
    return (
        f"Of {total}, {len(best)} lie on the front, each better than any other in something. They reach from "
        f"{_named(best[0], (first, last))} to {_named(best[-1], (first, last))}."
    )


def _named(row: Row, names: Sequence[str]) -> str:
    came = words.listed([f"{words.number(row[name])} {TITLES.get(name, name)}" for name in names])
    return f"{came} ({row['cell']}, trial {row['number']})"


def _notes(names: Sequence[str], censored: int) -> list[str]:
    notes = ["Each point is a single run: with other seeds, neighbours on the front may change places."]
    if censored:
        notes.append(f"Not drawn: {words.count(censored, 'complete trial')} that never reached the target.")
    if {"seconds_to_target", COST} & set(names):
        notes.append("Seconds are those of this machine while all its workers trained: they vary by some percent.")
    return notes


def _figure(rows: Rows, first: str, other: str, *, alone: bool) -> Figure:
    scales = {name: drawing.log_scale([row[name] for row in rows]) for name in (first, other) if _positive(rows, name)}
    axes = {name: alt.Axis(format="~g", values=drawing.log_ticks([row[name] for row in rows])) for name in scales}
    plain = alt.Axis(format="~g")
    base = alt.Chart(drawing.named("front")).encode(
        x=alt.X(f"{other}:Q", title=TITLES.get(other, other), scale=_scale(scales, other), axis=axes.get(other, plain)),
        y=alt.Y(f"{first}:Q", title=TITLES.get(first, first), scale=_scale(scales, first), axis=axes.get(first, plain)),
        tooltip=drawing.tips(["number:Q", "cell:N", "learning_rate:Q", f"{first}:Q", f"{other}:Q"]),
    )
    best = base.transform_filter("datum.front")
    layers = [
        base.mark_point(size=45, color=GREY, strokeWidth=1.5).transform_filter("!datum.front"),
        # In a third objective's company, the line would join what does not follow from each other.
        *([best.mark_line(color=METHODS[0], interpolate="step-after", strokeWidth=1.5, strokeDash=[4, 3])] * alone),
        best.mark_point(size=90, color=METHODS[0], filled=True, opacity=1),
        best.mark_text(align="left", dx=8, dy=-8, color=METHODS[0]).encode(text="number:Q"),
    ]
    chart = alt.layer(*layers).properties(height=drawing.HEIGHT, width=drawing.WIDTH)
    label = f"{TITLES.get(first, first)} against {TITLES.get(other, other)}, one point for each complete trial."
    return Figure(name=f"front-{other}", chart=chart, data={"front": rows}, label=label)


def _positive(rows: Rows, name: str) -> bool:
    return all(row[name] > 0 for row in rows)


def _scale(scales: dict[str, alt.Scale], name: str) -> alt.Scale:
    return scales.get(name, alt.Scale(zero=False))
