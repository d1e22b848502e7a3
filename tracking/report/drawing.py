"""How the report draws: one palette, one theme, axes with units, and a chart as plain Vega-Lite."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from tracking.analysis.cell_checks import Check

INK, GREY, WARNING = "#222222", "#8a8a8a", "#b3261e"
METHODS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7a5195", "#8c6d31")
"""Okabe and Ito's colours, told apart by color-blind readers; the last two are ours, for grids of many methods."""
BATCH_STOPS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c2c81f")
"""Viridis, whose order survives without colour; the yellow end is darkened to be seen on white."""
HEIGHT = 320
WIDTH = 760
"""Pixels of a figure in a PNG; on the page it is as wide as the page."""
FACET_HEIGHT = 200
BATCH_TITLE = "batch size (examples per step)"
ASIDE = 0.05
"""Doublings by which points of one batch size stand beside each other, so that none hides another."""
SHOWN_POINTS = 60
"""A curve is thinned to about this many points."""

ARRIVED, EDGE, NEVER = "arrived", "edge of its rates", "never"
"""What a point stands for: a cell whose numbers can be trusted, one whose best rate is at an end, one without a hit."""

Rows = list[dict[str, Any]]
Chart = Any
"""Altair's charts share methods but no useful common type."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart with its data."""

    name: str
    """File name of its PNG, without the suffix."""
    chart: Chart
    data: Mapping[str, Rows]
    label: str
    """What it shows, for those who cannot see it."""
    columns: int = 0
    """Small multiples in a row; 0: a single view."""

    @functools.cached_property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, with its data inside; made once, for the page and for the picture."""
        # Altair looks at each part when it is made; once more for the whole takes as long as all the rest.
        spec: dict[str, Any] = self.chart.to_dict(validate=False)
        spec["datasets"] = {name: [plain(row) for row in rows] for name, rows in self.data.items()}
        spec["config"] = CONFIG
        spec["description"] = self.label
        return spec


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a heading each."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A question, the sentence that answers it, what shows it, and what to beware of."""

    number: str
    name: str
    question: str
    sentence: str
    figures: Sequence[Figure] = ()
    table: Table | None = None
    notes: Sequence[str] = ()
    """What the study lacks, and on what the numbers depend."""
    concerns: Sequence[str] = ()
    """Names of the checks whose warnings belong here."""
    warnings: Sequence[Check] = field(default=())


CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "DejaVu Sans, Verdana, sans-serif",
    "view": {"stroke": "#d0d0d0"},
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titleColor": INK,
        "labelColor": INK,
        "gridColor": "#ececec",
        "tickColor": GREY,
        "domainColor": GREY,
        "labelOverlap": "greedy",
        "titlePadding": 8,
    },
    "legend": {
        "orient": "top",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
        "columns": 6,
        # Two legends stand below each other: side by side they leave a phone's screen.
        "layout": {"top": {"anchor": "start", "direction": "vertical", "margin": 4}},
        "labelLimit": 220,
    },
    "header": {"labelFontSize": 12, "labelFontWeight": "bold", "titleFontSize": 12, "labelColor": INK},
    "axisY": {"titleLimit": 300},
}


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has neither infinity nor NaN: what is not a number is null, and is not drawn."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else _short(value)
        for key, value in row.items()
    }


def _short(value: Any) -> Any:
    # Six digits are more than a pixel shows and half as many bytes.
    return float(f"{value:.6g}") if isinstance(value, float) else value


def batch_colours(sizes: Sequence[int]) -> list[str]:
    """A colour for each batch size, dark for the small."""
    return [_between(index / max(1, len(sizes) - 1)) for index in range(len(sizes))]


def _between(share: float) -> str:
    place = share * (len(BATCH_STOPS) - 1)
    first = min(int(place), len(BATCH_STOPS) - 2)
    ends = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in BATCH_STOPS[first : first + 2]]
    mixed = [round(a + (b - a) * (place - first)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def batch_colour(sizes: Sequence[int]) -> Any:
    """The colour channel of batch sizes, the same in every panel."""
    scale = alt.Scale(domain=[str(size) for size in sizes], range=batch_colours(sizes))
    return alt.Color("batch:N", scale=scale, sort=None, title="batch size (examples)")


def method_colour(names: Sequence[str], *, shown: bool = True) -> Any:
    """The colour channel of schedules (and optimizers), the same in every panel."""
    colours = [METHODS[index % len(METHODS)] for index in range(len(names))]
    scale = alt.Scale(domain=list(names), range=colours)
    return alt.Color("method:N", scale=scale, sort=None, legend=alt.Legend(title=None) if shown else None)


def batch_axis(sizes: Sequence[int], *, field_name: str = "batch_size", title: str = BATCH_TITLE) -> Any:
    """A log2 axis whose ticks are the real sizes."""
    low, high = min(sizes), max(sizes)
    scale = alt.Scale(type="log", base=2, domain=[low / 1.4, high * 1.4], nice=False)
    return alt.X(f"{field_name}:Q", title=title, scale=scale, axis=alt.Axis(values=list(sizes), format=",d"))


def place(size: int, name: str, names: Sequence[str]) -> float:
    """Where a method's point of a batch size is drawn: a little beside those of the other methods."""
    return float(size * 2 ** (ASIDE * (list(names).index(name) - (len(names) - 1) / 2)))


def log_ticks(values: Iterable[float]) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, and numbers between them where the axis spans little."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite:
        return []
    low, high = math.log10(min(finite)), math.log10(max(finite))
    steps = (1, 2, 3, 4, 5, 6, 8) if high - low < 0.7 else (1, 2, 3, 5) if high - low < 1.5 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1, max(1, math.ceil((high - low) / 8)))
    return [factor * 10.0**power for power in powers for factor in (steps if high - low < 3 else (1,))]


def log_scale(values: Iterable[float], *, base: float = 10.0, room: float = 0.08) -> Any:
    """A logarithmic scale about the finite positive values, with a little room."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite:
        return alt.Scale(type="log", base=base)
    low, high = min(finite), max(finite)
    reach = max((high / low) ** room, 1.15)
    return alt.Scale(type="log", base=base, domain=[low / reach, high * reach], nice=False)


def legend_toggle(field_name: str) -> Any:
    """Clicks on the legend choose what is shown; none chosen, all is."""
    return alt.selection_point(fields=[field_name], bind="legend", name=f"pick_{field_name}", toggle="true")


def faded(selection: Any, *, shown: float = 1.0) -> Any:
    """Opacity of what the legend's choice leaves out."""
    return alt.OpacityValue(0.08, condition={"param": selection.name, "value": shown})


def tips(fields: Sequence[str]) -> list[Any]:
    """What shows under the pointer. (Altair takes plain strings too, but is fifty times slower at it.)"""
    return [alt.Tooltip(field_name) for field_name in fields]


def named(name: str) -> Any:
    """A data set of the figure, by name."""
    return alt.NamedData(name=name)


def thinned(points: Sequence[Any], *, at_most: int = SHOWN_POINTS) -> list[Any]:
    """Evenly chosen points, the first and the last among them."""
    if len(points) <= at_most:
        return list(points)
    stride = (len(points) - 1) / (at_most - 1)
    return [points[round(index * stride)] for index in range(at_most)]


def grid(low: float, high: float, *, points: int = 60) -> list[float]:
    """Evenly spaced in the logarithm."""
    return [low * (high / low) ** (index / (points - 1)) for index in range(points)]


def markers(base: Chart, tip: list[str], pick: Chart, *, size: int = 70) -> list[Chart]:
    """Filled points, hollow ones at the edge of the rates searched, and crosses for what never arrived.

    One layer each: a fill that depends on the row would take the legend with it.
    """
    kinds: dict[str, dict[str, Any]] = {
        ARRIVED: {"filled": True},
        EDGE: {"fill": "white"},
        NEVER: {"shape": "cross", "angle": 45, "filled": True},
    }
    layers = [
        base.transform_filter(f"datum.outcome == '{outcome}'")
        .mark_point(size=size, strokeWidth=2, **look)
        .encode(opacity=faded(pick), tooltip=tips(tip))
        for outcome, look in kinds.items()
    ]
    # Not the crosses: clicks on the legend are lost if their layer, with a shape of its own, holds the parameter.
    return [layers[0].add_params(pick), *layers[1:]]
