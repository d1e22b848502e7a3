"""What a training takes of the machine is measured in processes that may die for it."""

from __future__ import annotations

import resource
import time
from typing import Any

import array_modules
import hungry
import numpy as np
import pytest
from helpers import config_of
from hungry import MIB

from models.footprint import Memory, StepClock, largest_batch, limit_of, measure, resident, short


def values(**changes: Any) -> dict[str, Any]:
    """What the probes take."""
    return {"config": config_of(hungry, model="Hungry", data="Sixty", **changes).to_json()}


@pytest.mark.slow
def test_a_training_is_timed_and_its_peak_is_what_its_steps_take() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    found = measure({**values(model_args={"mebibytes": 4}, batch_size=16), "seconds": 0.2})
    assert found["reason"] is None and (found["kind"], found["oom"], found["batch_size"]) == ("cpu", False, 16)
    assert 0 < found["step_seconds"] <= found["step_seconds_p95"]
    assert found["examples_per_second"] == pytest.approx(16 / found["step_seconds"])
    assert 60 * MIB < found["peak_bytes"] < 100 * MIB and found["reserved_bytes"] is None
    assert found["examples"] == 60 and found["limit_bytes"] == limit_of(values())
    assert resource.getrlimit(resource.RLIMIT_DATA) == before, "the limit is that of the other process"


@pytest.mark.slow
def test_the_batch_doubles_until_memory_runs_out() -> None:
    found = largest_batch({**values(model_args={"mebibytes": 64}, batch_size=8), "limit_bytes": 1800 * MIB})
    assert [one["batch_size"] for one in found["tried"]] == [8, 16, 32]
    assert [one["fits"] for one in found["tried"]] == [True, True, False]
    assert found["largest"] == 16 and found["limit_bytes"] == 1800 * MIB
    assert found["reason"].startswith("oom_host: ")
    # The system counts pages in portions, at the start as at the peak.
    assert found["tried"][1]["peak_bytes"] > 1023 * MIB and found["tried"][2]["peak_bytes"] is None


@pytest.mark.slow
def test_a_process_killed_for_its_memory_costs_nothing_else() -> None:
    found = largest_batch(values(model_args={"dies_at": 16}))
    assert found["largest"] == 8 and [one["fits"] for one in found["tried"]] == [True, False]
    assert found["reason"] == "oom_host: its process was ended by SIGKILL, as where memory runs out"
    alone = measure(values(model_args={"dies_at": 8}))
    assert alone["oom"] and alone["step_seconds"] is None and alone["reason"] == found["reason"]


@pytest.mark.slow
def test_the_training_set_ends_the_doubling() -> None:
    found = largest_batch(values(batch_size=30))
    assert (found["largest"], found["reason"]) == (60, "the training set has 60 examples")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch_size": 64}, "`batch_size` must be at most 60 (the training set), but got 64."),
        ({"model_args": {"width": 3}}, "config: `model.init_args.width` is not an argument of Hungry"),
    ],
    ids=str,
)
def test_what_cannot_train_says_why(changes: dict[str, Any], reason: str) -> None:
    found = measure(values(**changes))
    assert not found["oom"] and found["peak_bytes"] is None and found["reason"].startswith(reason)


def test_the_clock_stops_after_its_seconds_and_enough_steps() -> None:
    clock = StepClock(0.0, 3, Memory(gpu=False))
    assert [clock(), clock(), clock()] == [False, False, True]
    assert clock.taken.keys() == {"peak_bytes"}


def test_the_clock_does_not_wait_for_steps_that_take_too_long() -> None:
    clock = StepClock(0.001, 1000, Memory(gpu=False))
    clock()
    time.sleep(0.02)
    assert clock()


@pytest.mark.parametrize(
    ("marks", "median"),
    [([0.0], None), ([0.0, 3.0, 5.0], 2.5), ([*range(0, 900, 100), *range(900, 912)], 1.0)],
    ids=["no step", "few steps: all of them", "from the tenth on"],
)
def test_the_step_time_is_the_median_of_what_has_settled(marks: list[float], median: float | None) -> None:
    clock = StepClock(1.0, 30, Memory(gpu=False))
    clock.marks = list(marks)
    assert clock.times(8).get("step_seconds") == median
    assert median is None or clock.times(8)["examples_per_second"] == 8 / median


def test_memory_counts_the_peak_from_its_start_on() -> None:
    np.ones(96 * MIB // 8)
    memory = Memory(gpu=False)
    np.ones(32 * MIB // 8)
    # The system counts pages in portions.
    assert 30 * MIB < memory.taken()["peak_bytes"] < 64 * MIB
    assert resident("VmHWM") >= resident("VmRSS") > 0


def test_timed_steps_are_those_of_the_training_but_cannot_diverge() -> None:
    config = config_of(array_modules, model="Plain", data="Sequences", learning_rate=10.0)
    timed = short(config)
    assert (timed.learning_rate, timed.evaluations, timed.min_steps) == (0.01, 1, 10_000)
    assert (timed.batch_size, timed.schedule, timed.optimizer) == (config.batch_size, config.schedule, config.optimizer)
    assert short(config_of(array_modules, optimizer="own", learning_rate=None)).learning_rate is None
