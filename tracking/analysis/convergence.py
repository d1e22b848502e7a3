"""How fast trials and cells converge: first hits of a target, what is censored, steps to the target of a cell.

Definitions: methodology 1.2 and 1.3. "Never" is `math.inf`; what cannot be known from the rows is None (or NaN, for
seconds), never a number made up.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tracking.analysis.curves import Curve, area, loss, measured

Censoring = Literal["", "budget", "pruned", "diverged", "oom", "failed", "running"]

ENDINGS: Mapping[str, Censoring] = {
    "COMPLETE": "budget",
    "PRUNED": "pruned",
    "DIVERGED": "diverged",
    "OOM": "oom",
    "TIMEOUT": "failed",
    "FAILED": "failed",
    "RUNNING": "running",
}
"""Why a trial of a status that has not arrived stopped being watched."""
INFEASIBLE = ("DIVERGED", "OOM")
"""Statuses whose "not arrived" is a true never, and whose hits do not count: nobody can use such a configuration."""
INTERRUPTED = ("failed", "running")
"""Endings that say nothing of the configuration: such a trial is no draw of the search."""
TAIL = 5
"""Evaluations at the end whose mean and standard deviation are kept."""
OF_CURVE = ("last_mean", "last_sd", "area", "area_raw", "area_linear")
FIGURES = ("sustained_steps_to_target", "interpolated_steps_to_target", *OF_CURVE)
"""Columns of a trial that its whole curve gives, not one of its evaluations (`figures`)."""
PER_STEP = "steps x step time alone"
"""The `time_mode` of trials whose `seconds` are their steps times a step time measured alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """The first evaluation at or past a target; the target was reached in (`after`, `step`]."""

    step: float
    examples: float
    seconds: float
    """Training seconds; NaN where they are not known for this trial alone."""
    value: float
    after: float
    """Step of the evaluation before; 0 for the first one."""
    sustained: float
    """First step at which the median of the last three evaluations is at or past the target; inf: never."""
    interpolated: float
    """Where a straight line through both ends of the bracket meets the target; `step` if there is no such line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convergence:
    """One trial's convergence. All but the hit is about the objective; None: not measured."""

    number: int
    status: str
    hit: Hit | None
    censored_at: float
    """Last step of the trial, arrived or not."""
    censoring: Censoring
    """Why it did not arrive; empty if it did, or if there is no target."""
    best: float | None = None
    best_progress: float | None = None
    """Share of the trial's steps at its best evaluation; None unless it ran its whole budget (methodology's `u`)."""
    best_examples: float | None = None
    final: float | None = None
    """Last finite value."""
    last_mean: float | None = None
    last_sd: float | None = None
    """Mean and standard deviation of the last five values: the noise from one evaluation to the next."""
    area: float | None = None
    """Area under the best value so far, over log(1 + epochs), in the objective's unit. Rewards early speed."""
    area_raw: float | None = None
    """The same of the values as they are."""
    area_linear: float | None = None
    """The same of the best value so far, over epochs."""
    gap: float | None = None
    """Generalization gap: the objective at the end less the same on training examples, in evaluation mode."""

    @property
    def feasible(self) -> bool:
        """Whether the configuration trained without diverging and fitted into memory."""
        return self.status not in INFEASIBLE

    @property
    def arrival(self) -> float:
        """Step of the hit; inf if there is none, or if the configuration is infeasible."""
        return self.hit.step if self.hit is not None and self.feasible else math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class CellSpeed:
    """Steps to target of a cell: those of its fastest feasible trial."""

    cell: str
    batch_size: int
    n_trials: int
    n_feasible: int
    n_hit: int
    """Feasible trials that arrived."""
    steps: float
    """S(B); inf: no feasible trial arrived."""
    examples: float
    """E(B) = B S(B)."""
    seen: float
    """Examples that the winner had seen: less than B S where epochs end in a smaller batch, more where batches grow."""
    winner: int | None
    """Number of the trial with the fewest steps; ties go to the lower number."""
    after: float
    """Step of the winner's evaluation before its hit: S(B) lies in (`after`, `steps`]."""
    low: float
    high: float
    """10-90 % interval of `steps` from the luck of the search (`selection_interval`)."""
    seconds: float
    """T(B), the fewest seconds, maybe of another trial; inf: never; NaN: arrived, but seconds are not known."""
    seconds_winner: int | None


def first_hit(curve: Curve, *, metric: str, target: float, direction: str) -> Hit | None:
    """The first evaluation at or past the target (inclusive), None if there is none.

    Rows without the metric are no evaluations of it; a value that is not finite is one, and never past the target.
    """
    points = [point for point in curve if point.get(metric) is not None]
    goal = loss(target, direction)
    losses = [loss(point[metric], direction) for point in points]
    at = next((index for index, value in enumerate(losses) if value <= goal), None)
    if at is None:
        return None
    step, after = float(points[at]["step"]), float(points[at - 1]["step"]) if at else 0.0
    known = at > 0 and math.isfinite(losses[at - 1])
    share = (losses[at - 1] - goal) / (losses[at - 1] - losses[at]) if known else 1.0
    sustained = (points[k]["step"] for k in range(2, len(points)) if statistics.median(losses[k - 2 : k + 1]) <= goal)
    return Hit(
        step=step,
        examples=_number(points[at].get("examples")),
        seconds=_number(points[at].get("seconds")),
        value=float(points[at][metric]),
        after=after,
        sustained=float(next(sustained, math.inf)),
        interpolated=after + share * (step - after),
    )


def convergence(
    trial: Mapping[str, Any], curve: Curve, *, metrics: Mapping[str, Any], target: float | None
) -> Convergence:
    """What one trial's curve says.

    Args:
        trial: its row, as `tracking.rows.trials` gives it.
        curve: its evaluations.
        metrics: the study's `objective`, `direction`, and `target_metric` and `target_direction` if set.
        target: the value to reach; None: no target.
    """
    metric, direction = metrics["objective"], metrics["direction"]
    hit = None if target is None else _hit(trial, curve, metrics, target)
    steps = trial.get("steps")
    last = steps if steps is not None else max((point["step"] for point in curve), default=0)
    record = Convergence(
        number=trial["number"],
        status=trial["status"],
        hit=hit,
        censored_at=float(last),
        censoring=ENDINGS[trial["status"]] if target is not None and hit is None else "",
    )
    points = measured(curve, metric)
    if not points:
        return record
    best = min(points, key=lambda point: loss(point[metric], direction))
    tail = [float(point[metric]) for point in points[-TAIL:]]
    return replace(
        record,
        best=float(best[metric]),
        best_progress=best["step"] / last if trial["status"] == "COMPLETE" and last else None,
        best_examples=None if best.get("examples") is None else float(best["examples"]),
        final=tail[-1],
        last_mean=statistics.fmean(tail),
        last_sd=statistics.stdev(tail) if len(tail) > 1 else None,
        area=area(curve, metric=metric, direction=direction),
        area_raw=area(curve, metric=metric, direction=direction, best_so_far=False),
        area_linear=area(curve, metric=metric, direction=direction, logarithmic=False),
        gap=trial.get(f"gap_{metric}"),
    )


def figures(record: Convergence) -> dict[str, float]:
    """The `FIGURES` of a trial, as far as there are any: a hit that does not last has no sustained one."""
    known = {name: getattr(record, name) for name in OF_CURVE}
    if record.hit is not None:
        known["sustained_steps_to_target"] = record.hit.sustained
        known["interpolated_steps_to_target"] = record.hit.interpolated
    return {name: value for name, value in known.items() if value is not None and math.isfinite(value)}


def gaps(final: Mapping[str, float], fit: Mapping[str, float]) -> dict[str, float]:
    """Generalization gaps by metric: the last evaluation less what validation says of training examples."""
    return {name: final[name] - value for name, value in fit.items() if name in final}


def cell_speed(cell: str, batch_size: int, records: Sequence[Convergence]) -> CellSpeed:
    """Steps to target of a cell, with the counts that say how far to trust it.

    The interval is about drawing these trials again at random: with refining trials among them it is too narrow.
    """
    feasible = [record for record in records if record.feasible]
    hits = [(record.hit, record.number) for record in feasible if record.hit is not None]
    hit, winner = min(hits, key=lambda one: (one[0].step, one[1]), default=(None, None))
    timed = [(one.seconds, number) for one, number in hits if not math.isnan(one.seconds)]
    unknown = math.nan if hits else math.inf
    seconds, seconds_winner = min(timed, default=(unknown, None))
    low, high = selection_interval([record.arrival for record in records if record.censoring not in INTERRUPTED])
    return CellSpeed(
        cell=cell,
        batch_size=batch_size,
        n_trials=len(records),
        n_feasible=len(feasible),
        n_hit=len(hits),
        steps=math.inf if hit is None else hit.step,
        examples=math.inf if hit is None else batch_size * hit.step,
        seen=math.inf if hit is None else hit.examples,
        winner=winner,
        after=math.inf if hit is None else hit.after,
        low=low,
        high=high,
        seconds=seconds,
        seconds_winner=seconds_winner,
    )


def minimum_distribution(trials: int) -> list[float]:
    """Exact bootstrap probabilities that the minimum of so many trials is their smallest, second smallest, ..."""
    above = [((trials - rank) / trials) ** trials for rank in range(trials + 1)]
    return [more - less for more, less in zip(above, above[1:], strict=False)]


def selection_interval(hits: Sequence[float], *, low: float = 0.1, high: float = 0.9) -> tuple[float, float]:
    """Quantiles of the exact bootstrap distribution of the fewest steps; a trial that never arrived is inf.

    This is the luck of a search that drew these trials and no others; without any trial both ends are inf.
    """
    if not 0.0 < low <= high < 1.0:
        raise ValueError(f"`low` and `high` must be quantiles with 0 < low <= high < 1, but got {low} and {high}.")
    if not hits:
        return math.inf, math.inf
    ranked = sorted(hits)
    reached = list(itertools.accumulate(minimum_distribution(len(ranked))))
    return ranked[bisect.bisect_left(reached, low)], ranked[bisect.bisect_left(reached, high)]


def _hit(trial: Mapping[str, Any], curve: Curve, metrics: Mapping[str, Any], target: float) -> Hit | None:
    metric = metrics.get("target_metric") or metrics["objective"]
    direction = metrics.get("target_direction") or metrics["direction"]
    hit = first_hit(curve, metric=metric, target=target, direction=direction)
    # The curve of an array's member holds the array's seconds, which say nothing of one trial.
    if hit is not None and trial.get("time_mode") == PER_STEP and trial.get("steps"):
        return replace(hit, seconds=hit.step * trial["seconds"] / trial["steps"])
    if hit is not None and trial.get("time_mode") == "array":
        return replace(hit, seconds=math.nan)
    return hit


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
