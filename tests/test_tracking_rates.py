"""The best rate of a cell: found where it is known, flagged where the range ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from noisy_quadratic import arrival, spectrum, tuned

from tracking.analysis.rates import edge_of, rate_optimum

RATES = np.geomspace(0.001, 1.0, 12).tolist()
BOUNDS = (0.001, 1.0)


def bowl(best: float, noise: float = 0.0, seed: int = 0) -> list[float]:
    """A loss whose logarithm is a parabola over the log rate, its least 0.1 at `best`."""
    scatter = noise * np.random.default_rng(seed).standard_normal(len(RATES))
    logs = 0.3 * np.log(np.array(RATES) / best) ** 2 + math.log(0.1) + scatter
    return [float(value) for value in np.exp(logs)]


@pytest.mark.parametrize("best", [0.01, 0.03, 0.1])
def test_the_vertex_of_a_parabola_is_found(best: float) -> None:
    found = rate_optimum(RATES, bowl(best), bounds=BOUNDS)
    assert found.learning_rate == pytest.approx(best, rel=1e-9)
    assert found.value == pytest.approx(0.1, rel=1e-9)
    assert (found.edge, found.reason) == ("", None)
    # Within one unit of the best: 0.3 x^2 <= 1 on both sides of it.
    assert found.trials in range(5, 8)


def test_the_interval_holds_the_optimum_of_noisy_trials() -> None:
    found = [rate_optimum(RATES, bowl(0.03, 0.1, seed), bounds=BOUNDS) for seed in range(40)]
    assert np.mean([one.low <= 0.03 <= one.high for one in found]) >= 0.75
    assert np.median([one.learning_rate for one in found]) == pytest.approx(0.03, rel=0.1)
    assert all(one.low < one.learning_rate < one.high and one.log_sd > 0 for one in found)


def test_one_seed_gives_one_interval() -> None:
    values = bowl(0.03, 0.1)
    assert rate_optimum(RATES, values, bounds=BOUNDS, seed=1) == rate_optimum(RATES, values, bounds=BOUNDS, seed=1)


def test_trials_far_from_the_best_do_not_shape_it() -> None:
    values = bowl(0.03)
    values[0], values[-1] = 1e6, math.inf
    assert rate_optimum(RATES, values, bounds=BOUNDS).learning_rate == pytest.approx(0.03, rel=1e-9)


def test_an_objective_without_a_logarithm_has_an_optimum_too() -> None:
    accuracy = [0.9 - 0.05 * math.log(rate / 0.03) ** 2 for rate in RATES]
    found = rate_optimum(RATES, [-value for value in accuracy], bounds=BOUNDS)
    assert found.learning_rate == pytest.approx(0.03, rel=1e-9)
    assert found.value == pytest.approx(-0.9)


@pytest.mark.parametrize(("best", "edge"), [(1e-4, "low"), (0.0011, "low"), (0.9, "high"), (30.0, "high")])
def test_a_best_rate_at_a_bound_is_a_bound(best: float, edge: str) -> None:
    found = rate_optimum(RATES, bowl(best), bounds=BOUNDS)
    assert (found.edge, found.reason) == (edge, None)
    assert found.learning_rate in (RATES[0], RATES[-1])
    assert (found.low if edge == "low" else found.high) == {"low": 0.0, "high": math.inf}[edge]


def test_a_best_rate_below_one_that_diverged_is_marked() -> None:
    finite, lost = [rate for rate in RATES if rate < 0.04], [rate for rate in RATES if rate > 0.04]
    values = bowl(0.02)[: len(finite)]
    found = rate_optimum(finite, values, bounds=BOUNDS, infeasible_rates=lost)
    assert found.edge == "infeasible"
    assert found.learning_rate == pytest.approx(0.02, rel=1e-6)


def test_a_cliff_leaves_the_best_trial_between_its_neighbours() -> None:
    found = rate_optimum([0.01, 0.02, 0.04], [1.0, 0.5, 0.01], bounds=BOUNDS, infeasible_rates=[0.08, 0.16])
    assert (found.learning_rate, found.low, found.high) == (0.04, 0.02, 0.08)
    assert (found.edge, found.value, found.reason) == ("infeasible", 0.01, None)


@pytest.mark.parametrize(
    ("rates", "values", "reason"),
    [
        ([], [], "needs at least 1 trial with a finite objective, but 0 have one"),
        ([0.1, 0.2], [math.nan, math.inf], "needs at least 1 trial with a finite objective, but 0 have one"),
        ([0.02, 0.03, 0.04], [3.0, 2.0, 2.5], "needs at least 4 rates about as good as the best one, but 3 are"),
        ([0.03] * 6, [3.0] * 6, "needs at least 4 rates about as good as the best one, but 1 are"),
        ([0.02, 0.03, 0.04, 0.05], [2, 2.4, 2.4, 2], "needs a best rate between worse ones, but the 4 best rates show"),
    ],
)
def test_what_is_not_known_is_said_not_made_up(rates: list[float], values: list[float], reason: str) -> None:
    found = rate_optimum(rates, values, bounds=BOUNDS)
    assert found.reason is not None and found.reason.startswith(reason)
    assert math.isnan(found.learning_rate)


@pytest.mark.parametrize(
    ("rate", "bounds", "lost", "edge"),
    [
        (0.0019, BOUNDS, [], "low"),
        (0.0021, BOUNDS, [], ""),
        (0.49, BOUNDS, [], ""),
        (0.51, BOUNDS, [], "high"),
        (0.1, BOUNDS, [0.2], "infeasible"),
        (0.1, BOUNDS, [0.4], ""),
        (0.1, BOUNDS, [0.05], ""),
        (0.51, BOUNDS, [0.6], "high"),
        (0.51, None, [], ""),
        (0.1, (0.1, 0.1), [], ""),
    ],
)
def test_an_edge_is_a_tenth_of_the_range(
    rate: float, bounds: tuple[float, float] | None, lost: list[float], edge: str
) -> None:
    assert edge_of(rate, bounds=bounds, tried=[0.01, rate, 0.3], lost=lost) == edge


def test_trials_of_the_noisy_quadratic_find_its_best_rate() -> None:
    curvatures, size = spectrum(1000), 16.0
    best, _ = tuned(curvatures, size, 0.02)
    rates = np.geomspace(best / 16, best * 16, 16).tolist()
    steps = [arrival(curvatures, rate, size, 0.02) for rate in rates]
    found = rate_optimum(rates, steps, bounds=(rates[0], rates[-1]))
    assert found.learning_rate == pytest.approx(best, rel=0.25)
