"""Where the proposals of the strategy `tune` come from: sequences that are laid down beforehand, and Optuna's samplers.

A sequence (`qmc`, `random`, `grid`) does not look at results. Optuna's samplers do; they get all results anew before
each batch of proposals, so that a study rebuilt from its ledger goes on as it would have.
"""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nsmallest
from itertools import islice
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from search.config import RangeConfig
from search.joint import JointSpace, Point
from search.prior_points import Priors
from search.proposals import BLOCK, DRAWS, distribution
from search.space import value_at
from search.trial import TrialResult

SEQUENCES = ("qmc", "random", "grid")
LEVELS = 5
"""Places at which `grid` tries a continuous range, unless `search.sampler_args.levels` says otherwise."""
REMEMBERED = 400
"""Results that a sampler is given: of more, the best half and the latest half. The time of a proposal grows with them,
and beside workers that use all cores it is theirs; 250 instead of 1000 made no difference to what searches came to."""

SAME = 4
"""One refused point so many times in a row, and no other is to be expected: one of gp's takes a second or more."""

SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    # group: arguments of different optimizers and schedules are modelled jointly where they occur together.
    "tpe": ("search.samplers.TPESampler", {"multivariate": True, "group": True, "constant_liar": True}),
    "gp": ("optuna.samplers.GPSampler", {"deterministic_objective": False, "warn_independent_sampling": False}),
    "cmaes": ("optuna.samplers.CmaEsSampler", {"warn_independent_sampling": False}),
    "nsga2": ("optuna.samplers.NSGAIISampler", {}),
}
"""Name of a sampler to Optuna's class and to the arguments in which ours differs from Optuna's defaults."""


class TPESampler(optuna.samplers.TPESampler):
    """TPE for one batch of proposals: groups are found once, since the results that they follow from stay the same."""

    _found: dict[str, BaseDistribution] | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The groups of parameters that occur together."""
        if self._found is None:
            self._found = super().infer_relative_search_space(study, trial)
        return self._found


class Told(FrozenTrial):
    """A trial that a study takes over without copying it: deep copies of 400 take longer than their proposals."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Told:
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A trial as a sampler sees it."""

    point: Mapping[str, Any]
    state: TrialState
    value: float | None = None
    """The objective of a complete trial."""
    values: Sequence[float] | None = None
    """Its losses instead, with `search.objectives`."""
    place: int | None = None
    """With those, its place among all, best first: it stands for values that are lacking."""
    rungs: Mapping[int, float] = field(default_factory=dict)
    """The objective at each rung, for a trial that waits or was given up there."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What the sampler itself has noted with it: CMA-ES and NSGA-II keep their generations so."""


def sequence(
    name: str, joint: JointSpace, *, seed: int, levels: int = LEVELS, priors: Priors | None = None
) -> Iterator[Point]:
    """All points of a sequence in their order: endless, but for `grid`; some coordinates as priors draw them."""
    if name == "grid":
        points = list(joint.grid(levels))
        # In another order than the grid's, so that one that is stopped early has seen all of it.
        random.Random(seed).shuffle(points)
        yield from points
        return
    extents = joint.everything()
    for number, row in enumerate(_rows(name, len(extents), seed)):
        point = {axis: value_at(extent, float(u)) for (axis, extent), u in zip(extents.items(), row, strict=True)}
        yield joint.reduced(point | (priors.drawn(number) if priors else {}))


def _rows(name: str, dimensions: int, seed: int) -> Iterator[np.ndarray]:
    """Points of the unit cube, without end."""
    if name == "qmc":
        sobol = qmc.Sobol(d=dimensions, scramble=True, rng=seed)
        while True:
            yield from sobol.random(BLOCK)
    generator = np.random.default_rng(seed)
    while True:
        yield generator.random(dimensions)


def sampler_of(name: str, args: Mapping[str, Any], *, seed: int) -> Any:
    """Optuna's sampler by one of our names, or by its import path.

    Raises:
        ValueError: if there is none, or if it does not take the arguments.
    """
    path, own = SAMPLERS.get(name, (name, {}))
    module, _, cls = path.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join([*SAMPLERS, *SEQUENCES])
        raise ValueError(
            f"`search.sampler` must be one of {known}, or the import path of an Optuna sampler, but {name!r} cannot be "
            f"imported: {error}."
        ) from error
    if not (isinstance(made, type) and issubclass(made, optuna.samplers.BaseSampler)):
        raise ValueError(f"`search.sampler` must be a sampler of Optuna's kind, but {name!r} is none.")
    given = {**own, **args}
    try:
        with warnings.catch_warnings():
            # Experimental is what Optuna calls parts of most samplers; whoever names one has chosen it.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return made(**({"seed": seed % 2**32} if "seed" not in given else {}), **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`search.sampler_args` must be what {cls} takes, but got {dict(args)}: {error}.") from error


def check_sampler(name: str, args: Mapping[str, Any]) -> None:
    """Refuse what could not be asked for proposals.

    Raises:
        ValueError: if there is no such sampler, or if it does not take the arguments.
    """
    if name not in SEQUENCES:
        sampler_of(name, args, seed=0)
        return
    known = {"levels"} if name == "grid" else set()
    if unknown := set(args) - known:
        takes = "`levels` only" if known else "no arguments"
        raise ValueError(f"`search.sampler_args` must be {takes} with {name}, but got {', '.join(sorted(unknown))}.")
    levels = args.get("levels", LEVELS)
    if not isinstance(levels, int) or levels < 1:
        raise ValueError(f"`search.sampler_args.levels` must be a whole number of at least 1, but got {levels!r}.")


def remembered(known: Sequence[Known], *, maximize: bool) -> list[Known]:
    """The results that a sampler is given, in their order: those that run, and at most `REMEMBERED` that have ended."""
    running = {index for index, one in enumerate(known) if one.state is TrialState.RUNNING}
    if len(known) - len(running) <= REMEMBERED:
        return list(known)
    sign = -1.0 if maximize else 1.0
    # With `search.objectives`, `place` is the order; otherwise the value is.
    complete = [
        (one.place or 0, sign * (one.value or 0.0), index)
        for index, one in enumerate(known)
        if one.state is TrialState.COMPLETE
    ]
    best = {index for *_, index in nsmallest(REMEMBERED // 2, complete)}
    others = (index for index in reversed(range(len(known))) if index not in best and index not in running)
    kept = running | best | {*islice(others, REMEMBERED - len(best))}
    return [known[index] for index in sorted(kept)]


def elsewhere(joint: JointSpace, *, seed: int, refused: Callable[[Point], bool]) -> list[Point]:
    """A new quasi-random point, if there is one, where a sampler repeats itself: gp is not told what diverged."""
    points = islice(sequence("qmc", joint, seed=seed), DRAWS)
    return list(islice((point for point in points if not refused(point)), 1))


def state_of(result: TrialResult | None, *, waits: bool) -> TrialState:
    """How a sampler is told of a trial."""
    if result is None:
        # What has been seen at a rung says more than that it runs.
        return TrialState.PRUNED if waits else TrialState.RUNNING
    if result.status == "COMPLETE" and result.value is not None:
        return TrialState.COMPLETE
    return TrialState.FAIL if result.status in ("FAILED", "TIMEOUT") else TrialState.PRUNED


class Asker:
    """One batch of proposals by an Optuna sampler that knows certain results; proposals made count as running."""

    def __init__(
        self, joint: JointSpace, known: Sequence[Known], sampler: Any, *, maximize: bool, objectives: int = 1
    ) -> None:
        self._joint = joint
        directions: list[Literal["minimize", "maximize"]] = ["maximize" if maximize else "minimize"] * objectives
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        space = {name: distribution(extent) for name, extent in joint.everything().items()}
        self._study.add_trials([_told(one, space) for one in remembered(known, maximize=maximize)])

    def ask(
        self, fixed: Mapping[str, Any], refused: Callable[[Point], bool], *, drawn: Mapping[str, Any]
    ) -> tuple[Point, dict[str, Any]] | None:
        """A point that is not refused, and what the sampler notes with it; None if hardly any more come.

        What is `drawn` by priors is fixed too, unless nothing new lies there.
        """
        return (self._ask({**drawn, **fixed}, refused) if drawn else None) or self._ask(fixed, refused)

    def _ask(self, fixed: Mapping[str, Any], refused: Callable[[Point], bool]) -> tuple[Point, dict[str, Any]] | None:
        same: list[Point] = []
        for _ in range(DRAWS):
            if fixed:
                self._study.enqueue_trial(dict(fixed))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                trial = self._study.ask()
                point = self._suggest(trial)
            if not refused(point):
                noted = self._study.get_trials(deepcopy=False)[trial.number].system_attrs
                return point, {name: value for name, value in noted.items() if name != "fixed_params"}
            self._study.tell(trial, state=TrialState.FAIL)
            same = [*same, point] if point in same[:1] else [point]
            if len(same) == SAME:
                break
        return None

    def _suggest(self, trial: optuna.Trial) -> Point:
        axes = {name: _suggested(trial, name, extent) for name, extent in self._joint.axes().items()}
        own = self._joint.coordinates(self._joint.cell_of(axes))
        return {**axes, **{name: _suggested(trial, name, extent) for name, extent in own.items()}}


def identity(point: Mapping[str, Any]) -> str:
    """What two equal points have in common."""
    return repr(sorted(point.items()))


def first_points(points: Iterator[Point], count: int) -> list[Point]:
    """The first `count` points that differ from each other; fewer when hardly any more come."""
    found: dict[str, Point] = {}
    for point in islice(points, DRAWS * count):
        found.setdefault(identity(point), point)
        if len(found) == count:
            break
    return list(found.values())


def _suggested(trial: optuna.Trial, name: str, extent: RangeConfig) -> Any:
    if extent.values is not None:
        return trial.suggest_categorical(name, list(extent.values))
    assert extent.low is not None and extent.high is not None, "a range without values has bounds"
    if extent.is_integer:
        step = int(extent.step or 1)
        return trial.suggest_int(name, int(extent.low), int(extent.high), log=extent.log, step=step)
    return trial.suggest_float(name, extent.low, extent.high, log=extent.log, step=extent.step)


def _told(one: Known, space: Mapping[str, BaseDistribution]) -> Told:
    began = datetime.now()
    told = Told(
        number=-1,
        trial_id=-1,
        state=one.state,
        value=one.value if one.state is TrialState.COMPLETE else None,
        values=one.values,
        datetime_start=began,
        datetime_complete=began if one.state.is_finished() else None,
        params=dict(one.point),
        distributions={name: space[name] for name in one.point},
        intermediate_values=dict(one.rungs),
        user_attrs={},
        system_attrs=dict(one.attributes),
    )
    if one.place is not None and one.state is TrialState.PRUNED:
        told.set_constraint("behind", 1.0 + one.place)
    return told
