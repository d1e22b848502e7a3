"""Where a cell's configurations come from: a scrambled Sobol sequence, then Optuna's sampler around what was good."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from search.config import RangeConfig
from search.space import value_at, values_in

DRAWS = 64
"""Points drawn for every configuration wanted, before a space is taken to have no more different ones."""
BLOCK = 64
"""Points of a Sobol sequence drawn at a time; a power of two keeps it balanced."""

Point = dict[str, Any]


def quasi_random(
    ranges: Mapping[str, RangeConfig], *, count: int, seed: int, known: Collection[str] = ()
) -> list[Point]:
    """The first `count` different points of one scrambled Sobol sequence (Sobol 1967, Owen 1998), mapped to the ranges.

    One sequence, seeded once: fresh samplers for every point would be no more even than random ones. A longer list
    begins with the shorter one. Fewer than `count` come back when the space has no more that are not `known`.
    """
    if not ranges:
        return [{}]
    return different(_sobol(ranges, seed), ranges, count=count, known=known)


def _sobol(ranges: Mapping[str, RangeConfig], seed: int) -> Iterator[Point]:
    sequence = qmc.Sobol(d=len(ranges), scramble=True, rng=seed)
    while True:
        for row in sequence.random(BLOCK):
            yield {name: value_at(extent, float(u)) for (name, extent), u in zip(ranges.items(), row, strict=True)}


def proposed(
    told: Sequence[FrozenTrial], ranges: Mapping[str, RangeConfig], *, seed: int, maximize: bool
) -> Iterator[Point]:
    """Points proposed by Optuna's TPE from a cell's results, without end: from the set of them, not their order."""
    space = distributions(ranges)
    sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=seed % 2**32)
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    study.add_trials(told)
    while True:
        yield dict(study.ask(space).params)


def identity(params: Mapping[str, Any], ranges: Mapping[str, RangeConfig]) -> str:
    """What two trials of a cell have in common if they sampled the same."""
    return repr([params[name] for name in ranges])


def different(
    points: Iterator[Point], ranges: Mapping[str, RangeConfig], *, count: int, known: Collection[str]
) -> list[Point]:
    """The first `count` points that differ from each other and are not `known`; fewer when hardly any more come."""
    seen = set(known)
    found: list[Point] = []
    wanted = min(count, math.prod(values_in(extent) for extent in ranges.values()) - len(seen))
    for point in islice(points, DRAWS * count):
        if len(found) >= wanted:
            break
        if identity(point, ranges) not in seen:
            seen.add(identity(point, ranges))
            found.append(point)
    return found


def distributions(ranges: Mapping[str, RangeConfig]) -> dict[str, BaseDistribution]:
    """Optuna's distributions for a cell's ranges."""
    return {name: distribution(extent) for name, extent in ranges.items()}


def distribution(extent: RangeConfig) -> BaseDistribution:
    """Optuna's distribution for one range."""
    if extent.values is not None:
        return CategoricalDistribution(list(extent.values))
    assert extent.low is not None and extent.high is not None, "a range without values has bounds"
    if extent.is_integer:
        return IntDistribution(int(extent.low), int(extent.high), log=extent.log, step=int(extent.step or 1))
    return FloatDistribution(extent.low, extent.high, log=extent.log, step=extent.step)


def frozen(
    params: Mapping[str, Any],
    ranges: Mapping[str, RangeConfig],
    *,
    status: str,
    value: float | None,
    attributes: dict[str, Any],
) -> FrozenTrial:
    """A finished trial as Optuna keeps it.

    A trial without a comparable value never gets a made-up one: diverged and out of memory are PRUNED, the rest FAIL.
    """
    state = {"COMPLETE": TrialState.COMPLETE, "FAILED": TrialState.FAIL, "TIMEOUT": TrialState.FAIL}.get(
        status, TrialState.PRUNED
    )
    return optuna.trial.create_trial(
        state=state,
        value=value if state is TrialState.COMPLETE else None,
        params={name: params[name] for name in ranges},
        distributions=distributions(ranges),
        user_attrs=attributes,
    )


def widened(extent: RangeConfig, other: RangeConfig | None) -> RangeConfig:
    """One logarithmic range that covers both."""
    if other is None:
        return extent
    bounds = [bound for bound in (extent.low, extent.high, other.low, other.high) if bound is not None]
    return RangeConfig(low=min(bounds), high=max(bounds), log=extent.log)
