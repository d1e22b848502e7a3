"""Whether the entries of a ledger are those of a search: looked at before anything is concluded from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from models.config import ClassConfig, DataConfig, MetricsConfig
from models.plain import misfit
from models.segment import SegmentResult
from search.knowledge import Knowledge
from search.trial import TrialConfig, TrialResult
from tracking.ledger import SEARCH_RUN, Ledger

AXES = ("batch_size", "optimizer", "schedule")
"""Parameters that every trial has."""
OF_POINT = ("step", "examples", "epoch", "seconds")
OF_SEGMENT = ("curve", "tags", "started", "seconds", "wall_seconds", "examples")
OF_RESULT = ("value", "best", "final", "steps", "examples", "epochs", "seconds", "wall_seconds")
"""What every evaluation, segment and result has, also in studies of earlier versions."""
COUNTS = ("most_examples", "too_large")
"""Notes of a number of examples."""
NOTES: Mapping[str, type] = {
    **dict.fromkeys(("id", "recipe", "study", "experiment", "status", "description"), str),
    **dict.fromkeys(("space", "params", "tags", "view", "bounds", "metrics", "origin", "probes"), dict),
    **dict.fromkeys(("calibration", "verification", "verified", "analysis", "paused"), dict),
    "knowledge": dict,
    "audit": list,
    **dict.fromkeys(COUNTS, int),
    "created": float,
}
"""What a note holds, where there is one."""
FROM_THE_START = ("id", "created")
"""Notes that every ledger has."""
ABSENT = object()
NEVER_NULL = (
    *("recipe", "study", "experiment", "space", "params", "tags", "view", "bounds", "metrics", "knowledge"),
    *COUNTS,
)
"""Notes that hold something, where there are any."""


def examine(ledger: Ledger) -> None:
    """Refuse a ledger that something else has written to: lost rows, and values that no search leaves.

    Raises:
        ValueError: what is wrong first, and the remedy.
    """
    trials = ledger.trials()
    for trial in trials:
        segments = ledger.segments(trial["number"])
        # The first of them: what follows may rest on it.
        for why in chain(_wrong_with_trial(trial), _wrong_with_segments(trial, segments)):
            raise ValueError(ledger.unreadable(f"trial {trial['number']}: {why}"))
    for why in chain(_lost(ledger, trials), _wrong_with_notes(ledger)):
        raise ValueError(ledger.unreadable(why))


def _wrong_with_trial(row: Mapping[str, Any]) -> Iterator[str]:
    config, result = row["config"], row["result"]
    if (why := _misfit_of_config(config)) is not None:
        yield f"its configuration is damaged: {why}"
    elif (config["number"], config["cell"], config["index"]) != (row["number"], row["cell"], row["index"]):
        yield "its configuration is that of another"
    if not isinstance(row["asked"], int | float):
        yield "the time at which it was asked is damaged"
    if (result is None) != (row["status"] == "RUNNING"):
        yield f"its status is {row['status']!r:.40}, {'with' if result is not None else 'without'} a result"
    if result is None:
        return
    if (why := misfit(TrialResult, result) or _lacking(result, OF_RESULT)) is not None:
        yield f"its result is damaged: {why}"
    elif (result["number"], result["status"]) != (row["number"], row["status"]):
        yield "its result is that of another"


def _misfit_of_config(config: Any) -> str | None:
    if (why := misfit(TrialConfig, config)) is not None:
        return why
    train, params = config["train"], config["params"]
    for name in AXES:
        if params.get(name) != train[name]:
            return f"`params.{name}` cannot be {params.get(name)!r:.60}"
    return misfit(ClassConfig, train["model"]) or misfit(DataConfig, train["data"])


def _wrong_with_segments(trial: Mapping[str, Any], segments: Sequence[Any]) -> Iterator[str]:
    step = 0
    for segment in segments:
        if (why := _misfit_of_segment(segment)) is not None:
            yield f"a segment is damaged: {why}"
            return
        if (segment["trial"], segment["from_step"]) != (trial["number"], step) or segment["to_step"] < step:
            yield f"its segments do not follow each other at step {step}"
            return
        step = segment["to_step"]


def _misfit_of_segment(segment: Any) -> str | None:
    why = misfit(SegmentResult, segment) or _lacking(segment, OF_SEGMENT)
    return why or next((lacking for point in segment["curve"] if (lacking := _lacking(point, OF_POINT))), None)


def _lacking(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((f"`{name}` is missing" for name in names if name not in values), None)


def _lost(ledger: Ledger, trials: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is missing: trials are numbered without gaps, in the study and in each cell."""
    numbers = [trial["number"] for trial in trials]
    if numbers != list(range(len(numbers))):
        yield "trials are missing between others"
    counts = Counter(trial["cell"] for trial in trials)
    if any(trial["index"] >= counts[trial["cell"]] for trial in trials):
        yield "trials of a cell are missing"
    if not ledger.known_trials() <= {*numbers, SEARCH_RUN}:
        yield "there are segments or runs of trials that are missing"


def _wrong_with_notes(ledger: Ledger) -> Iterator[str]:
    for name, kind in NOTES.items():
        found = ledger.meta(name, ABSENT if name in NEVER_NULL else None)
        if found is ABSENT:
            continue
        if type(found) is not kind and (found is not None or name in (*FROM_THE_START, *NEVER_NULL)):
            yield f"its note `{name}` is damaged"
    yield from (f"its note `{name}` is damaged" for name in COUNTS if ledger.meta(name, 1) < 1)
    if not all(map(_is_pair, (ledger.meta("bounds") or {}).values())):
        yield "its note `bounds` is damaged"
    for name, cls in (("metrics", MetricsConfig), ("knowledge", Knowledge)):
        found = ledger.meta(name)
        if found is not None and (why := misfit(cls, found)) is not None:
            yield f"its note `{name}` is damaged: {why}"


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, int | float) for one in value)
