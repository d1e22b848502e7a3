"""Batch size against steps, seconds and memory: fits give back what was put in, and nothing that is not known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from noisy_quadratic import sgd_loss, sgd_steps, spectrum, sweep, tuned

from tracking.analysis.scaling import Hyperbola, economical_batch, fit_hyperbola, regimes
from tracking.analysis.timing import StepTime, fit_step_time, largest_batch, seconds_to_target, time_optimal

S_MIN, E_MIN = 500.0, 256_000.0
SIZES = [2.0**power for power in range(4, 15)]
STEPS = [S_MIN + E_MIN / size for size in SIZES]
"""An exact hyperbola with the critical batch size 512."""
CLOCK = StepTime(overhead=5e-3, per_example=2e-5, half_batch=250.0)
GIB = 2.0**30


def noisy(deviation: float, seed: int, sizes: Sequence[float] = SIZES) -> list[float]:
    """Steps on the hyperbola, times log-normal noise."""
    noise = np.exp(deviation * np.random.default_rng(seed).standard_normal(len(sizes)))
    return [(S_MIN + E_MIN / size) * factor for size, factor in zip(sizes, noise.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("rate", "batch_size", "steps"),
    [
        (0.001, 1, 14425248),
        (0.003, 1, 6198519),
        (0.0034, 1, 6024939),
        (0.05, 16, 382988),
        (0.1, 64, 152344),
        (0.2, 64, 96706),
        (0.3, 64, math.inf),
        (1.0, 512, 16430),
        (1.6, 1024, 10386),
        (1.9, 16384, 7203),
        (2.0, 16384, math.inf),
    ],
)
def test_the_noisy_quadratic_takes_its_known_steps(rate: float, batch_size: float, steps: float) -> None:
    assert sgd_steps(spectrum(10_000), rate, batch_size, 0.01) == steps


def test_the_closed_form_is_the_recursion() -> None:
    curvatures, rate, size = spectrum(200), 0.7, 8.0
    moment = np.ones(200)
    for _ in range(300):
        moment = (1 - rate * curvatures) ** 2 * moment + rate**2 * curvatures / size
    assert sgd_loss(curvatures, 300, rate, size) == pytest.approx(float(curvatures @ moment) / 2, rel=1e-12)
    assert sgd_loss(curvatures, 300, rate, size) == pytest.approx(0.166261, abs=1e-6)
    assert sgd_loss(spectrum(10_000), 100, 0.2, 64) == pytest.approx(2.476816135, abs=1e-9)


def test_a_tuned_sweep_of_the_noisy_quadratic_has_its_known_critical_batch_size() -> None:
    sizes = [4.0**power for power in range(11)]
    _, steps = sweep(spectrum(10_000), sizes, 0.01)
    known = [6024936, 1507530, 378198, 95942, 25778, 10354, 7832, 7147, 6887]
    assert steps[:9] == pytest.approx(known, abs=1)
    fit = fit_hyperbola(sizes, steps)
    assert fit.s_min == pytest.approx(6558, abs=1)
    assert fit.e_min == pytest.approx(5.689e6, rel=2e-4)
    assert fit.critical == pytest.approx(867, abs=1)
    assert fit.residual == pytest.approx(0.067, abs=5e-4)
    assert 760 < fit.low < 800 and 940 < fit.high < 990
    assert economical_batch(sizes, steps) == pytest.approx(334, abs=1)
    assert (fit.bracketed, fit.points, fit.reason) == (True, 11, None)


def test_a_rate_that_is_not_tuned_for_each_batch_size_hides_the_critical_one() -> None:
    curvatures, sizes = spectrum(10_000), [4.0**power for power in range(2, 10)]
    rate, _ = tuned(curvatures, 64, 0.01)
    _, steps = sweep(curvatures, sizes, 0.01)
    fixed = fit_hyperbola(sizes, [sgd_steps(curvatures, rate, size, 0.01) for size in sizes])
    assert fit_hyperbola(sizes, steps).critical == pytest.approx(832, abs=1)
    assert fixed.e_min / fixed.s_min == pytest.approx(33, abs=1)
    # 16 never arrives, and 33 lies below all that do.
    assert (fixed.never, fixed.bound, fixed.critical) == (1, "at most", 64)


def test_an_exact_hyperbola_is_found_exactly() -> None:
    fit = fit_hyperbola(SIZES, STEPS)
    assert [fit.s_min, fit.e_min, fit.critical] == pytest.approx([500, 256_000, 512], rel=1e-6)
    assert [fit.low, fit.high] == pytest.approx([512, 512], rel=1e-6)
    assert fit.residual < 1e-9
    assert fit.steps(1024) == pytest.approx(750)


@pytest.mark.parametrize(("deviation", "spread"), [(0.03, 0.025), (0.1, 0.088), (0.2, 0.172)])
def test_noise_moves_the_critical_batch_size_as_much_as_it_should(deviation: float, spread: float) -> None:
    logs = [math.log(fit_hyperbola(SIZES, noisy(deviation, seed)).critical / 512) for seed in range(40)]
    assert np.std(logs) == pytest.approx(spread, rel=0.35)
    assert abs(np.mean(logs)) < 3 * spread / math.sqrt(40)


def test_the_interval_covers_about_nine_times_in_ten() -> None:
    fits = [fit_hyperbola(SIZES, noisy(0.1, seed)) for seed in range(50)]
    assert 0.8 <= np.mean([fit.low <= 512 <= fit.high for fit in fits]) <= 1.0


def test_one_seed_gives_one_interval() -> None:
    assert fit_hyperbola(SIZES, noisy(0.1, 1), seed=3) == fit_hyperbola(SIZES, noisy(0.1, 1), seed=3)
    assert fit_hyperbola(SIZES, noisy(0.1, 1), seed=3) != fit_hyperbola(SIZES, noisy(0.1, 1), seed=4)


@pytest.mark.parametrize(
    ("sizes", "bound", "critical"),
    [([16.0, 32.0, 64.0, 128.0], "at least", 128.0), ([2048.0, 4096.0, 8192.0, 16384.0], "at most", 2048.0)],
)
def test_a_sweep_on_one_side_only_bounds_the_critical_batch_size(
    sizes: list[float], bound: str, critical: float
) -> None:
    fit = fit_hyperbola(sizes, [S_MIN + E_MIN / size for size in sizes])
    assert (fit.bracketed, fit.bound, fit.critical) == (False, bound, critical)
    assert fit.reason is not None and f"{bound} {critical:g}" in fit.reason
    assert (fit.high if bound == "at least" else fit.low) in (math.inf, 0.0)


@pytest.mark.parametrize(("power", "bound"), [(-1, "at least"), (0, "at most")])
def test_perfect_scaling_and_none_at_all_are_bounds(power: int, bound: str) -> None:
    fit = fit_hyperbola(SIZES, [1e6 * size**power for size in SIZES])
    assert (fit.bound, fit.bracketed) == (bound, False)


def test_noise_seldom_brackets_what_the_sweep_does_not() -> None:
    sizes = [8.0, 16.0, 32.0, 64.0, 128.0]
    assert np.mean([fit_hyperbola(sizes, noisy(0.1, seed, sizes)).bracketed for seed in range(40)]) < 0.1


def test_sizes_that_never_arrive_are_counted_and_left_out() -> None:
    fit = fit_hyperbola([*SIZES, 32768.0, 65536.0], [*STEPS, math.inf, math.nan])
    assert (fit.points, fit.never) == (11, 1)
    assert fit.critical == pytest.approx(512)


@pytest.mark.parametrize("count", range(4))
def test_too_few_sizes_are_no_fit(count: int) -> None:
    fit = fit_hyperbola(SIZES[:count], STEPS[:count])
    assert fit.reason == f"needs at least 4 batch sizes that reach the target, but {count} do"
    assert math.isnan(fit.critical) and math.isnan(fit.s_min) and not fit.bracketed


def test_a_batch_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`batch_sizes` must be greater than 0, but got 0"):
        fit_hyperbola([0, 1, 2, 3], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("sizes", "steps", "expected"),
    [
        ([1.0, 2.0, 4.0], [400.0, 200.0, 100.0], 4.0),  # no size costs more: the largest tested
        ([1.0, 2.0, 4.0], [400.0, 200.0, 144.0], 2 * 2 ** (math.log(1.2) / math.log(1.44))),
        ([4.0, 1.0, 2.0], [144.0, 400.0, 200.0], 2 * 2 ** (math.log(1.2) / math.log(1.44))),
        ([1.0, 2.0, 4.0], [400.0, 200.0, math.inf], 2.0),
        ([1.0, 2.0, 2.0], [400.0, 900.0, 200.0], 2.0),
        ([1.0, 2.0], [math.inf, math.inf], math.nan),
        ([], [], math.nan),
    ],
)
def test_the_economical_batch_costs_a_fifth_more(sizes: list[float], steps: list[float], expected: float) -> None:
    assert economical_batch(sizes, steps) == pytest.approx(expected, nan_ok=True)


def test_each_doubling_has_its_regime() -> None:
    found = regimes([64, 16, 1, 128, 256], [52.0, 100.0, 1600.0, 51.0, math.inf])
    assert [(row.small, row.large, row.label) for row in found] == [
        (1, 16, "perfect scaling"),
        (16, 64, "diminishing returns"),
        (64, 128, "maximal data parallelism"),
    ]
    # A factor of 16 in batch size is four doublings.
    assert [row.ratio for row in found] == pytest.approx([2.0, math.sqrt(100 / 52), 52 / 51])
    assert regimes([16], [10]) == regimes([], []) == []


def test_a_size_timed_while_something_else_ran_does_not_move_the_line() -> None:
    seconds = [CLOCK.seconds(size) for size in SIZES]
    seconds[3] *= 4
    fit = fit_step_time(SIZES, seconds)
    assert [fit.overhead, fit.per_example, fit.half_batch] == pytest.approx([5e-3, 2e-5, 250], rel=1e-9)
    assert fit.reason is None


def test_step_times_of_one_size_count_by_their_median() -> None:
    fit = fit_step_time([1, 1, 1, 2, 3], [2.0, 2.0, 90.0, 3.0, 4.0])
    assert [fit.overhead, fit.per_example] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(
    ("seconds", "overhead", "per_example", "half"),
    [([3.0, 3.0, 3.0], 3.0, 0.0, math.inf), ([1.0, 2.0, 4.0], 0.0, 1.0, 0.0), ([3.0, 2.0, 1.0], 1.0, 0.0, math.inf)],
)
def test_neither_part_of_a_step_is_negative(
    seconds: list[float], overhead: float, per_example: float, half: float
) -> None:
    fit = fit_step_time([1, 2, 4], seconds)
    assert [fit.overhead, fit.per_example, fit.half_batch] == pytest.approx([overhead, per_example, half])


def test_two_step_times_are_no_line() -> None:
    fit = fit_step_time([16, 32, 64], [0.1, 0.2, math.nan])
    assert fit.reason == "needs at least 3 batch sizes with a step time, but 2 have one"
    assert math.isnan(fit.half_batch)


def test_the_time_optimal_batch_is_the_root_of_critical_times_half() -> None:
    fit = fit_hyperbola(SIZES, STEPS)
    best = time_optimal(fit, CLOCK)
    assert best.batch_size == pytest.approx(357.771, abs=1e-3)
    assert best.seconds == pytest.approx(14.775418, abs=1e-6)
    assert not best.clipped and best.reason is None
    times = [seconds_to_target(fit, CLOCK, size) for size in (16, 256, 4096)]
    assert times == pytest.approx([87.78, 15.18, 48.89], abs=5e-3)
    assert seconds_to_target(fit, CLOCK, best.low) == pytest.approx(1.1 * best.seconds)
    assert seconds_to_target(fit, CLOCK, best.high) == pytest.approx(1.1 * best.seconds)
    assert best.low < best.batch_size < best.high


def test_memory_clips_the_time_optimal_batch() -> None:
    fit = fit_hyperbola(SIZES, STEPS)
    clipped = time_optimal(fit, CLOCK, largest=256)
    assert (clipped.batch_size, clipped.high, clipped.clipped) == (256, 256, True)
    assert clipped.seconds == pytest.approx(15.18)
    assert not time_optimal(fit, CLOCK, largest=1024).clipped


def test_a_step_without_overhead_wants_the_smallest_batch() -> None:
    best = time_optimal(fit_hyperbola(SIZES, STEPS), StepTime(overhead=0.0, per_example=1e-5, half_batch=0.0))
    assert (best.batch_size, best.clipped) == (1.0, True)


def test_without_both_fits_there_is_no_time_optimal_batch() -> None:
    fit, level = fit_hyperbola(SIZES, STEPS), StepTime(overhead=1e-3, per_example=0.0, half_batch=math.inf)
    few, open_ended = fit_hyperbola(SIZES[:2], STEPS[:2]), fit_hyperbola(SIZES[:4], STEPS[:4])
    reasons = [
        time_optimal(few, CLOCK).reason,
        time_optimal(fit, fit_step_time([], [])).reason,
        time_optimal(fit, level).reason,
        time_optimal(open_ended, CLOCK).reason,
        time_optimal(open_ended, CLOCK, largest=1024).reason,
    ]
    starts = ["needs at least 4", "needs at least 3", "needs `largest`", "needs a batch size", "needs a batch size"]
    assert [str(reason)[: len(start)] for reason, start in zip(reasons, starts, strict=True)] == starts
    assert math.isnan(time_optimal(few, CLOCK).batch_size)
    assert time_optimal(fit, level, largest=4096).batch_size == 4096


def test_a_lower_bound_is_enough_where_memory_ends_before_the_best_batch() -> None:
    open_ended: Hyperbola = fit_hyperbola(SIZES[:4], STEPS[:4])
    # At least sqrt(128 * 250) = 179 examples would be best.
    best = time_optimal(open_ended, CLOCK, largest=128)
    assert (best.batch_size, best.clipped, best.reason) == (128, True, None)


def test_the_largest_batch_leaves_a_twentieth_of_the_memory_free() -> None:
    sizes = [16, 64, 256]
    found = largest_batch(sizes, [GIB + 2**20 * size for size in sizes], limit=8 * GIB)
    assert [found.fixed, found.per_example] == pytest.approx([GIB, 2**20])
    assert found.largest == math.floor((0.95 * 8 * GIB - GIB) / 2**20)


def test_memory_that_does_not_grow_sets_no_limit_and_a_full_one_is_said() -> None:
    assert largest_batch([1, 2, 3], [GIB, GIB, GIB], limit=8 * GIB).largest == math.inf
    full = largest_batch([16, 64, 256], [GIB + 2**20 * size for size in (16, 64, 256)], limit=GIB)
    assert full.reason is not None and math.isnan(full.largest)
    assert largest_batch([16], [GIB], limit=GIB).reason == (
        "needs at least 3 batch sizes with a measured peak of memory, but 1 have one"
    )
