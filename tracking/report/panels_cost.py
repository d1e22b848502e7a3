"""Panels 2 and 3: what speed costs in examples, and the batch size that is fastest on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from tracking.analysis.cells import ALONE, CellResult
from tracking.analysis.study import Analysis
from tracking.analysis.timing import seconds_to_target
from tracking.report import drawing, words
from tracking.report.drawing import GREY, INK, Figure, Panel, Rows
from tracking.report.panels_steps import cell_rows, colour, frontier, lacking


def pareto_panel(analysis: Analysis) -> Panel:
    """Examples against steps: compute against time without an end of parallelism."""
    number, name, question = "2", "pareto", "What do I pay for speed?"
    lack = lacking(analysis)
    if lack:
        return Panel(number=number, name=name, question=question, sentence=lack)
    data = {
        "cells": [row for row in cell_rows(analysis) if row["outcome"] != "never"],
        "lines": _pareto_lines(analysis),
    }
    label = f"Examples against steps to {words.target(analysis.data.metrics)}, one point per cell."
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_pareto_sentence(analysis),
        figures=[Figure(name=name, chart=_pareto_chart(analysis, data), data=data, label=label)],
        notes=_pareto_notes(data["lines"]),
    )


def _pareto_lines(analysis: Analysis) -> Rows:
    """The fit, and lines of equal time: steps x overhead + examples x time per example."""
    method, sizes = frontier(analysis), analysis.batch_sizes
    fit, clock = method.hyperbola, method.step_time
    # A line of equal time goes on beyond the sizes tried.
    across = drawing.grid(sizes[0] / 2, sizes[-1] * 2)
    rows: Rows = []
    if fit is not None and fit.reason is None:
        rows += [_pareto_row(size, fit.steps(size), "fit", "") for size in drawing.grid(sizes[0], sizes[-1])]
    times = [cell.seconds for cell in method.cells if math.isfinite(cell.seconds)]
    if clock is None or clock.reason is not None or not times:
        return rows
    for share, factor in ((0.3, 1.0), (0.45, 2.0), (0.6, 4.0)):
        total = min(times) * factor
        marked = across[int(share * len(across))]
        for size in across:
            label = words.seconds(total) if size == marked else ""
            rows.append(_pareto_row(size, total / clock.seconds(size), "time", label) | {"line": words.seconds(total)})
    return rows


def _pareto_row(size: float, steps: float, kind: str, label: str) -> dict[str, Any]:
    return {"steps": steps, "examples": size * steps, "line": kind, "kind": kind, "label": label}


def _pareto_chart(analysis: Analysis, data: dict[str, Rows]) -> drawing.Chart:
    pick = drawing.legend_toggle("method")
    cells = data["cells"]
    x = alt.X(
        "steps:Q",
        title="optimizer steps to the target",
        scale=drawing.log_scale([row["steps"] for row in cells], base=2),
        axis=alt.Axis(format=",d", tickCount=8),
    )
    y = alt.Y(
        "examples:Q",
        title="examples to the target (compute)",
        scale=drawing.log_scale([row["examples"] for row in cells], base=2, room=0.12),
        axis=alt.Axis(format=",d", tickCount=8),
    )
    base = alt.Chart(drawing.named("cells")).encode(x=x, y=y, color=colour(analysis))
    lines = alt.Chart(drawing.named("lines")).encode(x=x, y=y, detail=alt.Detail("line:N"))
    tip = ["method:N", "batch_size:Q", "steps:Q", "examples:Q", "seconds:Q", "rate:N", "outcome:N"]
    layers = [
        lines.transform_filter("datum.kind == 'fit'").mark_line(color=INK, strokeWidth=1.5, clip=True),
        lines.transform_filter("datum.kind == 'time'").mark_line(color=GREY, strokeDash=[2, 3], clip=True),
        lines.transform_filter("datum.label != ''")
        .mark_text(color=GREY, dy=-6, clip=True)
        .encode(text=alt.Text("label:N")),
        base.mark_line(strokeWidth=1.2).encode(
            order=alt.Order("batch_size:Q"), opacity=drawing.faded(pick, shown=0.35)
        ),
        *drawing.markers(base, tip, pick),
        base.mark_text(dx=9, dy=-8, fontSize=11, align="left").encode(
            text=alt.Text("batch:N"), opacity=drawing.faded(pick)
        ),
    ]
    return alt.layer(*layers).properties(height=drawing.HEIGHT + 60, width=drawing.WIDTH)


def _pareto_sentence(analysis: Analysis) -> str:
    arrived = [cell for cell in analysis.cells if math.isfinite(cell.steps)]
    quick = min(arrived, key=lambda cell: cell.steps)
    thrifty = min(arrived, key=lambda cell: (cell.speed.examples, cell.steps))
    if quick is thrifty:
        return (
            f"Nothing: {_short(quick)} needs both the fewest steps ({words.number(quick.steps)}) and the fewest "
            f"examples ({words.number(quick.speed.examples)})."
        )
    return (
        f"The fewest steps ({words.number(quick.steps)}, {_short(quick)}) cost "
        f"{words.number(quick.speed.examples / thrifty.speed.examples)} times the examples of the thriftiest cell "
        f"({words.number(thrifty.speed.examples)}, {_short(thrifty)}), which takes "
        f"{words.number(thrifty.steps / quick.steps)} times the steps."
    )


def _short(cell: CellResult) -> str:
    return f"batch size {cell.batch_size:,} with {cell.method}"


def _pareto_notes(lines: Rows) -> list[str]:
    if any(row["kind"] == "time" for row in lines):
        return [
            "The solid black line is the fit. Along a dotted line a training takes the same time on this machine. With "
            "one device a trial, seconds and device-seconds are the same."
        ]
    return ["Lines of equal time need the step times of at least 3 batch sizes."]


# -- 3: seconds to the target


def seconds_panel(analysis: Analysis) -> Panel:
    """Seconds to the target, from steps and the step time alone."""
    number, name, question = "3", "seconds", "Which batch should I run on this machine?"
    lack = lacking(analysis)
    if not lack and not any(cell.step_seconds for cell in analysis.cells):
        lack = "The study holds no step times."
    if lack:
        return Panel(number=number, name=name, question=question, sentence=lack)
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_seconds_sentence(analysis),
        figures=[_seconds_figure(analysis, name), *_resource_figures(analysis)],
        notes=list(_seconds_notes(analysis)),
        concerns=["memory", "timing"],
    )


def _seconds_figure(analysis: Analysis, name: str) -> Figure:
    rows = cell_rows(analysis)
    finite = [row["seconds"] for row in rows if math.isfinite(row["seconds"])]
    for row in rows:
        row["seconds"] = max(finite) * 1.8 if math.isinf(row["seconds"]) else row["seconds"]
    data = {"cells": rows, "model": _seconds_model(analysis), "best": _seconds_best(analysis)}
    x, beside = (drawing.batch_axis(analysis.batch_sizes, field_name=name) for name in ("batch_size", "place"))
    finite_or_top = [row["seconds"] for row in rows]
    scale, ticks = drawing.log_scale(finite_or_top), drawing.log_ticks(finite_or_top)
    y = alt.Y(
        "seconds:Q",
        title="seconds to the target (training alone)",
        scale=scale,
        axis=alt.Axis(format="~g", values=ticks),
    )
    pick = drawing.legend_toggle("method")
    base = alt.Chart(drawing.named("cells")).encode(x=beside, y=y, color=colour(analysis))
    tip = ["method:N", "batch_size:Q", "seconds:Q", "steps:Q", "rate:N", "outcome:N"]
    best = alt.Chart(drawing.named("best"))
    layers = [
        alt.Chart(drawing.named("model")).mark_line(color=INK, strokeDash=[5, 4], clip=True).encode(x=x, y=y),
        base.transform_filter("datum.outcome != 'never'")
        .mark_line(strokeWidth=1.5)
        .encode(opacity=drawing.faded(pick, shown=0.7)),
        *drawing.markers(base, tip, pick),
        best.mark_rule(color=INK, strokeWidth=1.5).encode(x=x),
        best.mark_text(align="left", dx=5, dy=12, fontSize=12, color=INK).encode(
            x=x, y=alt.value(0), text=alt.Text("label:N")
        ),
    ]
    chart = alt.layer(*layers).properties(height=drawing.HEIGHT, width=drawing.WIDTH)
    return Figure(name=name, chart=chart, data=data, label="Seconds to the target against batch size.")


def _seconds_model(analysis: Analysis) -> Rows:
    method, sizes = frontier(analysis), analysis.batch_sizes
    fit, clock = method.hyperbola, method.step_time
    if fit is None or fit.reason is not None or clock is None or clock.reason is not None:
        return []
    return [
        {"batch_size": size, "seconds": seconds_to_target(fit, clock, size)}
        for size in drawing.grid(sizes[0], sizes[-1])
    ]


def _seconds_best(analysis: Analysis) -> Rows:
    best, sizes = frontier(analysis).time_optimal, analysis.batch_sizes
    if best is None or best.reason is not None or not sizes[0] / 1.4 <= best.batch_size <= sizes[-1] * 1.4:
        return []
    end = f" ({_limit(analysis)})" if best.clipped else ""
    return [{"batch_size": best.batch_size, "label": f"B* {words.number(best.batch_size)}{end}"}]


def _seconds_sentence(analysis: Analysis) -> str:
    timed = [cell for cell in analysis.cells if math.isfinite(cell.seconds)]
    first = min(timed, key=lambda cell: cell.seconds)
    said = (
        f"Measured fastest: {_short(first)}, {words.seconds(first.seconds)} to "
        f"{words.target(analysis.data.metrics)} ({words.number(first.steps)} steps of "
        f"{words.seconds(first.step_seconds)})"
    )
    best = frontier(analysis).time_optimal
    if best is None or best.reason is not None:
        return f"{said}."
    limit = f", where {_limit(analysis)}," if best.clipped else ""
    return (
        f"{said}; by the fits a batch size of {words.number(best.batch_size)}{limit} is fastest "
        f"({words.seconds(best.seconds)}), and any from {words.interval(best.low, best.high)} is within a tenth of it."
    )


def _limit(analysis: Analysis) -> str:
    """What ends the batch sizes that are possible."""
    data = analysis.data
    if data.memory_limit is not None and data.memory_limit == data.largest:
        return "memory ends"
    return "the training set ends"


def _seconds_notes(analysis: Analysis) -> Iterator[str]:
    method = frontier(analysis)
    clock = method.step_time
    if clock is not None and clock.reason is None:
        yield (
            f"A step takes {words.seconds(clock.overhead)} + {words.seconds(clock.per_example)} per example: half of "
            f"the greatest throughput at batch size {words.number(clock.half_batch)}."
        )
    elif clock is not None:
        yield f"No model of the step time: it {clock.reason}."
    if method.time_optimal is not None and method.time_optimal.reason is not None:
        yield f"No time-optimal batch size: {method.time_optimal.reason.rstrip('.')}."
    if analysis.data.probes.get("steps") or any(row.get("time_mode") == ALONE for row in analysis.data.trials):
        yield "Seconds are steps times the step time of a training that runs alone, not those of the busy search."
    if analysis.data.memory_limit is not None:
        yield f"Batch size {analysis.data.memory_limit:,} fitted into memory, and the next one tried did not."
    if not analysis.data.probes.get("memory"):
        yield "Peak memory was not measured in this study."


def _resource_figures(analysis: Analysis) -> list[Figure]:
    times: dict[int, float] = {cell.batch_size: cell.step_seconds for cell in analysis.cells if cell.step_seconds}
    throughput = [{"batch_size": size, "value": size / seconds} for size, seconds in sorted(times.items())]
    memory = [
        {"batch_size": row["batch_size"], "value": row["peak_bytes"] / 2**20}
        for row in analysis.data.probes.get("memory") or ()
        if row.get("peak_bytes")
    ]
    figures = [_small("throughput", throughput, "examples per second", analysis.batch_sizes)]
    if memory:
        sizes = sorted({*analysis.batch_sizes, *(row["batch_size"] for row in memory)})
        figures.append(_small("memory", memory, "peak memory (MiB)", sizes))
    return figures


def _small(name: str, rows: list[dict[str, Any]], title: str, sizes: Sequence[int]) -> Figure:
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(format=",~r", tickCount=5))
    base = alt.Chart(drawing.named("rows")).encode(x=drawing.batch_axis(sizes), y=y)
    tip = ["batch_size:Q", "value:Q"]
    chart = alt.layer(
        base.mark_line(color=GREY), base.mark_point(color=INK, filled=True, size=45).encode(tooltip=drawing.tips(tip))
    )
    sized = chart.properties(height=150, width=drawing.WIDTH)
    return Figure(name=name, chart=sized, data={"rows": rows}, label=f"{title} against batch size.")
