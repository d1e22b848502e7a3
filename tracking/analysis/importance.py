"""Which parameters decide whether a trial is among the best: divergences of the best trials from all that were tried.

After PED-ANOVA (Watanabe, Bansal, Hutter 2023): a parameter matters as far as its values among the best differ from
its values among all, by Pearson's divergence. What chance gives is worked out, not assumed: the same for random trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.analysis.curves import loss
from tracking.analysis.data import StudyData, counts, is_number
from tracking.rows import Row

TOP = 0.1
"""Share of all trials that is taken for the best."""
LEAST = 6
"""Trials without which the best say nothing; where a tenth is fewer, so many are taken."""
BINS = 4
"""A number is cut into so many stretches with equally many trials in each."""
DRAWS = 2000
"""Random choices of as many trials, and resamples of the best."""
GRID = ("batch_size", "optimizer", "schedule")
RATE = "learning_rate"


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much one parameter tells the best trials from all."""

    name: str
    value: float
    """Divergence beyond what chance gives on average; 0: the best are like all. It may be a little below."""
    low: float
    high: float
    """95 % interval, from resampling the best."""
    p: float
    """Share of random choices of as many trials that differ as much from all."""
    trials: int
    """Trials that have the parameter."""
    best: str
    """Value, or stretch of values, that is commonest among the best, relative to all."""

    @property
    def more_than_chance(self) -> bool:
        """Whether fewer than one of twenty random choices differ as much."""
        return self.p < 0.05


@dataclass(frozen=True, kw_only=True)
class Importances:
    """All parameters of a study, the most important first."""

    found: Sequence[Importance]
    top: int
    """Trials taken for the best."""
    judged: int
    """Trials that have ended with a result or diverged."""
    reason: str = ""
    """Why there are none; empty if there are."""
    left_out: Sequence[str] = ()
    """Parameters that too few of the best have."""


def coordinates(data: StudyData) -> list[str]:
    """Searched parameters by their names in the rows, those of which there is more than one value."""
    search = data.space.get("search") or {}
    names = [*GRID, RATE, *_ranged(search.get("parameters") or {})]
    for axis in ("optimizer", "schedule"):
        for method in (search.get(f"{axis}s") or {}).values():
            names += [f"{axis}.{name}" for name in _ranged(method)]
    return [name for name in dict.fromkeys(names) if len({_text(row.get(name)) for row in _having(data, name)}) > 1]


def _ranged(tree: Any, path: str = "") -> Iterator[str]:
    """Dotted names of all ranges in a nest of mappings."""
    if not isinstance(tree, Mapping):
        return
    if path and ("low" in tree or "values" in tree):
        yield path
        return
    for key, value in tree.items():
        yield from _ranged(value, f"{path}.{key}" if path else str(key))


def place_of_rate(data: StudyData, row: Row) -> float | None:
    """Where a learning rate lies in the range of its batch size and optimizer, 0 to 1; None if that is not known."""
    bounds, rate = data.bounds.get(row["cell"]), row.get(RATE)
    if bounds is None or not is_number(rate) or not 0 < bounds[0] < bounds[1]:
        return None
    return math.log(rate / bounds[0]) / math.log(bounds[1] / bounds[0])


def best_trials(data: StudyData) -> list[Row]:
    """Complete trials, the best first. One that was passed over at a rung is not among the best: others beat it."""
    complete = [row for row in data.trials if row["status"] == "COMPLETE" and counts(row)]
    return sorted(complete, key=lambda row: (loss(row["value"], data.direction), row["number"]))


def importances(data: StudyData) -> Importances:
    """Of every searched parameter; none, with the reason, where the trials are too few."""
    judged = [row for row in data.trials if counts(row) or row["status"] == "DIVERGED"]
    best = best_trials(data)
    top = best[: max(LEAST, round(TOP * len(judged)))]
    if len(top) < LEAST or len(judged) < 4 * LEAST:
        lack = f"at least {4 * LEAST} trials that have ended, {LEAST} of them trained to their end"
        reason = f"This needs {lack}; there are {len(judged)} and {len(best)}."
        return Importances(found=(), top=len(top), judged=len(judged), reason=reason)
    found, left_out = [], []
    for name in coordinates(data):
        one = _importance(data, name, judged, top)
        if one is None:
            left_out.append(name)
        else:
            found.append(one)
    found.sort(key=lambda one: -one.value)
    return Importances(found=found, top=len(top), judged=len(judged), left_out=left_out)


def _importance(data: StudyData, name: str, judged: Sequence[Row], top: Sequence[Row]) -> Importance | None:
    """None if too few of the best have the parameter, or if all trials agree in it."""
    have = [row for row in judged if row.get(name) is not None]
    chosen = {row["number"] for row in top}
    among = np.array([row["number"] in chosen for row in have], dtype=bool)
    levels, labels = _levels([_value(data, row, name) for row in have])
    if among.sum() < LEAST or len(labels) < 2:
        return None
    everyone, mine = (np.bincount(part, minlength=len(labels)) for part in (levels, levels[among]))
    size, shares = int(among.sum()), everyone / len(levels)
    measured = _divergence(mine, shares)
    random = np.random.default_rng(0)
    chance = _divergence(random.multivariate_hypergeometric(everyone, size, DRAWS), shares)
    again = _divergence(random.multinomial(size, mine / size, DRAWS), shares)
    # The basic bootstrap: what resampling adds to the divergence is what sampling has added before.
    low, high = 2 * measured - np.quantile(again, [0.975, 0.025])
    return Importance(
        name=name,
        value=float(measured - chance.mean()),
        low=float(low),
        high=float(high),
        # Equal by rounding is equal: a divergence takes few values.
        p=float((1 + (chance >= measured - 1e-9).sum()) / (1 + DRAWS)),
        trials=len(have),
        best=labels[int(np.argmax(mine / everyone))],
    )


def _divergence(held: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's divergence from `shares` of trials counted by level, in the last axis."""
    parts = held / held.sum(axis=-1, keepdims=True)
    found: NDArray[np.float64] = np.asarray(((parts - shares) ** 2 / shares).sum(axis=-1))
    return found


def _value(data: StudyData, row: Row, name: str) -> Any:
    place = place_of_rate(data, row) if name == RATE else None
    return row[name] if place is None else place


def _levels(values: Sequence[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Values as levels with labels: as they are where they are few or no numbers, otherwise cut at quantiles."""
    texts = [_text(value) for value in values]
    distinct = sorted(set(texts))
    if len(distinct) <= 2 * BINS or not all(is_number(value) for value in values):
        return np.array([distinct.index(text) for text in texts]), distinct
    numbers = np.asarray(values, dtype=float)
    edges = np.unique(np.quantile(numbers, np.arange(1, BINS) / BINS))
    ends = [float(numbers.min()), *map(float, edges), float(numbers.max())]
    levels = np.searchsorted(edges, numbers, side="right")
    used = np.unique(levels)
    labels = [f"{ends[at]:.3g} to {ends[at + 1]:.3g}" for at in used]
    return np.searchsorted(used, levels), labels


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _having(data: StudyData, name: str) -> list[Row]:
    return [row for row in data.trials if row.get(name) is not None]
