"""Which batch sizes fit into memory: found out before the first trial, where that can be foreseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from models.config import TrainConfig
from search.executors import Executor
from search.failure import DeadlyCall
from search.study import Study

NEED = "models.room.need"
FITS = "models.room.fits"
SPARE = 2.0
"""A training that has room for so many times what is foreseen of it is not tried: temporaries, gaps, validation."""


def look(study: Study, executor: Executor, *, per_gpu: int) -> Iterator[str]:
    """Try the batch sizes in doubt, the largest first; close those that do not fit, or divide them.

    A few steps are trained of one cell of each, in processes of their own. The smallest size stays open: if it does not
    fit, its trials say so. Where nothing can be foreseen, nothing is tried, and trials find out.

    Yields:
        What came of it, a sentence each.
    """
    trains = {cell.cell.batch_size: cell.example() for cell in study.cells.values()}
    _, *others = sorted(trains)
    if not others:
        return
    share = {"share_bytes": executor.share, "per_gpu": per_gpu}
    try:
        need = executor.call(NEED, {"config": trains[others[-1]].to_json(), **share})
    except DeadlyCall:
        return  # So will its trials, each with its reason.
    if need["reason"] is not None:
        return
    for size in reversed(others):
        if study.is_closed(size):
            continue
        train = trains[size]
        found = None if study.has_trained(size) else _tried(study, executor, train, need)
        if found is None:
            return
        at_once = f"with {train.batch_size // train.accumulate} examples at once ({_room(need)})"
        if found == "in parts":
            yield (
                f"batch size {size} does not fit into memory {at_once}: trials train in parts of at most {study.most} "
                "examples, whose gradients make one step"
            )
            return
        study.close(size)
        hint = "" if study.space.search.accumulate else " `search.accumulate: true` trains it in parts."
        yield f"batch size {size} does not fit into memory {at_once}: it is left out.{hint}"


def _tried(
    study: Study, executor: Executor, train: TrainConfig, need: Mapping[str, Any]
) -> Literal["in parts", "not at all"] | None:
    """How a training fits, if not as it is; None where it does, or where what fails is not memory."""
    given = {name: need[name] for name in ("limit_bytes", "loaded_bytes")}
    found: Literal["in parts"] | None = None
    train = study.divided(train)
    while _in_doubt(train, need) and executor.call(FITS, {"config": train.to_json(), **given})["oom"]:
        if not study.divide(train):
            return "not at all"
        train, found = study.divided(train), "in parts"
    return found


def _in_doubt(train: TrainConfig, need: Mapping[str, Any]) -> bool:
    at_once = train.batch_size // train.accumulate
    foreseen: float = SPARE * (need["fixed_bytes"] + need["example_bytes"] * at_once)
    return foreseen > float(need["room_bytes"])


def _room(need: Mapping[str, Any]) -> str:
    return f"{max(0, need['room_bytes']) / 1e9:.2g} GB of a worker's {need['limit_bytes'] / 1e9:.2g} GB are free"
