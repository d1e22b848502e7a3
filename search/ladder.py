"""The rungs of a search with everyone on them in order, so that a new result costs the same however many came before.

It answers what `search.promotion.promoted` answers for the same standings, without sorting them anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from search.promotion import OF_ETA, Few, Rank, Rule, Standing, few, first_of, going_on, leads, left_behind, waits


@dataclass(slots=True)
class Rung:
    """Trials of one group and bracket that have come to a rung."""

    ranked: list[Rank] = field(default_factory=list)
    """All of them, the best first."""
    waiting: list[Rank] = field(default_factory=list)
    """Those that wait here, the best first."""


class Ladder:
    """Where every trial stands now."""

    def __init__(self, *, rule: Rule, eta: int, pooled: bool = False) -> None:
        self._rule: Rule = rule
        self._eta = eta
        self._pooled = pooled and rule in OF_ETA
        self._standings: dict[int, Standing] = {}
        self._rungs: defaultdict[tuple[str, int, int], Rung] = defaultdict(Rung)
        self._everyone: defaultdict[int, list[Rank]] = defaultdict(list)
        """All that have come to a rung, whatever their groups, the best first."""

    def put(self, one: Standing) -> None:
        """Take in where a trial stands now, in place of where it stood."""
        if (before := self._standings.get(one.number)) is not None:
            for ranks, rank in self._places(before):
                del ranks[bisect_left(ranks, rank)]
        for ranks, rank in self._places(one):
            insort(ranks, rank)
        self._standings[one.number] = one

    def _places(self, one: Standing) -> Iterator[tuple[list[Rank], Rank]]:
        """The lists that a trial is in, and as what."""
        for rung in range(one.bracket, len(one.losses)):
            here, rank = self._rungs[one.group, one.bracket, rung], (one.losses[rung], one.number)
            yield here.ranked, rank
            yield self._everyone[rung], rank
            if one.resting and rung == len(one.losses) - 1:
                yield here.waiting, rank

    def promoted(self) -> list[int]:
        """Numbers of the trials that may go on now, those at the highest rung first."""
        found: list[tuple[int, float, int]] = []
        for (_, _, rung), here in self._rungs.items():
            many = going_on(here.ranked, rule=self._rule, eta=self._eta) if here.waiting else 0
            if many:
                chosen = here.waiting[: bisect_right(here.waiting, here.ranked[many - 1])]
                found += [(-rung, loss, number) for loss, number in chosen]
        for (_, _, rung), groups in self._small().items() if self._pooled else ():
            found += [(-rung, *rank) for rank in first_of(groups, eta=self._eta)]
        found += [(-rung, *rank) for rung, rank in self._leaders()] if self._pooled else []
        return [number for *_, number in sorted(set(found))]

    def _leaders(self) -> Iterator[tuple[int, Rank]]:
        """Of each rung the best of all groups together, where it goes on at once."""
        for rung, ranked in self._everyone.items():
            best = self._standings[ranked[0][1]] if ranked else None
            if best and waits(best, rung) and leads(best, self._everyone[best.bracket], eta=self._eta):
                yield rung, ranked[0]

    def _small(self) -> dict[tuple[str, int, int], list[Few]]:
        """Groups that have sent fewer than `eta` trials to a rung, by pool, bracket and rung."""
        small: defaultdict[tuple[str, int, int], list[Few]] = defaultdict(list)
        for (group, bracket, rung), here in self._rungs.items():
            if 0 < len(here.ranked) < self._eta:
                _, number = here.ranked[0]
                best = self._standings[number]
                behind = left_behind(best, self._rungs[group, bracket, bracket].ranked)
                small[best.pool, bracket, rung].append(few(here.ranked, here.waiting, behind=behind, eta=self._eta))
        return small
