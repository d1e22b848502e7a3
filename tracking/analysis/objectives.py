"""What a trial came to in each of a search's objectives, and which trials none is better than: from plain rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tracking.analysis.curves import loss
from tracking.analysis.pareto import Score, front

TO_TARGET = ("steps_to_target", "examples_to_target", "seconds_to_target")
"""Objectives that a trial comes to when it reaches the target, by the column that has them."""
COST = "cost"
"""The objective that is the whole training's seconds on one worker."""
COLUMNS = {**{name: name for name in TO_TARGET}, COST: "seconds"}
"""Where a row has an objective other than the metric."""


def objectives_of(space: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Names of a search's objectives; of a search that does not say, the metric."""
    return list((space.get("search") or {}).get("objectives") or [metrics["objective"]])


def score_of(row: Mapping[str, Any], objectives: Sequence[str], direction: str) -> Score:
    """What a trial's row says of each objective."""
    metric = math.inf if row.get("value") is None else loss(row["value"], direction)
    known = {name: row.get(column) for name, column in COLUMNS.items()}
    losses = [known.get(name) if name in COLUMNS else metric for name in objectives]
    return Score(tuple(math.inf if value is None or math.isnan(value) else float(value) for value in losses), metric)


def marked(
    rows: Sequence[dict[str, Any]], space: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The rows of a search with several objectives, each with whether the trial lies on the `front`; others as given.

    Only complete trials of the search do: what was run again on fresh seeds is no part of it.
    """
    names = objectives_of(space or {}, metrics or {"objective": ""})
    if len(names) < 2 or metrics is None:
        return list(rows)
    complete = [row for row in rows if row["status"] == "COMPLETE" and row["phase"] != "confirm"]
    direction = str(metrics.get("direction") or "min")
    best = front([score_of(row, names, direction) for row in complete])
    numbers = {complete[index]["number"] for index in best}
    return [{**row, "front": row["number"] in numbers} for row in rows]
