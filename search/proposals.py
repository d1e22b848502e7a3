"""Where the configurations of a cell come from: a scrambled Sobol sequence first, then Optuna's sampler around what was good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from search.config import RangeConfig
from search.space import value_at

DRAWS = 64
"""Points drawn for every configuration wanted, before a space is taken to have no more different ones."""


def quasi_random(ranges: Mapping[str, RangeConfig], *, count: int, seed: int) -> list[dict[str, Any]]:
    """The first `count` different points of one scrambled Sobol sequence (Sobol 1967, Owen 1998), mapped to the ranges.

    One sequence, seeded once: fresh samplers for every point would be no more even than random ones. A longer list
    begins with the shorter one. Fewer than `count` come back when the space has no more.
    """
    if not ranges:
        return [{}]
    sequence = qmc.Sobol(d=len(ranges), scramble=True, rng=seed)
    points: list[dict[str, Any]] = []
    seen: set[str] = set()
    drawn, block = 0, max(1, math.ceil(math.log2(count)))
    while len(points) < count and drawn < DRAWS * count:
        # Blocks of powers of two keep the sequence balanced, and every longer draw begins with the shorter one.
        rows = sequence.random(2**block)
        drawn += len(rows)
        for row in rows:
            point = {name: value_at(extent, float(u)) for (name, extent), u in zip(ranges.items(), row, strict=True)}
            if repr(point) not in seen:
                seen.add(repr(point))
                points.append(point)
    return points[:count]


def refined(
    told: Sequence[FrozenTrial], ranges: Mapping[str, RangeConfig], *, count: int, seed: int, maximize: bool
) -> list[dict[str, Any]]:
    """`count` different configurations proposed by Optuna's TPE from the results of a cell: from the set, not their order."""
    space = distributions(ranges)
    sampler = optuna.samplers.TPESampler(n_startup_trials=1, seed=seed % 2**32)
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    study.add_trials(told)
    seen = {repr({name: trial.params[name] for name in ranges}) for trial in told}
    points: list[dict[str, Any]] = []
    for _ in range(DRAWS * count):
        if len(points) == count or not ranges:
            break
        point = dict(study.ask(space).params)
        if repr(point) not in seen:
            seen.add(repr(point))
            points.append(point)
    return points


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

    A trial without a comparable value is never given a made-up one: diverged and out of memory are PRUNED, the rest FAIL.
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
