"""Panels 14 and 15: what the rungs of a search let through, and whether they rank trainings as their end does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt

from tracking.analysis.data import StudyData
from tracking.analysis.rungs import (
    LEAST,
    Agreement,
    RungResult,
    agreements,
    is_tune,
    progress_of_rungs,
    promotion_of,
    rung_results,
    shares_trained,
)
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import GREY, INK, METHODS, WARNING, Figure, Panel, Rows, Table
from tracking.report.panels_rates import facets

FATES = {
    "trained to its end": METHODS[0],
    "passed over": METHODS[4],
    "broke or failed": WARNING,
    "not ended yet": GREY,
}
SELECTED = (
    "Only trainings that the rungs let through are in it: those that were passed over have no end to compare with, and "
    "a correlation among the promoted is lower than it would be among all."
)


def promotion_panel(analysis: Analysis) -> Panel | None:
    """How many trials came to each rung and went on, in the order of asking; None without rungs."""
    data = analysis.data
    if not is_tune(data) or promotion_of(data)["rule"] == "none":
        return None
    number, name, question = "14", "promotion", "Which trials went on from the rungs?"
    found, shares = rung_results(data), shares_trained(data)
    rows = [_fate(row, shares[row["number"]]) for row in data.trials if row["number"] in shares]
    if not rows:
        lack = "No trial has an evaluation yet."
        return Panel(number=number, name=name, question=question, sentence=lack)
    notes = ["What went on is counted from the evaluations; when it went on is not kept."]
    if promotion_of(data)["rule"] == "hyperband":
        notes.append("With hyperband, trials of later brackets go past earlier rungs unseen: they count as gone on.")
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=promotion_sentence(data, found),
        figures=[_promotion_figure(data, rows, name)],
        table=Table(columns=["rung", "came to it", "went on", "passed over", "waiting"], rows=_table(found)),
        notes=notes,
    )


def promotion_sentence(data: StudyData, found: Sequence[RungResult]) -> str:
    """How many trials came how far."""
    complete = sum(row["status"] == "COMPLETE" for row in data.trials)
    came = words.listed([f"{one.came:,} to {one.progress:.0%}" for one in found])
    return f"Of {words.count(len(data.trials), 'trial')} came {came} of the training, and {complete:,} to its end."


def _table(found: Sequence[RungResult]) -> list[list[str]]:
    counts = [(one.progress, one.came, one.on, one.passed_over, one.waiting) for one in found]
    return [[f"{progress:.0%}", *(f"{count:,}" for count in rest)] for progress, *rest in counts]


def _fate(row: dict[str, object], share: float) -> dict[str, object]:
    ends = {"COMPLETE": "trained to its end", "PRUNED": "passed over", "RUNNING": "not ended yet"}
    known = {key: row.get(key) for key in ("number", "cell", "learning_rate", "value")}
    return {**known, "share": share, "fate": ends.get(str(row["status"]), "broke or failed")}


def _promotion_figure(data: StudyData, rows: Rows, name: str) -> Figure:
    rungs = [{"share": progress} for progress in progress_of_rungs(data)]
    pick = drawing.legend_toggle("fate")
    scale = alt.Scale(domain=list(FATES), range=list(FATES.values()))
    base = alt.Chart(drawing.named("trials")).encode(
        x=alt.X("number:Q", title="trial, in the order of asking", scale=alt.Scale(nice=False, padding=8)),
        color=alt.Color("fate:N", scale=scale, sort=None, title=None),
        opacity=drawing.faded(pick),
        tooltip=drawing.tips(["number:Q", "cell:N", "learning_rate:Q", "value:Q", "share:Q", "fate:N"]),
    )
    ticks = [*progress_of_rungs(data), 1.0]
    y = alt.Y("share:Q", title="share of the training", axis=alt.Axis(format=".0%", values=ticks), scale=_unit())
    rules = alt.Chart(drawing.named("rungs")).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y=y)
    bars = base.mark_rule(strokeWidth=1).encode(y=y, y2=alt.Y2Datum(0))
    points = base.mark_point(size=35, filled=True).encode(y=y).add_params(pick)
    chart = alt.layer(rules, bars, points).properties(height=drawing.HEIGHT, width=drawing.WIDTH)
    label = "How far each trial was trained, in the order of asking; dashed lines are rungs."
    return Figure(name=name, chart=chart, data={"trials": rows, "rungs": rungs}, label=label)


def _unit() -> alt.Scale:
    return alt.Scale(domain=[0, 1.03], nice=False)


def ranks_panel(analysis: Analysis) -> Panel | None:
    """Ranks of complete trainings at the rungs against those at the end; None for a search that is no `tune`."""
    data = analysis.data
    if not is_tune(data):
        return None
    number, name, question = "15", "ranks", "Do the rungs rank trainings as their end does?"
    found = agreements(data)
    if not found or max(len(one.ranks) for one in found) < LEAST:
        lack = f"This needs at least {LEAST} trainings that ran to their end, with an evaluation at a rung."
        return Panel(number=number, name=name, question=question, sentence=lack)
    compared = "; those drawn here would have been compared" if promotion_of(data)["rule"] == "none" else ""
    within = words.listed([axis.replace("_", " ") for axis in promotion_of(data)["within"]]) or "nothing: all together"
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_ranks_sentence(found),
        figures=[_ranks_figure(analysis, found, name)],
        table=Table(
            columns=["rung", "trainings", "Spearman's rho, all", "within its group", "trainings with a rival"],
            rows=[
                [f"{one.progress:.0%}", f"{len(one.ranks)}", _signed(one.rho), _signed(one.within), f"{one.pairs}"]
                for one in found
            ],
        ),
        notes=[
            f"Promotion compares within the same {within}{compared}: there its ranks must hold.",
            *([SELECTED] if promotion_of(data)["rule"] != "none" else []),
        ],
    )


def _ranks_sentence(found: Sequence[Agreement]) -> str:
    told = [f"{_signed(one.rho)} at {one.progress:.0%} of the training" for one in found if not math.isnan(one.rho)]
    if not told:
        return "All trainings are level at the rungs or at the end: there is no order to compare."
    return (
        f"Spearman's rho between the ranks at a rung and those at the end is {words.listed(told)} (1: the same order)."
    )


def _signed(rho: float) -> str:
    return "–" if math.isnan(rho) else f"{rho:.2f}"


def _ranks_figure(analysis: Analysis, found: Sequence[Agreement], name: str) -> Figure:
    rows: Rows = [
        {
            "rung": f"at {one.progress:.0%} of the training",
            "there": there,
            "end": end,
            "batch": str(row["batch_size"]),
            **{key: row.get(key) for key in ("number", "cell", "learning_rate", "value")},
        }
        for one in found
        for row, there, end in one.ranks
    ]
    most = max(row["end"] for row in rows) + 0.5
    scale = alt.Scale(domain=[0.5, most], nice=False)
    axis = alt.Axis(format="d", tickMinStep=1, tickCount=6)
    pick = drawing.legend_toggle("batch")
    points = (
        alt.Chart()
        .mark_point(size=60, filled=True)
        .encode(
            x=alt.X("there:Q", title="rank at the rung (1 is best)", scale=scale, axis=axis),
            y=alt.Y("end:Q", title="rank at the end", scale=scale, axis=axis),
            color=drawing.batch_colour(analysis.batch_sizes),
            opacity=drawing.faded(pick),
            tooltip=drawing.tips(["number:Q", "cell:N", "learning_rate:Q", "value:Q", "there:Q", "end:Q"]),
        )
        .add_params(pick)
    )
    same = alt.Chart().mark_line(color=INK, strokeDash=[4, 3], strokeWidth=1).encode(x="there:Q", y="there:Q")
    names = list(dict.fromkeys(row["rung"] for row in rows))
    chart = facets(alt.layer(same, points), "ranks", names, by="rung", height=drawing.HEIGHT)
    label = "Rank of each complete training at a rung against its rank at the end, one picture for each rung."
    return Figure(name=name, chart=chart, data={"ranks": rows}, label=label, columns=min(2, len(names)))
