"""The law of the best rates over the batch size: found where it is known, and none where it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from noisy_quadratic import spectrum, sweep

from tracking.analysis.rate_laws import rate_law
from tracking.analysis.rates import Optimum


def exactly(rates: Sequence[float], *, log_sd: float = 0.0) -> list[Optimum]:
    """Optima that are known."""
    return [Optimum(learning_rate=rate, low=rate, high=rate, value=0.1, log_sd=log_sd, trials=9) for rate in rates]


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
