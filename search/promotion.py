"""Which paused trials go on from a rung: pure functions of what the trials came to there.

A trial pauses at every rung and is never stopped there: what looks poor now goes on later if the ones beside it turn
out poorer. Only trials of one group are compared, at one rung.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from models.config import MetricsConfig
from models.segment import Point

Rule = Literal["none", "halving", "hyperband", "median"]
"""halving: asynchronous successive halving (Li et al. 2020). hyperband: the same in brackets that begin to compare at
later rungs (Li et al. 2018). median: whatever is no worse than the median (Golovin et al. 2017)."""

Rank = tuple[float, int]
"""What a trial came to at a rung, and its number: ties go to the lower one."""

OF_ETA: Sequence[Rule] = ("halving", "hyperband")
"""By these, one of `eta` goes on, and so none of fewer."""
MEDIAN_OF = 3
"""So many trials must have come to a rung before their median says anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One trial, as the rungs see it."""

    number: int
    group: str
    """Trials of one group are compared with each other."""
    bracket: int
    """Its first rung: it goes past earlier ones unseen."""
    losses: Sequence[float]
    """What it came to at each rung that it has reached, smaller is better; infinity where it diverged before."""
    resting: bool
    """Whether it waits at the last of these rungs."""
    pool: str = ""
    """Groups of one pool have a share together where they are too small for their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """How many trials have come to one rung, and gone on from it."""

    progress: float
    came: int
    gone_on: int


def rungs(eta: int, count: int) -> list[float]:
    """Progress at which trials are compared: `count` shares of the budget, each `eta` times the one before."""
    return [float(eta) ** -k for k in range(count, 0, -1)]


def loss_at(curve: Sequence[Point], goal: int, metrics: MetricsConfig) -> float:
    """What a training came to up to the first evaluation at or past a step, smaller is better; infinity where broken.

    With `select: last` the value there, otherwise the best so far.
    """
    sign = -1.0 if metrics.direction == "max" else 1.0
    seen: list[float] = []
    for point in curve:
        seen.append(sign * point.get(metrics.objective, math.nan))
        if point["step"] >= goal:
            break
    finite = [value for value in seen if math.isfinite(value)]
    if not finite or not math.isfinite(seen[-1]):
        return math.inf
    return min(finite) if metrics.select == "best" else seen[-1]


def bracket_of(rule: Rule, number: int, *, eta: int, count: int) -> int:
    """The first rung at which a trial is compared; with hyperband, a later one for the fewer trials.

    Each bracket costs about the same: one that starts at rung k has a share of the trials in proportion to
    eta^(count - k) / (count + 1 - k), as in Li et al. 2018, table 1. The last one compares nowhere.
    """
    if rule != "hyperband":
        return 0
    weights = [eta ** (count - k) / (count + 1 - k) for k in range(count + 1)]
    # The golden ratio spreads consecutive numbers evenly over (0, 1): every stretch of trials has all brackets.
    place = (number * (math.sqrt(5) - 1) / 2 % 1) * sum(weights)
    for bracket, weight in enumerate(weights):
        if place < weight:
            return bracket
        place -= weight
    return count


class Few(NamedTuple):
    """A group that has sent fewer than `eta` trials to a rung: too few for a share of their own."""

    came: int
    gone_on: int
    best: Rank | None
    """The best of those that came, where it may go on in place of them all."""


def promoted(standings: Iterable[Standing], *, rule: Rule, eta: int, pooled: bool = False) -> list[int]:
    """Numbers of the trials that may go on now, those at the highest rung first.

    `pooled`: groups too small for a share of their own have one together, in each pool, and whoever leads all groups
    at a rung goes on from it at once.
    """
    known = list(standings)
    by_rung = _by_rung(known)
    found: list[tuple[int, float, int]] = []
    small: defaultdict[tuple[str, int, int], list[Few]] = defaultdict(list)
    for (group, bracket, rung), here in by_rung.items():
        ranked = sorted((one.losses[rung], one.number) for one in here)
        chosen = set(ranked[: going_on(ranked, rule=rule, eta=eta)])
        waiting = sorted((one.losses[rung], one.number) for one in here if one.resting and len(one.losses) == rung + 1)
        found += [(-rung, *rank) for rank in waiting if rank in chosen]
        if pooled and rule in OF_ETA and len(here) < eta:
            best = min(here, key=lambda one: (one.losses[rung], one.number))
            first = sorted((one.losses[bracket], one.number) for one in by_rung[group, bracket, bracket])
            behind = left_behind(best, first)
            small[best.pool, bracket, rung].append(few(ranked, waiting, behind=behind, eta=eta))
    for (_, _, rung), groups in small.items():
        found += [(-rung, *rank) for rank in first_of(groups, eta=eta)]
    if pooled and rule in OF_ETA:
        found += [(-rung, *rank) for rung, rank in _leaders(known, eta=eta)]
    return [number for *_, number in sorted(set(found))]


def _leaders(standings: Sequence[Standing], *, eta: int) -> Iterator[tuple[int, Rank]]:
    """Of each rung the best of all groups together, where it goes on at once."""
    for rung in range(max((len(one.losses) for one in standings), default=0)):
        best = min(_come_to(rung, standings), key=lambda one: (one.losses[rung], one.number), default=None)
        if best is not None and waits(best, rung):
            first = sorted((one.losses[best.bracket], one.number) for one in _come_to(best.bracket, standings))
            if leads(best, first, eta=eta):
                yield rung, (best.losses[rung], best.number)


def _come_to(rung: int, standings: Iterable[Standing]) -> Iterator[Standing]:
    """Those that have come to a rung, each from the first rung of its bracket on."""
    return (one for one in standings if one.bracket <= rung < len(one.losses))


def waits(one: Standing, rung: int) -> bool:
    """Whether a trial that has not diverged waits at this rung."""
    return one.resting and len(one.losses) == rung + 1 and math.isfinite(one.losses[rung])


def leads(best: Standing, first: Sequence[Rank], *, eta: int) -> bool:
    """Whether the best of all that have come to the rung at which it waits, whatever their groups, goes on at once.

    It must have left `eta` - 1 behind of all that came to its first rung. So a search has trainings at their end early,
    when no group has enough for a share, and for little: of n that come one by one, 1 + 1/2 + ... + 1/n are expected to
    lead.
    """
    return left_behind(best, first) >= eta - 1


def left_behind(one: Standing, first: Sequence[Rank]) -> int:
    """How many of `first`, it and others at its first rung, came to something worse there than this trial."""
    return len(first) - 1 - bisect_left(first, (one.losses[one.bracket], one.number))


def few(ranked: Sequence[Rank], waiting: Sequence[Rank], *, behind: int, eta: int) -> Few:
    """A small group at a rung: who came to it and who waits there, the best first; whom that best has left `behind`.

    It must have left `eta` - 1 of its own group behind to go on, and none of its group may have gone on before it.
    """
    finite, unmoved = (bisect_left(ranks, (math.inf, -1)) for ranks in (ranked, waiting))
    may = 0 < finite == unmoved and behind >= eta - 1
    return Few(came=len(ranked), gone_on=finite - unmoved, best=ranked[0] if may else None)


def first_of(groups: Iterable[Few], *, eta: int) -> list[Rank]:
    """Who goes on from the small groups of a pool: of all their trials together, one of `eta`.

    Where more may than can, what they came to decides, though their groups differ. That says who is first, and stops
    nobody: whom it passes over goes on with its own group's share, or when nothing else is left to do.
    """
    known = list(groups)
    room = sum(one.came for one in known) // eta - sum(one.gone_on for one in known)
    return sorted(one.best for one in known if one.best is not None)[: max(0, room)]


def going_on(ranked: Sequence[Rank], *, rule: Rule, eta: int) -> int:
    """How many of those who have come to a rung, the best first, may go on from it; never one that diverged."""
    finite = bisect_left(ranked, (math.inf, -1))
    if rule != "median":
        return min(finite, len(ranked) // eta)
    if len(ranked) < MEDIAN_OF:
        return finite
    # The lower of two middle values, so that an infinite one never becomes the mark.
    mark, _ = ranked[(len(ranked) - 1) // 2]
    return min(finite, bisect_right(ranked, mark, key=lambda rank: rank[0]))


def last_chance(standings: Iterable[Standing], *, eta: int) -> list[int]:
    """Who goes on when nothing else is left to do: in a group that has sent nobody past a rung, its best there.

    Without it, a group of fewer than `eta` trials would never have a complete one.
    """
    found = []
    for (_, _, rung), here in _by_rung(standings).items():
        best = min(here, key=lambda one: (one.losses[rung], one.number))
        past = any(not one.resting or len(one.losses) > rung + 1 for one in here if math.isfinite(one.losses[rung]))
        if best.resting and not past and math.isfinite(best.losses[rung]) and len(here) < eta:
            found.append(best.number)
    return found


def _by_rung(standings: Iterable[Standing]) -> dict[tuple[str, int, int], list[Standing]]:
    """Everyone who has come to a rung, by group, bracket and rung; a trial is seen from its bracket's rung on."""
    found: defaultdict[tuple[str, int, int], list[Standing]] = defaultdict(list)
    for one in standings:
        for rung in range(one.bracket, len(one.losses)):
            found[one.group, one.bracket, rung].append(one)
    return found
