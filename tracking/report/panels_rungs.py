"""Panel 13: what rungs would have saved, and whether the best training would have come through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracking.analysis.study import Analysis
from tracking.report import words
from tracking.report.drawing import Panel, Table

NOTE = (
    "The rules of `search.promotion`, replayed on the trainings that ran to their end, in ten orders of arrival, with "
    "rungs at 1/9 and 1/3 of the training. The last column is the median over the orders."
)
FLATTERED = "Only trainings that the rungs of this search let through are in it: it flatters them."


def rungs_panel(analysis: Analysis) -> Panel:
    """How often the winner would have been stopped by each rule of promotion, replayed on completed trainings."""
    number, name, question = "13", "rungs", "Could I have stopped trainings early?"
    found = analysis.data.probes.get("rungs") or []
    if not found:
        lack = "This needs at least nine trainings that ran to their end."
        return Panel(number=number, name=name, question=question, sentence=lack)
    tuned = (analysis.data.space.get("search") or {}).get("strategy") == "tune"
    return Panel(
        number=number,
        name=name,
        question=question,
        sentence=_sentence(found),
        table=Table(
            columns=["rule", "compared within", "training spent", "the best came through", "worse than the best by"],
            rows=[_row(one) for one in found],
        ),
        notes=[NOTE, *([FLATTERED] if tuned else [])],
    )


def _sentence(found: list[Mapping[str, Any]]) -> str:
    first = found[0]
    return (
        f"Successive halving within each cell would have spent {first['cost']:.0%} of the training; in "
        f"{1.0 - first['kept']:.0%} of the orders it would have stopped the best of {first['trainings']:,}, and come "
        f"to something worse by {words.number(first['loss'])}."
    )


def _row(one: Mapping[str, Any]) -> list[str]:
    within = ", ".join(name.replace("_", " ") for name in one["within"]) or "everything"
    return [one["rule"], within, f"{one['cost']:.0%}", f"{one['kept']:.0%}", words.number(one["loss"])]
