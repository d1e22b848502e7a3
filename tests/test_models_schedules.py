"""Learning-rate schedules: golden numbers, equality with torch's schedulers, sentences about wrong arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from models.schedules import SCHEDULES, arguments, factors, growth_plan, mistakes

MakeScheduler = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]

WITH_OTHER_ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("step", {"every": 0.25, "drop": 0.5}),
    ("multistep", {"milestones": [0.3, 0.6, 0.9], "drop": 0.2}),
    ("exponential", {"final": 0.001}),
    ("exponential", {"rate": 0.96, "decay_steps": 10}),
    ("exponential", {"rate": 0.96, "decay_steps": 10, "staircase": True}),
    ("polynomial", {"power": 0.9, "final": 0.01}),
    ("linear", {"final": 0.1, "decay": 0.7}),
    ("cosine", {"final": 0.1}),
    ("cosine_restarts", {"cycles": 4, "growth": 1, "final": 0.1}),
    ("onecycle", {"rise": 0.1, "start_div": 10, "final_div": 100}),
    ("inverse_sqrt", {"k": 10}),
    ("wsd", {"decay": 0.1, "final": 0.1, "shape": "1-sqrt"}),
    ("plateau", {"factor": 0.5, "patience": 0, "threshold": 0.0, "cooldown": 1, "lowest": 0.1}),
    ("batch_growth", {"milestones": [0.5], "factor": 5}),
]
EVERY_SCHEDULE: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in SCHEDULES] + WITH_OTHER_ARGUMENTS


def test_importing_schedules_does_not_import_torch() -> None:
    code = "import sys, models.schedules; print('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


# What every schedule keeps


@pytest.mark.parametrize(("name", "args"), EVERY_SCHEDULE)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 100, 1001])
def test_factors_are_finite_and_lie_between_zero_and_one(name: str, args: dict[str, Any], steps: int) -> None:
    values = factors(name, args, steps=steps)
    assert values.shape == (steps,)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (values <= 1).all()


@pytest.mark.parametrize(("name", "args"), [case for case in EVERY_SCHEDULE if case[0] != "onecycle"])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_every_schedule_but_onecycle_starts_at_its_peak(name: str, args: dict[str, Any], steps: int) -> None:
    assert factors(name, args, steps=steps)[0] == 1.0


@pytest.mark.parametrize(("name", "args"), EVERY_SCHEDULE)
def test_a_step_has_one_factor_in_whatever_company_it_is_asked_for(name: str, args: dict[str, Any]) -> None:
    steps = 60
    whole = factors(name, args, steps=steps)
    some = np.array([[59, 0, 30], [18, 17, 45]])
    np.testing.assert_array_equal(SCHEDULES[name](some, steps, **args), whole[some])
    np.testing.assert_array_equal(SCHEDULES[name](some.astype(np.float64), steps, **args), whole[some])


def test_arguments_survive_json() -> None:
    for name, args in EVERY_SCHEDULE:
        known = {**arguments(name), **args}
        again = json.loads(json.dumps(known))
        np.testing.assert_array_equal(factors(name, again, steps=20), factors(name, args, steps=20))


# Golden numbers


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("constant", {}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", {}, [1, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]),
        ("linear", {}, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("linear", {"final": 0.2, "decay": 0.5}, [1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2]),
        ("wsd", {"decay": 0.25}, [1, 1, 1, 1, 1, 1, 1, 0.5]),
        ("wsd", {"decay": 0.5, "shape": "1-sqrt"}, [1, 1, 1, 1, 1, 0.5, 0.292893, 0.133975]),
        ("step", {"every": 0.25}, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        ("multistep", {}, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("exponential", {"final": 1 / 256}, [1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125]),
        ("polynomial", {}, [1, 0.765625, 0.5625, 0.390625, 0.25, 0.140625, 0.0625, 0.015625]),
        ("cosine_restarts", {"cycles": 2, "growth": 1}, [1, 0.853553, 0.5, 0.146447] * 2),
        ("cosine_restarts", {"cycles": 2, "growth": 3}, [1, 0.5, 1, 0.933013, 0.75, 0.5, 0.25, 0.066987]),
        ("inverse_sqrt", {"k": 24}, [1, 0.5, 0.377964, 0.316228, 0.27735, 0.25, 0.229416, 0.213201]),
    ],
)
def test_eight_steps_have_these_factors(name: str, args: dict[str, Any], expected: list[float]) -> None:
    np.testing.assert_allclose(factors(name, args, steps=8), expected, atol=5e-7)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("constant", {}, 1000.0),
        ("multistep", {}, 527.5),
        ("cosine", {}, 500.5),
        ("linear", {}, 500.5),
        ("cosine", {"final": 0.1}, 550.45),
        ("wsd", {}, 900.5),
        ("wsd", {"shape": "1-sqrt"}, 867.1812),
    ],
)
def test_a_thousand_steps_add_up_to_this_many_peak_rates(name: str, args: dict[str, Any], expected: float) -> None:
    assert factors(name, args, steps=1000).sum() == pytest.approx(expected, abs=5e-5)


def quadratic_loss(rates: Sequence[float], batch_sizes: Sequence[int], *, dimensions: int) -> float:
    """Expected loss of SGD on the noisy quadratic model (h_i = 1/i, noise covariance h / B, start 1): exact."""
    h = 1 / np.arange(1, dimensions + 1)
    m = np.ones(dimensions)
    for rate, size in zip(rates, batch_sizes, strict=True):
        m = (1 - rate * h) ** 2 * m + rate**2 * h / size
    return float(0.5 * (h * m).sum())


@pytest.mark.parametrize(
    ("name", "args", "at_4", "at_64"),
    [
        ("constant", {}, 0.575831139, 0.058895697),
        ("multistep", {}, 0.253092712, 0.109599033),
        ("exponential", {}, 0.381159908, 0.329901586),
        ("cosine", {}, 0.205550842, 0.115467812),
        ("cosine", {"final": 0.1}, 0.197472197, 0.099366383),
        ("linear", {}, 0.200468155, 0.115164477),
        ("wsd", {}, 0.216833093, 0.043824068),
        ("wsd", {"shape": "1-sqrt"}, 0.205963382, 0.046161087),
    ],
)
def test_the_noisy_quadratic_model_ends_at_this_loss(
    name: str, args: dict[str, Any], at_4: float, at_64: float
) -> None:
    rates = factors(name, args, steps=1000).tolist()
    for size, expected in ((4, at_4), (64, at_64)):
        assert quadratic_loss(rates, [size] * 1000, dimensions=1000) == pytest.approx(expected, abs=1e-9)


def test_growing_the_batch_does_in_fewer_steps_what_dropping_the_rate_does() -> None:
    thirds = [1 / 3, 2 / 3]
    dropped = 0.5 * factors("multistep", {"milestones": thirds, "drop": 0.2}, steps=6000)
    assert quadratic_loss(dropped.tolist(), [2] * 6000, dimensions=50) == pytest.approx(0.012173, abs=5e-7)
    plan = growth_plan({"milestones": thirds, "factor": 5}, epochs=3, batch_size=2, train_size=4000)
    sizes = [size for size in plan for _ in range(4000 // size)]
    assert len(sizes) == 2480
    assert quadratic_loss([0.5] * 2480, sizes, dimensions=50) == pytest.approx(0.013381, abs=5e-7)


def test_the_staircase_of_the_textbooks_is_exact_at_every_step() -> None:
    steps = 100_000
    args = {"rate": 0.96, "decay_steps": 10_000, "staircase": True}
    expected = [0.1 * 0.96 ** (step // 10_000) for step in range(steps)]
    assert (0.1 * factors("exponential", args, steps=steps)).tolist() == expected


@pytest.mark.parametrize(
    ("milestone", "steps", "first"),
    [(0.55, 100, 55), (0.1, 30, 3), (0.07, 100, 7), (1 / 3, 9, 3), (2 / 3, 9, 6), (0.5, 7, 4), (0.29, 100, 29)],
)
def test_a_milestone_falls_on_the_step_that_its_decimal_says(milestone: float, steps: int, first: int) -> None:
    values = factors("multistep", {"milestones": [milestone], "drop": 0.5}, steps=steps)
    assert values.tolist() == [1.0] * first + [0.5] * (steps - first)


def test_the_root_of_a_rounding_error_does_not_show_where_the_decay_starts() -> None:
    values = factors("wsd", {"decay": 0.1, "shape": "1-sqrt"}, steps=30)
    assert values[:28].tolist() == [1.0] * 28


# torch's schedulers


def rates_of_torch(make: MakeScheduler, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def one_cycle(steps: int, **settings: Any) -> MakeScheduler:
    return lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=steps, cycle_momentum=False, **settings)


STEPS = 700


@pytest.mark.parametrize(
    ("name", "args", "make", "steps"),
    [
        ("constant", {}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0), STEPS),
        ("step", {}, lambda o: lr_scheduler.StepLR(o, 210), STEPS),
        ("step", {"every": 1 / 3, "drop": 0.5}, lambda o: lr_scheduler.StepLR(o, 4, gamma=0.5), 10),
        ("multistep", {}, lambda o: lr_scheduler.MultiStepLR(o, [350, 525]), STEPS),
        ("exponential", {}, lambda o: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / STEPS)), STEPS),
        ("exponential", {"rate": 0.99, "decay_steps": 1}, lambda o: lr_scheduler.ExponentialLR(o, 0.99), STEPS),
        (
            "exponential",
            {"rate": 0.9, "decay_steps": 30, "staircase": True},
            lambda o: lr_scheduler.StepLR(o, 30, gamma=0.9),
            STEPS,
        ),
        ("polynomial", {}, lambda o: lr_scheduler.PolynomialLR(o, STEPS, power=2.0), STEPS),
        ("linear", {}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, STEPS), STEPS),
        ("linear", {"final": 0.1, "decay": 0.7}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 490), STEPS),
        ("cosine", {}, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS), STEPS),
        ("cosine", {"final": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1), STEPS),
        ("cosine_restarts", {}, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 100, 2), STEPS),
        (
            "cosine_restarts",
            {"cycles": 4, "growth": 1, "final": 0.05},
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 175, 1, eta_min=0.05),
            STEPS,
        ),
        ("onecycle", {}, one_cycle(STEPS), STEPS),
        ("onecycle", {}, one_cycle(3), 3),
        (
            "onecycle",
            {"rise": 0.137, "start_div": 10.0, "final_div": 100.0},
            one_cycle(99, pct_start=0.137, div_factor=10.0, final_div_factor=100.0),
            99,
        ),
    ],
)
def test_every_step_has_the_rate_of_torchs_scheduler(
    name: str, args: dict[str, Any], make: MakeScheduler, steps: int
) -> None:
    expected = rates_of_torch(make, steps)
    np.testing.assert_allclose(factors(name, args, steps=steps), expected, rtol=0, atol=1e-12)


# Warm-up


def test_warmup_rises_in_equal_parts_to_the_full_rate() -> None:
    assert factors("constant", {}, steps=10, warmup=0.4).tolist() == [0.25, 0.5, 0.75] + [1.0] * 7


def test_warmup_multiplies_the_schedule_and_moves_no_milestone() -> None:
    with_warmup = factors("multistep", {"milestones": [0.2]}, steps=10, warmup=0.4)
    np.testing.assert_allclose(with_warmup, [0.25, 0.5, 0.075] + [0.1] * 7)


@pytest.mark.parametrize("warmup", [0.0, 0.04])
def test_a_warmup_of_no_step_changes_nothing(warmup: float) -> None:
    np.testing.assert_array_equal(factors("cosine", {}, steps=10, warmup=warmup), factors("cosine", {}, steps=10))


# Plateau


def test_the_factors_of_plateau_hold_the_warmup_alone() -> None:
    assert factors("plateau", {"patience": 3}, steps=4, warmup=0.5).tolist() == [0.5, 1.0, 1.0, 1.0]


def test_an_unknown_argument_of_plateau_fails_as_in_any_schedule() -> None:
    for name in ("plateau", "cosine"):
        with pytest.raises(TypeError, match="patiense"):
            factors(name, {"patiense": 3}, steps=4)


# Growing batches


@pytest.mark.parametrize(
    ("args", "epochs", "batch_size", "train_size", "expected"),
    [
        ({}, 10, 64, 50_000, [64] * 3 + [128] * 3 + [256] * 2 + [512] * 2),
        ({"milestones": [0.5], "factor": 5}, 5, 32, 1000, [32, 32, 32, 160, 160]),
        ({"milestones": [0.5], "factor": 1.5}, 2, 10, 1000, [10, 15]),
        ({"milestones": [0.3, 0.6], "factor": 10}, 10, 64, 1437, [64] * 3 + [640] * 3 + [1437] * 4),
        ({"milestones": [0.1, 0.2]}, 1, 64, 1437, [64]),
        ({"milestones": [0.25, 0.3]}, 2, 64, 1437, [64, 256]),
        ({}, 2, 2000, 1437, [1437, 1437]),
        ({"factor": 1e300}, 10, 64, 1437, [64] * 3 + [1437] * 7),
    ],
)
def test_the_batch_grows_at_its_milestones_up_to_the_training_set(
    args: dict[str, Any], epochs: int, batch_size: int, train_size: int, expected: list[int]
) -> None:
    plan = growth_plan(args, epochs=epochs, batch_size=batch_size, train_size=train_size)
    assert plan == expected
    assert all(type(size) is int for size in plan)


# Mistakes


@pytest.mark.parametrize(("name", "args"), EVERY_SCHEDULE)
def test_good_arguments_are_no_mistakes(name: str, args: dict[str, Any]) -> None:
    assert list(mistakes(name, args, where="schedules.x")) == []


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_argument_has_a_rule_and_its_default_obeys_it(name: str) -> None:
    for argument, default in arguments(name).items():
        assert list(mistakes(name, {argument: default}, where="s")) == []
        assert next(mistakes(name, {argument: "much"}, where="s")).startswith(f"`s.{argument}` must be ")


NAMES = (
    "batch_growth, constant, cosine, cosine_restarts, exponential, inverse_sqrt, linear, multistep, onecycle, "
    "plateau, polynomial, step, wsd"
)
STAIRS = {"rate": 0.9, "decay_steps": 10}


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("cosin", {}, f"`s` must be one of {NAMES}, but got 'cosin'. Did you mean `cosine`?"),
        ("zzz", {}, f"`s` must be one of {NAMES}, but got 'zzz'."),
        (
            "cosine",
            {"finale": 0.1},
            "`s.finale` must be left out: there is no such argument. Did you mean `final`? Its arguments are final.",
        ),
        ("constant", {"x": 1}, "`s.x` must be left out: there is no such argument. It takes no arguments."),
        ("cosine", {"final": -0.1}, "`s.final` must be a number in [0, 1], but got -0.1."),
        ("cosine", {"final": "0.1"}, "`s.final` must be a number in [0, 1], but got '0.1'."),
        ("cosine", {"final": True}, "`s.final` must be a number in [0, 1], but got True."),
        ("cosine", {"final": None}, "`s.final` must be a number in [0, 1], but got None."),
        ("cosine", {"final": float("nan")}, "`s.final` must be a number in [0, 1], but got nan."),
        (
            "cosine",
            {"final": {"low": 0, "high": 1}},
            "`s.final` must be a number in [0, 1], but got {'low': 0, 'high': 1}.",
        ),
        ("step", {"every": 1.0}, "`s.every` must be a number in (0, 1), but got 1.0."),
        ("step", {"drop": 0}, "`s.drop` must be a number in (0, 1], but got 0."),
        *(
            (
                "multistep",
                {"milestones": milestones},
                f"`s.milestones` must be increasing numbers in (0, 1), such as [0.5, 0.75], but got {milestones}.",
            )
            for milestones in ([0.75, 0.5], [0.5, 0.5], [0.5, 1.0], [0.0, 0.5], [], 0.5, [True], [[0.5]])
        ),
        ("exponential", {"final": 0.0}, "`s.final` must be a number in (0, 1], but got 0.0."),
        ("exponential", {**STAIRS, "staircase": 1}, "`s.staircase` must be true or false, but got 1."),
        (
            "exponential",
            {**STAIRS, "decay_steps": 0.5},
            "`s.decay_steps` must be a whole number of at least 1, or null, but got 0.5.",
        ),
        (
            "exponential",
            {"rate": 0.9},
            "`s.rate` and `s.decay_steps` must be set together, but only `rate` is.",
        ),
        (
            "exponential",
            {**STAIRS, "final": 0.1},
            "`s.final` must be left out with `rate` and `decay_steps`: they say where the rate ends.",
        ),
        (
            "exponential",
            {"staircase": True},
            "`s.staircase` must be left out without `rate` and `decay_steps`: there are no stairs.",
        ),
        ("polynomial", {"power": 0}, "`s.power` must be a number in (0, inf), but got 0."),
        ("linear", {"decay": 0}, "`s.decay` must be a number in (0, 1], but got 0."),
        ("cosine_restarts", {"cycles": 2.5}, "`s.cycles` must be a whole number from 1 to 100, but got 2.5."),
        ("cosine_restarts", {"growth": 0}, "`s.growth` must be a whole number from 1 to 10, but got 0."),
        ("onecycle", {"rise": 0}, "`s.rise` must be a number in (0, 1), but got 0."),
        ("onecycle", {"final_div": float("inf")}, "`s.final_div` must be a number in [1, inf), but got inf."),
        ("inverse_sqrt", {"k": 0}, "`s.k` must be a number in (0, inf), but got 0."),
        ("wsd", {"shape": "sqrt"}, "`s.shape` must be linear or 1-sqrt, but got 'sqrt'."),
        ("wsd", {"shape": ["linear"]}, "`s.shape` must be linear or 1-sqrt, but got ['linear']."),
        ("plateau", {"patience": -1}, "`s.patience` must be a whole number of at least 0, but got -1."),
        ("plateau", {"factor": 1}, "`s.factor` must be a number in (0, 1), but got 1."),
        ("batch_growth", {"factor": 1}, "`s.factor` must be a number in (1, inf), but got 1."),
    ],
)
def test_a_mistake_is_one_sentence_with_place_rule_and_value(name: str, args: dict[str, Any], expected: str) -> None:
    assert list(mistakes(name, args, where="s")) == [expected]


def test_all_mistakes_come_at_once() -> None:
    found = list(mistakes("wsd", {"decay": 2, "final": -1, "shap": "linear"}, where="search.schedules.wsd"))
    assert [sentence.split("`")[1] for sentence in found] == [
        "search.schedules.wsd.decay",
        "search.schedules.wsd.final",
        "search.schedules.wsd.shap",
    ]
