"""What the finalists came to on fresh seeds: which is really better, which to use, and what of it was luck."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.config import MetricsConfig
from search.failure import SearchFailed
from search.gains import Kind
from search.trial import TrialResult
from search.verification import Finalist, Verification, came_to, deviation
from tracking.analysis.verdicts import Verdict, compare


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What one finalist came to on fresh seeds; plain JSON values."""

    name: str
    cell: str
    trial: int
    """Number of the trial that won the cell."""
    described: str
    params: Mapping[str, Any]
    baseline: bool
    search_value: float
    values: Sequence[float]
    """By seed; infinity: diverged. A training that failed for another reason is left out."""
    mean: float | None
    """Of the trainings that did not diverge."""
    sd: float | None
    regression: float | None
    """Score in the search minus this mean: what that single training, chosen among many, promised too much."""
    diverged: int
    failed: int
    steps: int
    examples: int
    cost: float
    cost_unit: str
    """`seconds` of training alone, or `examples` where no step times are known."""
    difference: float | None = None
    """Mean of the best minus this mean, with its interval at `confidence`; None for the best itself."""
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    p_better: float | None = None
    """Chance that a training of the best is better than one of this, with its 95 % interval."""
    p_low: float | None = None
    p_high: float | None = None
    detectable: float | None = None
    """Difference that so many seeds find in 80 % of cases."""
    meaning: str | None = None
    judged: Sequence[float]
    """What the comparison is of, by seed: `values`, or with `search.objectives` another figure; infinity: never."""
    judged_mean: float | None
    """Of those that are finite."""
    objectives: Mapping[str, float]
    """Mean of each objective of a search that has its own."""
    outcome: str = "no result"
    """`best`, or of the best against this one: `better`, `equivalent`, `no detectable difference`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a verification came to; plain JSON values."""

    finalists: Sequence[Standing]
    """The best mean first."""
    chosen: str
    """Name of the configuration to use."""
    judged_by: str
    """What they are compared by."""
    sentences: Sequence[str]
    seeds: int
    """Seeds of the configuration that has most."""
    searched: int
    """Trials of the search that had ended: with more of them, others may be the finalists."""

    @property
    def choice(self) -> Standing:
        """The configuration to use."""
        return next(one for one in self.finalists if one.name == self.chosen)


def judge(verification: Verification, *, step_seconds: Mapping[str, float], searched: int) -> Outcome:
    """Compare the finalists, once all their trainings have ended.

    Args:
        step_seconds: of a training alone, by "batch size-optimizer", as far as measured.
        searched: ended trials of the search.

    Raises:
        SearchFailed: if no training came to a value.
    """
    runs = {finalist.cell.name: finalist.judged for finalist in verification.finalists if finalist.judged}
    if not any(math.isfinite(value) for values in runs.values() for value in values):
        raise SearchFailed("no training on a fresh seed came to a value; `trials.csv` has the reason of each")
    criterion = verification.compared_by
    best, verdicts = compare(runs, direction=criterion.direction)
    against = {verdict.against: verdict for verdict in verdicts}
    costs = _costs(verification.finalists, step_seconds)
    standings = [
        _standing(finalist, costs[finalist.cell.name], against.get(finalist.cell.name), best=best)
        for finalist in verification.finalists
    ]
    sign = 1.0 if criterion.direction == "min" else -1.0
    standings.sort(
        key=lambda one: (one.name != best, one.judged_mean is None, lost(one), sign * (one.judged_mean or 0))
    )
    chosen = choose(standings)
    return Outcome(
        finalists=standings,
        chosen=chosen.name,
        judged_by=criterion.name,
        sentences=sentences(standings, chosen, judged_by=criterion.name, metrics=verification.space.metrics),
        seeds=max(len(one.values) for one in standings),
        searched=searched,
    )


def choose(standings: Sequence[Standing]) -> Standing:
    """Ties go to the cheaper: the least cost among those that cannot be told from the best, which stands first."""
    return min(ties(standings), key=lambda one: (one.cost, standings.index(one)))


def ties(standings: Sequence[Standing]) -> list[Standing]:
    """The best and what cannot be told from it: nothing that was lost more often, however few seeds there are."""
    tied = ("best", "equivalent", "no detectable difference")
    return [one for one in standings if one.outcome in tied and lost(one) <= lost(standings[0])]


def lost(one: Standing) -> int:
    """Trainings that diverged, or never came to what is compared."""
    return sum(not math.isfinite(value) for value in one.judged)


def sentences(standings: Sequence[Standing], chosen: Standing, *, judged_by: str, metrics: MetricsConfig) -> list[str]:
    """The verdict in words: what to use, what the best is better than, and what of the search's score was luck."""
    said = [_use(standings, chosen, judged_by), *_against(standings)]
    if chosen.objectives:
        named = [f"{name} {figure(mean)}" for name, mean in chosen.objectives.items()]
        said.append(f"Means of {chosen.name} on fresh seeds: {', '.join(named)}.")
    luck = None if chosen.regression is None else chosen.regression * (1.0 if metrics.direction == "max" else -1.0)
    if luck is not None and luck > 0:
        what = "" if judged_by == metrics.objective else f"{metrics.objective} "
        said.append(
            f"The search had measured {what}{chosen.search_value:.4g} for {chosen.name}, {luck:.2g} better than its "
            "mean on fresh seeds: the best of many trials is partly the luckiest."
        )
    return said


def _use(standings: Sequence[Standing], chosen: Standing, objective: str) -> str:
    best, what = standings[0], f"Use {chosen.name}, {chosen.described}"
    seeds = f"on {len(chosen.values)} fresh seeds"
    if len(standings) == 1:
        return f"{what}: its mean {objective} {seeds} is {_spread(chosen)}. There is no other cell to compare it with."
    if chosen is best:
        cheapest = " Nothing that cannot be told from it is cheaper." if len(ties(standings)) > 1 else ""
        return f"{what}: {seeds}, it has the best mean {objective}, {_spread(chosen)}.{cheapest}"
    prices = (
        f"{chosen.cost:.3g} s of training instead of {best.cost:.3g} s"
        if best.cost_unit == "seconds"
        else f"{chosen.cost:,.0f} examples instead of {best.cost:,.0f}"
    )
    return (
        f"{what}: {seeds}, its mean {objective} is {_spread(chosen)}. It cannot be told from the best, {best.name} "
        f"with {_spread(best)}, and it costs less, {prices}."
    )


def _spread(one: Standing) -> str:
    known = [value for value in one.judged if math.isfinite(value)]
    spread = deviation(known)
    mean = "nothing" if one.judged_mean is None else figure(one.judged_mean)
    return mean + ("" if spread is None else f" (SD {figure(spread, 2)})")


def figure(value: float, digits: int = 4) -> str:
    """So many significant digits, or all of a number that has more before its point."""
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _against(standings: Sequence[Standing]) -> list[str]:
    best = standings[0].name
    told = {
        "better": f"{best} is better than {{}}.",
        "equivalent": f"{best} is equivalent to {{}}: the difference is within one standard deviation of the seeds.",
        "no detectable difference": f"There is no detectable difference between {best} and {{}}.",
        "no result": "There is no result of {}.",
    }
    said = []
    for outcome, words in told.items():
        those = [one for one in standings if one.outcome == outcome]
        if those:
            limits = _limits(those) if outcome == "no detectable difference" else [""] * len(those)
            names = [f"{one.name}{limit}" for one, limit in zip(those, limits, strict=True)]
            said.append(words.format(_listed(names)))
    return said


def _limits(those: Sequence[Standing]) -> list[str]:
    """What would have been detected; the first says what such a number means."""
    words = [" (one of {} would be found in 80 % of cases)", *[" ({})"] * len(those)]
    known = [one.detectable if one.detectable is not None else math.inf for one in those]
    return [
        word.format(figure(limit, 2)) if math.isfinite(limit) else "" for word, limit in zip(words, known, strict=False)
    ]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _standing(finalist: Finalist, cost: tuple[float, str], verdict: Verdict | None, *, best: str) -> Standing:
    values, judged, longest = finalist.values, finalist.judged, _longest(finalist)
    finite = [value for value in values if math.isfinite(value)]
    arrived = [value for value in judged if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else None
    known: dict[str, Any] = {"outcome": "best"} if finalist.cell.name == best else {}
    if verdict is not None:
        names = ("difference", "low", "high", "confidence", "p_better", "p_low", "p_high", "detectable", "meaning")
        known = {name: getattr(verdict, name) for name in (*names, "outcome")}
    return Standing(
        name=finalist.cell.name,
        cell=finalist.proposed.cell,
        trial=finalist.proposed.number,
        described=finalist.proposed.described,
        params=dict(finalist.proposed.params),
        baseline=finalist.baseline,
        search_value=finalist.search_value,
        values=values,
        mean=mean,
        sd=deviation(finite),
        regression=None if mean is None else finalist.search_value - mean,
        judged=judged,
        judged_mean=statistics.fmean(arrived) if arrived else None,
        objectives=finalist.means(),
        diverged=values.count(math.inf),
        failed=sum(not came_to(result) for result in finalist.results.values()),
        steps=longest.steps,
        examples=longest.examples,
        cost=cost[0],
        cost_unit=cost[1],
        **known,
    )


def _costs(candidates: Sequence[Finalist], step_seconds: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    """Seconds of training alone where step times of all are known, otherwise examples: one unit for all."""
    steps = {finalist.cell.name: _step_seconds(finalist.cell.kind, candidates, step_seconds) for finalist in candidates}
    costs: dict[str, tuple[float, str]] = {}
    for finalist in candidates:
        name, longest = finalist.cell.name, _longest(finalist)
        alone = steps[name]
        if alone is None or None in steps.values():
            costs[name] = (float(longest.examples), "examples")
        else:
            costs[name] = (longest.steps * alone, "seconds")
    return costs


def _step_seconds(kind: Kind, candidates: Sequence[Finalist], measured: Mapping[str, float]) -> float | None:
    """Of the search's measurement, or the median of the trainings here: one figure for all finalists of a kind."""
    size, optimizer = kind
    if f"{size}-{optimizer}" in measured:
        return measured[f"{size}-{optimizer}"]
    ended = [r for finalist in candidates if finalist.cell.kind == kind for r in finalist.results.values() if r.steps]
    # In an array whose step was not measured alone, the clock tells of all its members together.
    alone = [result.seconds / result.steps for result in ended if result.tags.get("time_mode") != "array"]
    return statistics.median(alone) if alone else None


def _longest(finalist: Finalist) -> TrialResult:
    """The result of a whole training: of one that diverged, the steps say nothing of the cost."""
    none = TrialResult(number=finalist.proposed.number, status="OOM")
    return max(finalist.results.values(), key=lambda result: result.steps, default=none)
