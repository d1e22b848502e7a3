"""The trials of an earlier study that lie in the space of this one: results that count, or configurations to ask first.

A result counts where nothing but seeds tells the two trainings apart. Where only the budget, the data's arguments or
another setting of `training` differs, the order of configurations may still hold: the best are asked first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from models import optimizers, schedules
from models.config import TrainConfig
from search.joint import RATE, JointSpace, Point
from search.knowledge import Knowledge
from search.placing import AXES, holds, point_at
from search.samplers import Known, identity, remembered
from search.space import SearchSpace
from search.trial import TrialConfig, recorded
from tracking.ledger import Ledger

BEST = 3
"""Configurations of a study with another budget or other data that are asked first."""
APART = ("seed_init", "seed_order", "seed_dropout", "learning_rate", "target_metric", "train_loss")
"""What does not make a training another one: its place in the space says the rate, and the rest is chance or record."""
SAME = ("model", "data.class_path", "data.batch_size_arg", "optimizer_args", "schedule_args", "objective", "direction")
"""Where trainings differ in these, not even the order of configurations can be taken over."""
JUDGED = ("objective", "direction", "select")
"""Metrics settings that say what a trial's value is."""


def earlier(space: SearchSpace, folder: Path) -> Knowledge:
    """What the study in a folder says of this space.

    Raises:
        ValueError: if its values are of another kind, or if none of its complete trials lies in this space.
    """
    complete = _complete(space, folder)
    joint = JointSpace(space)
    placed = [(trial, value, *located(joint, trial.train)) for trial, value in complete]
    same = [
        (trial, value, point) for trial, value, point, differences in placed if point is not None and not differences
    ]
    if same:
        return _counting(same, space, of=len(complete), name=folder.name)
    near = [(point, differences) for _, _, point, differences in placed if point is not None]
    if not near:
        reasons = list(dict.fromkeys(reason for *_, differences in placed for reason in differences))
        why = f": they differ in {_told(reasons)}" if reasons else ""
        raise ValueError(
            "`search.from_study` must be a study with complete trials that lie in this space, but none of the "
            f"{len(complete)} of {folder.name} does{why}."
        )
    best = list({identity(point): point for point, _ in near}.values())[:BEST]
    line = f"from {folder.name}: trained otherwise, in {_told(near[0][1])}; asked first: its best {len(best)}"
    return Knowledge(best=best, said=[line])


def _complete(space: SearchSpace, folder: Path) -> list[tuple[TrialConfig, float]]:
    """A study's complete trials with their values, the best first."""
    with Ledger.open(folder, create=False) as ledger:
        metrics, rows = ledger.meta("metrics", {}), recorded(ledger.trials())
    for name in JUDGED:
        here, there = getattr(space.metrics, name), metrics.get(name)
        if here != there:
            raise ValueError(
                f"`metrics.{name}` must be that of `search.from_study` {folder.name}, {there!r}, but got {here!r}."
            )
    found = [
        (trial, result.value)
        for trial, result in rows
        if result is not None and result.status == "COMPLETE" and result.value is not None and trial.phase != "confirm"
    ]
    sign = -1.0 if space.metrics.direction == "max" else 1.0
    return sorted(found, key=lambda pair: (sign * pair[1], pair[0].number))


def _counting(same: list[tuple[TrialConfig, float, Point]], space: SearchSpace, *, of: int, name: str) -> Knowledge:
    """Of very many trials those that a sampler would be given."""
    known = [
        Known(point=point, state=TrialState.COMPLETE, value=value) for _, value, point in sorted(same, key=_number)
    ]
    kept = remembered(known, maximize=space.metrics.direction == "max")
    line = f"from {name}: results of {len(kept)} of its {of} complete trials, which lie in this space"
    return Knowledge(results=[{"point": dict(one.point), "value": one.value} for one in kept], said=[line])


def _number(found: tuple[TrialConfig, float, Point]) -> int:
    return found[0].number


def located(joint: JointSpace, train: TrainConfig) -> tuple[Point | None, list[str]]:
    """Where a training lies in a space, if it does; and what in it is otherwise than it would be here."""
    theirs = _plain(train)
    cell = next((cell for cell in joint.cells.values() if all(theirs[axis] == cell.axes[axis] for axis in AXES)), None)
    if cell is None:
        return None, [f"its cell ({', '.join(str(theirs[axis]) for axis in AXES)}), which is not searched here"]
    values = {name: _value(theirs, name) for name in cell.ranges}
    outside = [name for name, extent in cell.ranges.items() if not holds(extent, values[name])]
    if outside:
        return None, [f"{name} ({values[name]!r}, which lies outside of its range here)" for name in outside]
    point = point_at(joint, cell, values)
    ours = _plain(joint.space.train_config(cell, joint.sampled(point), index=0))
    found = {name: words for name, words in differing(theirs, ours) if name not in APART}
    fatal = [name for name in found if any(f"{name}.".startswith(f"{same}.") for same in SAME)]
    return (None, [found[name] for name in fatal]) if fatal else (point, list(found.values()))


def _plain(train: TrainConfig) -> dict[str, Any]:
    """A training's settings as JSON has them, with the defaults of its optimizer and schedule."""
    filled = replace(
        train,
        optimizer_args={**optimizers.arguments(train.optimizer), **train.optimizer_args},
        schedule_args={**schedules.arguments(train.schedule), **train.schedule_args},
    )
    plain: dict[str, Any] = json.loads(json.dumps(filled.to_json()))
    return plain


def _value(train: Mapping[str, Any], name: str) -> Any:
    """What a training has of a searched parameter; None where that is not said."""
    prefix, _, rest = name.partition(".")
    if name == RATE:
        return train[RATE]
    if prefix in ("optimizer", "schedule"):
        return train[f"{prefix}_args"].get(rest)
    if prefix == "training":
        return train[rest]
    found: Any = train
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def differing(theirs: Any, ours: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every setting in which two nests of them differ: its dotted name, and a few words."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in dict.fromkeys([*theirs, *ours]):
            yield from differing(theirs.get(key), ours.get(key), f"{where}{key}.")
    elif theirs != ours:
        name = where.removesuffix(".")
        yield name, f"{name} ({theirs!r} there, {ours!r} here)"


def _told(differences: list[str]) -> str:
    return ", ".join(differences[:3])
