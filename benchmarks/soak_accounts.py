"""What a study has come to, held against MLflow's database and against the same study without any disturbance."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracking.ledger import Ledger
from tracking.projection import AXES, metric_key, points, summary
from tracking.reproduction import to_the_bit, within_tolerance
from tracking.runs import KEY

CLOCK = "seconds"
"""In the name of what is never the same twice."""

Place = tuple[str, int]
"""A trial's cell and its number in that: the same in every course of a search; its number in the study is not."""
Point = tuple[str, int, float | None]
"""A metric's name, its step and its value; None: no number, or one that the clock gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """A study as its ledger has it."""

    trials: Mapping[Place, Mapping[str, Any]]
    """Each with its `segments`."""
    key: str
    """What the keys of its runs in MLflow begin with."""

    def curve(self, place: Place) -> list[dict[str, float]]:
        """All evaluations of a trial."""
        return [point for segment in self.trials[place]["segments"] for point in segment["curve"]]

    def company(self) -> dict[Place, frozenset[frozenset[Place]]]:
        """With whom each trial trained side by side, over all of its segments."""
        together: dict[tuple[str, float], set[Place]] = {}
        parts = [(place, segment) for place, trial in self.trials.items() for segment in trial["segments"]]
        for place, segment in parts:
            together.setdefault((segment["worker"], segment["started"]), set()).add(place)
        found: dict[Place, set[frozenset[Place]]] = {place: set() for place in self.trials}
        for place, segment in parts:
            found[place].add(frozenset(together[segment["worker"], segment["started"]]))
        return {place: frozenset(groups) for place, groups in found.items()}


def books(folder: Path) -> Books:
    """Read a study's ledger."""
    with Ledger.open(folder, create=False) as ledger:
        rows = [{**row, "segments": ledger.segments(row["number"])} for row in ledger.trials()]
        key = ledger.meta("id")
    return Books(trials={(row["cell"], row["index"]): row for row in rows}, key=key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """What MLflow has of a study, by the key of its runs: each key once for each run that carries it."""

    runs: list[tuple[str, str]]
    """Key and status of every run."""
    points: Mapping[str, Counter[Point]]


def store(database: Path, key: str) -> Store:
    """Read MLflow's own tables: every point of every metric is there, in whatever order they came."""
    with closing(sqlite3.connect(database)) as connection:
        runs = connection.execute(
            "SELECT tags.value, runs.status, runs.run_uuid FROM runs JOIN tags USING (run_uuid) "
            "WHERE tags.key = ? AND tags.value LIKE ? AND runs.lifecycle_stage = 'active'",
            (KEY, f"{key}:%"),
        ).fetchall()
        held = {
            run: Counter(
                _point(name, step, math.nan if is_nan else value)
                for name, step, value, is_nan in connection.execute(
                    "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ?", (run,)
                )
            )
            for _, _, run in runs
        }
    by_key: dict[str, Counter[Point]] = {}
    for name, _, run in runs:
        by_key.setdefault(name.partition(":")[2], Counter()).update(held[run])
    return Store(runs=[(name.partition(":")[2], status) for name, status, _ in runs], points=by_key)


def expected(trial: Mapping[str, Any]) -> Counter[Point]:
    """The points that MLflow should have of an ended trial."""
    found = [*points(trial["config"], trial["segments"], after=-1), *summary(trial["result"])]
    return Counter(_point(point.key, point.step, point.value) for point in found)


def _point(name: str, step: int, value: float) -> Point:
    return name, step, None if CLOCK in name or math.isnan(value) else value


@dataclass(slots=True)
class Curves:
    """How the curves of a disturbed search compare with those of an undisturbed one."""

    compared: Counter[str] = field(default_factory=Counter)
    """Trials by how they trained: `alone`, or in `the same arrays` in both; or `otherwise`."""
    equal: Counter[str] = field(default_factory=Counter)
    """Those of them whose curves are equal to the bit."""
    mistakes: list[str] = field(default_factory=list)
    """What should be equal to the bit and is not, or may differ by rounding and differs by more."""


def compared(disturbed: Books, calm: Books) -> Curves:
    """Hold every trial's curve against the undisturbed one: to the bit where it trained in the same company."""
    curves, now, before = Curves(), disturbed.company(), calm.company()
    for place in sorted(disturbed.trials.keys() & calm.trials.keys()):
        recorded, curve = _recorded(calm.curve(place)), disturbed.curve(place)
        verdict = exact = to_the_bit(recorded, curve)
        alone = now[place] == {frozenset({place})}
        kind = "otherwise" if now[place] != before[place] else "alone" if alone else "the same arrays"
        if kind == "otherwise":
            verdict = within_tolerance(recorded, curve, disturbed.trials[place]["config"]["train"])
        curves.compared[kind] += 1
        curves.equal[kind] += exact.holds
        curves.mistakes += [] if verdict.holds else [f"{_name(place)} ({kind}) {verdict.sentence}"]
    return curves


def _recorded(curve: list[dict[str, float]]) -> dict[int, dict[str, float]]:
    return {
        int(point["step"]): {AXES.get(name) or metric_key(name): value for name, value in point.items()}
        for point in curve
    }


def _name(place: Place) -> str:
    return f"{place[0]} number {place[1]}"


def mistakes(disturbed: Books, calm: Books, held: Store) -> Iterator[str]:
    """One line for everything that is not as it should be."""
    if disturbed.trials.keys() != calm.trials.keys():
        yield f"other trials were asked: {sorted(disturbed.trials.keys() ^ calm.trials.keys())}"
    for place in sorted(disturbed.trials.keys() & calm.trials.keys()):
        trial, undisturbed = disturbed.trials[place], calm.trials[place]
        if trial["config"]["train"] != undisturbed["config"]["train"]:
            yield f"{_name(place)} was asked with another configuration"
        if trial["status"] != undisturbed["status"]:
            why = (trial["result"] or {}).get("reason", "")
            yield f"{_name(place)} is {trial['status']} instead of {undisturbed['status']} {why}"
    yield from misfits(disturbed, held)


def misfits(disturbed: Books, held: Store) -> Iterator[str]:
    """One line for everything in which MLflow does not have exactly what the ledger has."""
    wanted = {str(trial["number"]): trial for trial in disturbed.trials.values() if trial["result"]}
    for key, count in Counter(key for key, _ in held.runs).items():
        if count > 1:
            yield f"MLflow has {count} runs of {key}"
    for key, status in held.runs:
        if status == "RUNNING":
            yield f"MLflow has the run of {key} as RUNNING"
    for key in sorted((wanted.keys() | {"search"}) ^ {key for key, _ in held.runs}):
        yield f"{key} has a run in MLflow or an end in the ledger, but not both"
    for key, trial in wanted.items():
        has, should = held.points.get(key, Counter()), expected(trial)
        if has != should:
            more, less = has - should, should - has
            first = sorted({*more, *less}, key=repr)[:3]
            yield f"trial {key}: MLflow has {more.total()} points too many and lacks {less.total()}, such as {first}"
