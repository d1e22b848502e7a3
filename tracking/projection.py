"""What a trial looks like in MLflow: pure functions from the ledger's rows to tags, params and points.

Metrics are named `group/name`, because MLflow's charts group themselves by what stands before the slash.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracking.long_tags import parted
from tracking.runs import MetricPoint, RunStatus, legal_name
from tracking.spans import as_tags, spans_of

Row = Mapping[str, Any]

PREFIXES = (
    ("validation_", "validation/"),
    ("valid_", "validation/"),
    ("val_", "validation/"),
    ("train_", "train/"),
)
AXES = {
    "learning_rate": "optimizer/learning_rate",
    "gradient_norm": "optimizer/gradient_norm",
    "batch_size": "optimizer/batch_size",
    "examples": "progress/examples",
    "epoch": "progress/epoch",
    "seconds": "progress/seconds",
}
"""Where Regatta's own numbers of an evaluation go: metrics too, for MLflow plots against step and clock only."""
TO_TARGET = {
    "step": "steps_to_target",
    "examples": "examples_to_target",
    "epoch": "epochs_to_target",
    "seconds": "seconds_to_target",
}
TOTALS = ("value", "steps", "examples", "epochs", "seconds")
TREES = {"optimizer_args": "optimizer", "schedule_args": "schedule"}
"""Arguments carry the prefix that they have where they are searched."""
NOT_PARAMS = ("model", "data", "batch_size_arg")
CONFIG = "regatta.config"
"""The tag that holds the whole `TrainConfig` as JSON; a long one goes on in tags numbered from 1."""
MACHINE = ("device", "machine", "threads")
"""Tags that keep the value of every segment: a trial may have moved to another machine."""


@functools.lru_cache(maxsize=10_000)  # the same few names come with every evaluation
def metric_key(name: str) -> str:
    """Where a module's metric goes: `val_loss` to `validation/loss`, `train_loss` to `train/loss`, others stay."""
    for prefix, group in PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return legal_name(group + name.removeprefix(prefix))
    return legal_name(name)


def run_name(row: Row) -> str:
    """Number first, so that names sort as trials were asked."""
    return f"{row['number']:04d} {row['cell']}"


def run_status(row: Row) -> RunStatus:
    """MLflow's status of an ended trial."""
    return "FINISHED" if row["status"] in ("COMPLETE", "PRUNED") else "FAILED"


def tags(row: Row, segments: Sequence[Row]) -> dict[str, str]:
    """What a trial's run is filtered and grouped by, as far as it is known."""
    config, last = row["config"], row["result"] or (segments[-1] if segments else {})
    own = {
        "cell": row["cell"],
        "phase": config["phase"],
        "trial": row["number"],
        "seed": config["train"]["seed_init"],
        "status": row["status"],
        "reason": last.get("reason"),
        "censoring": last.get("censoring"),
        "worker": last.get("worker"),
    } | {name: _every(name, segments) for name in MACHINE}
    from_segments = {key: value for segment in segments for key, value in segment["tags"].items()}
    merged = {**from_segments, **last.get("tags", {}), **own}
    known = {legal_name(key): str(value) for key, value in merged.items() if value not in (None, "")}
    return known | as_tags(spans_of(segments))


def _every(tag: str, segments: Sequence[Row]) -> str:
    return ", then ".join(dict.fromkeys(segment["tags"][tag] for segment in segments if tag in segment["tags"]))


def config_tags(config: Row) -> dict[str, str]:
    """All that a trial's training can be done again from, every number to the last bit."""
    return parted(CONFIG, json.dumps(config["train"]))


def params(config: Row) -> dict[str, str]:
    """The configuration of a trial: what was asked, then all else that its training depends on; dotted names."""
    train = config["train"]
    rest = {name: value for name, value in train.items() if name not in (*NOT_PARAMS, *TREES)}
    for name in ("model", "data"):
        rest[name] = train[name]["class_path"]
        rest |= _flat(f"{name}.init_args", train[name]["init_args"])
    for name, prefix in TREES.items():
        rest |= _flat(prefix, train[name])
    asked = config["params"]
    # `training.warmup` and the like are what was asked of the field of that name.
    rest = {name: value for name, value in rest.items() if f"training.{name}" not in asked}
    merged = {**rest, **asked}
    return {legal_name(name): _text(value) for name, value in merged.items() if value not in (None, "")}


def study_params(tree: Row) -> dict[str, str]:
    """What a whole search has in common, with dotted names: the params of its own run."""
    return {legal_name(name): _text(value) for name, value in _flat("", tree).items() if value not in (None, "")}


def points(config: Row, segments: Sequence[Row], *, after: int) -> list[MetricPoint]:
    """The evaluations later than step `after`, as metrics.

    A point's time of day is its segment's start plus the segment's training seconds: the same whenever it is sent.
    """
    batch_size, before = config["train"]["batch_size"], 0.0
    found: list[MetricPoint] = []
    for segment in segments:
        for point in segment["curve"]:
            if point["step"] > after:
                timestamp_ms = round(1000 * (segment["started"] + point.get("seconds", before) - before))
                found.extend(_point_metrics(point, timestamp_ms, batch_size))
        before += segment["seconds"]
    return found


def _point_metrics(point: Row, timestamp_ms: int, batch_size: int) -> Iterator[MetricPoint]:
    for name, value in point.items():
        # A batch size that never changes is a param and needs no chart.
        if name == "step" or (name == "batch_size" and value == batch_size):
            continue
        key = AXES.get(name) or metric_key(name)
        yield MetricPoint(key, _plottable(value), timestamp_ms, int(point["step"]))


def summary(result: Row) -> list[MetricPoint]:
    """What a whole trial came to, as `result/...`: the columns of MLflow's table of runs.

    All at step 0: what has that step alone is drawn as bars, one for each run, instead of as a line with one point.
    """
    values = {name: result[name] for name in TOTALS if result[name] is not None}
    values |= {f"best_{name}": value for name, value in result["best"].items() if name not in AXES}
    values |= {f"final_{name}": value for name, value in result["final"].items() if name not in ("step", *AXES)}
    values |= {f"{part}_{name}": value for part in ("fit", "gap") for name, value in result.get(part, {}).items()}
    values |= {TO_TARGET[name]: value for name, value in (result["hit"] or {}).items() if name in TO_TARGET}
    values |= {"hit_after": result["hit_after"]} if result["hit"] else {}
    values |= result.get("figures", {})
    timestamp_ms = round(1000 * result["ended"])
    return [
        MetricPoint(legal_name(f"result/{name}"), _plottable(value), timestamp_ms, 0) for name, value in values.items()
    ]


def _plottable(value: float) -> float:
    # MLflow stores an infinity as 1.8e308, which flattens every chart that it is in; NaN leaves a gap.
    return float(value) if math.isfinite(value) else math.nan


def _flat(prefix: str, tree: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}".lstrip(".")
        if isinstance(value, Mapping) and value:
            flat |= _flat(path, value)
        else:
            flat[path] = value
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
