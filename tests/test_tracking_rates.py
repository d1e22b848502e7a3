"""The best rate of a batch size, and the law of the best rates: found where known, flagged where the range ends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from noisy_quadratic import arrival, spectrum, sweep, tuned

from tracking.analysis.rates import Optimum, edge_of, rate_law, rate_optimum, reference_rate

RATES = np.geomspace(0.001, 1.0, 12).tolist()
BOUNDS = (0.001, 1.0)


def bowl(best: float, noise: float = 0.0, seed: int = 0) -> list[float]:
    """A loss whose logarithm is a parabola over the log rate, its least 0.1 at `best`."""
    scatter = noise * np.random.default_rng(seed).standard_normal(len(RATES))
    logs = 0.3 * np.log(np.array(RATES) / best) ** 2 + math.log(0.1) + scatter
    return [float(value) for value in np.exp(logs)]


def exactly(rates: Sequence[float], *, log_sd: float = 0.0) -> list[Optimum]:
    """Optima that are known."""
    return [Optimum(learning_rate=rate, low=rate, high=rate, value=0.1, log_sd=log_sd, trials=9) for rate in rates]


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


def test_the_rate_of_the_noisy_quadratic_is_linear_while_batches_are_small() -> None:
    # The rates with the fewest whole steps, in the middle of those that tie, at a target of 0.01 with 10,000 weights.
    law = rate_law([1, 4, 16], exactly([0.0033973329, 0.0135762667, 0.0541426047]), optimizer="sgd")
    assert [law.exponent, law.low, law.high] == pytest.approx([0.999, 0.993, 1.004], abs=6e-4)
    assert (law.contains, law.chosen, law.residual_trend) == (("linear",), "power", "")


def test_the_rate_of_the_noisy_quadratic_saturates_where_batches_are_large() -> None:
    sizes = [4.0**power for power in range(11)]
    rates, _ = sweep(spectrum(1000), sizes, 0.02)
    law = rate_law(sizes, exactly(rates), optimizer="sgd")
    assert (law.chosen, law.residual_trend) == ("saturating", "bends down")
    assert law.exponent < 0.7 and "linear" not in law.contains
    # The stability limit: 2 over the largest curvature.
    assert law.rate(1e9) == pytest.approx(2.0, rel=0.15)


def test_trials_of_the_noisy_quadratic_find_its_best_rate() -> None:
    curvatures, size = spectrum(1000), 16.0
    best, _ = tuned(curvatures, size, 0.02)
    rates = np.geomspace(best / 16, best * 16, 16).tolist()
    steps = [arrival(curvatures, rate, size, 0.02) for rate in rates]
    found = rate_optimum(rates, steps, bounds=(rates[0], rates[-1]))
    assert found.learning_rate == pytest.approx(best, rel=0.25)


@pytest.mark.parametrize(("exponent", "rule"), [(1.0, "linear"), (0.5, "sqrt"), (0.0, "constant")])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "own"])
def test_an_exact_power_is_named(exponent: float, rule: str, optimizer: str) -> None:
    sizes = [2.0**power for power in range(4, 12)]
    law = rate_law(sizes, exactly([0.01 * size**exponent for size in sizes], log_sd=0.1), optimizer=optimizer)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert (law.chosen, law.residual_trend, law.dropped) == ("power", "", 0)
    assert law.rate(100.0) == pytest.approx(0.01 * 100**exponent)
    noisy = [rate * (1.05 if place % 2 else 0.95) for place, rate in enumerate(0.01 * size**exponent for size in sizes)]
    assert rate_law(sizes, exactly(noisy), optimizer=optimizer).contains == (rule,)


def test_a_saturating_law_is_told_from_a_straight_one() -> None:
    sizes = [2.0**power for power in range(2, 14)]
    law = rate_law(sizes, exactly([2.0 / (1 + 300 / size) for size in sizes]), optimizer="sgd")
    assert law.chosen == "saturating" and law.saturating is not None
    assert [law.saturating.scale, law.saturating.turn] == pytest.approx([2.0, 300.0], rel=1e-5)
    assert law.saturating.exponent == 1.0
    assert law.surge is None


def test_the_exponent_of_a_saturating_law_is_open_for_adam() -> None:
    sizes = [2.0**power for power in range(2, 14)]
    law = rate_law(sizes, exactly([0.01 / (1 + 300 / size) ** 0.7 for size in sizes]), optimizer="adam")
    assert law.chosen == "saturating" and law.saturating is not None
    assert law.saturating.exponent == pytest.approx(0.7, abs=1e-4)


def test_a_rate_that_rises_and_falls_is_a_surge_for_adam_only() -> None:
    sizes = [2.0**power for power in range(2, 14)]
    optima = exactly([0.01 / (0.5 * (math.sqrt(200 / size) + math.sqrt(size / 200))) for size in sizes])
    law = rate_law(sizes, optima, optimizer="adamw")
    assert law.chosen == "surge" and law.surge is not None
    assert [law.surge.scale, law.surge.turn] == pytest.approx([0.01, 200.0], rel=1e-5)
    assert rate_law(sizes, optima, optimizer="sgd").surge is None


def test_optima_at_a_bound_are_left_out_and_those_below_a_cliff_stay() -> None:
    sizes, optima = [1.0, 2.0, 4.0, 8.0, 16.0], exactly([0.01, 0.02, 0.04, 0.08, 0.1])
    optima[4] = Optimum(learning_rate=0.1, edge="high")
    optima[3] = Optimum(learning_rate=0.08, log_sd=0.0, edge="infeasible")
    law = rate_law(sizes, optima, optimizer="sgd")
    assert law.exponent == pytest.approx(1.0)
    assert (law.points, law.dropped) == (4, 1)


def test_a_doubtful_optimum_weighs_little() -> None:
    sizes, optima = [1.0, 2.0, 4.0, 8.0, 16.0], exactly([0.01, 0.02, 0.04, 0.08, 0.16], log_sd=0.1)
    optima[4] = Optimum(learning_rate=0.5, log_sd=3.0)
    assert rate_law(sizes, optima, optimizer="sgd").exponent == pytest.approx(1.0, abs=0.01)


def test_two_optima_are_no_law() -> None:
    optima = [*exactly([0.1, 0.2]), Optimum(reason="needs more")]
    law = rate_law([16, 32, 64], optima, optimizer="sgd")
    assert law.reason == "needs at least 3 batch sizes whose best rate lies within its range, but 2 do"
    assert math.isnan(law.exponent) and math.isnan(law.rate(16)) and law.chosen is None
    assert (law.points, law.dropped) == (2, 1)


@pytest.mark.parametrize(
    ("rule", "expected"), [("linear", 0.4), ("sqrt", 0.2), ("constant", 0.1), ("saturating", 0.1 * 5 / 2)]
)
def test_a_reference_rule_scales_the_rate(rule: str, expected: float) -> None:
    noise = 256.0 if rule == "saturating" else None
    assert reference_rate(rule, 0.1, batch=256, reference=64, noise_scale=noise) == pytest.approx(expected)
    assert reference_rate(rule, 0.1, batch=64, reference=64, noise_scale=noise) == pytest.approx(0.1)


def test_a_rule_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`rule` must be one of linear, sqrt, constant, saturating, but got cubic"):
        reference_rate("cubic", 0.1, batch=2, reference=1)
    with pytest.raises(ValueError, match=r"`noise_scale` must be given"):
        reference_rate("saturating", 0.1, batch=2, reference=1)
