"""Panel 11: were the workers kept busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import altair as alt

from tracking.analysis.data import StudyData
from tracking.analysis.study import Analysis
from tracking.report import drawing, words
from tracking.report.drawing import Figure, Panel, Rows
from tracking.spans import Span

UNITS = ((7200.0, 3600.0, "hours"), (600.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From how many seconds on the axis has a unit, its seconds, its name."""
TALL, SLIM, MANY = 28, 12, 12
"""Pixels of a worker's row; slim where there are many."""
DENSE = 150
"""Bars of a worker from which on no line parts them: it would cover them."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Trials that trained together on one worker: one segment, alone or as an array."""

    worker: str
    batch_size: int
    begin: float
    end: float
    """Unix seconds."""
    trials: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the workers did in one stretch of the search."""

    packs: Sequence[Pack]
    """In the order in which they began."""

    @property
    def begin(self) -> float:
        """When the first training began."""
        return min(pack.begin for pack in self.packs)

    @property
    def end(self) -> float:
        """When the last training ended."""
        return max(pack.end for pack in self.packs)

    @property
    def workers(self) -> list[str]:
        """In the order in which they began."""
        return list(dict.fromkeys(pack.worker for pack in self.packs))

    @property
    def busy(self) -> float:
        """Seconds in which workers trained, added up."""
        return sum(
            covered((pack.begin, pack.end) for pack in self.packs if pack.worker == worker) for worker in self.workers
        )

    @property
    def alone(self) -> float:
        """Seconds at the end in which a single worker trained."""
        ends = sorted(max(pack.end for pack in self.packs if pack.worker == worker) for worker in self.workers)
        return ends[-1] - ends[-2] if len(ends) > 1 else 0.0


def timeline_panel(analysis: Analysis) -> Panel:
    """One bar for each training, by worker, over the time of the search."""
    number, name, question = "11", "timeline", "Were the workers kept busy?"
    packs = packs_of(analysis.data)
    if not packs:
        lack = "No trial of this study says which worker trained it, from when to when."
        return Panel(number=number, name=name, question=question, sentence=lack)
    stretches = stretches_of(packs)
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_sentence(stretches),
        figures=[_figure(analysis, stretches, name)],
        notes=_notes(analysis, packs, stretches),
    )


def packs_of(data: StudyData) -> list[Pack]:
    """The segments of those trials that say when and where they ran, in the order in which they began."""
    together: dict[tuple[float, str, int], list[Span]] = defaultdict(list)
    for row in data.trials:
        for span in data.spans.get(row["number"], ()):
            together[span.begin, span.worker, row["batch_size"]].append(span)
    return [
        Pack(worker=worker, batch_size=size, begin=begin, end=max(span.end for span in spans), trials=len(spans))
        for (begin, worker, size), spans in sorted(together.items(), key=lambda entry: entry[0])
    ]


def stretches_of(packs: Sequence[Pack]) -> list[Work]:
    """Packs by stretch of the search: a pause after which all workers are new ones is none in which they waited."""
    last: dict[str, float] = {}
    for pack in packs:
        last[pack.worker] = max(pack.end, last.get(pack.worker, pack.end))
    stretches: list[list[Pack]] = []
    reached = float("-inf")
    for pack in packs:
        if reached <= pack.begin:
            stretches.append([])
        stretches[-1].append(pack)
        # A worker belongs to the stretch until its last training is over, whether it works or waits.
        reached = max(reached, last[pack.worker])
    return [Work(packs=one) for one in stretches]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals cover together."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _sentence(stretches: Sequence[Work]) -> str:
    given = sum(len(one.workers) * (one.end - one.begin) for one in stretches)
    share = sum(one.busy for one in stretches) / given if given else 1.0
    most = max(len(one.workers) for one in stretches)
    took = sum(one.end - one.begin for one in stretches)
    said = (
        f"{words.count(most, 'worker')} trained for {100 * share:.0f} % of the {words.seconds(took)} between the first "
        "start and the last end"
    )
    alone = stretches[-1].alone
    return f"{said}; for the last {words.seconds(alone)} one of them worked alone." if alone > 0 else f"{said}."


def _notes(analysis: Analysis, packs: Sequence[Pack], stretches: Sequence[Work]) -> list[str]:
    trials, shown = len(analysis.data.trials), sum(row["number"] in analysis.data.spans for row in analysis.data.trials)
    notes = [
        f"Each bar is a stretch of training, alone or side by side: {words.count(shown, 'trial')} in "
        f"{words.count(len(packs), 'bar')}."
    ]
    if len(stretches) > 1:
        notes.append(
            f"The search ran in {len(stretches)} stretches, each with workers of its own; the pauses are left out."
        )
    if shown < trials:
        notes.append(f"{trials - shown} of {words.count(trials, 'trial')} do not say when and where they ran.")
    return notes


def _bars(stretches: Sequence[Work], unit: float) -> Rows:
    """One row for each pack, its times in units since the first start, pauses between stretches left out."""
    rows, before = [], 0.0
    for one in stretches:
        shift = before - one.begin
        rows += [
            {
                "worker": pack.worker,
                "batch": str(pack.batch_size),
                "begin": (pack.begin + shift) / unit,
                "end": (pack.end + shift) / unit,
                "lasted": words.seconds(pack.end - pack.begin),
                "trials": pack.trials,
            }
            for pack in one.packs
        ]
        before += one.end - one.begin
    return rows


def _figure(analysis: Analysis, stretches: Sequence[Work], name: str) -> Figure:
    total = sum(one.end - one.begin for one in stretches)
    size, unit = next((size, unit) for least, size, unit in UNITS if total >= least)
    workers = list(dict.fromkeys(worker for one in stretches for worker in one.workers))
    pick = drawing.legend_toggle("batch")
    dense = sum(len(one.packs) for one in stretches) > DENSE * len(workers)
    bars = alt.Chart(drawing.named("packs")).mark_bar(stroke="white", strokeWidth=0 if dense else 1, clip=True)
    chart = bars.encode(
        x=alt.X("begin:Q", title=f"{unit} since the first start", axis=alt.Axis(format=",~r")),
        x2=alt.X2("end:Q"),
        y=alt.Y("worker:N", title="worker", sort=workers, axis=alt.Axis(labelLimit=110)),
        color=drawing.batch_colour(analysis.batch_sizes),
        opacity=drawing.faded(pick),
        tooltip=drawing.tips(["worker:N", "batch:N", "trials:Q", "lasted:N"]),
    )
    height = max(len(workers) * (SLIM if len(workers) > MANY else TALL), 2 * TALL)
    sized = chart.add_params(pick).properties(height=height, width=drawing.WIDTH)
    data = {"packs": _bars(stretches, size)}
    return Figure(name=name, chart=sized, data=data, label="When each worker trained which batch size.")
