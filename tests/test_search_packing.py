"""Segments are packed by shape and step, and what does not pay or has failed once stands alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from search_parts import space

from models.config import MetricsConfig
from models.segment import Segment, SegmentResult
from search.gains import Gains, even, measure
from search.packing import pack, spread
from search.space import SearchSpace
from search.study import Study
from search.trial import TrialResult, summarise


def segments(made: SearchSpace, count: int = 12) -> list[Segment]:
    """The first segments of a study's first trials, as they are asked one by one."""
    study = Study(made)
    trials = [trial for _ in range(count) if (trial := study.ask()) is not None]
    return [Segment(trial=trial.number, config=trial.train, folder="checkpoints") for trial in trials]


GRID: dict[str, Any] = {"batch_sizes": (16, 64), "schedules": {"constant": {}, "cosine": {}}}


def test_trials_of_one_batch_size_share_a_pack_whatever_their_schedule() -> None:
    packs = pack(segments(space(**GRID)), width=lambda _: 16)
    assert [{segment.config.batch_size for segment in each} for each in packs] == [{16}, {64}]
    assert [{segment.config.schedule for segment in each} for each in packs] == [{"constant", "cosine"}] * 2


def test_a_pack_is_no_wider_than_it_may_be_and_keeps_the_order() -> None:
    packs = pack(segments(space(**GRID)), width=lambda segment: 2 if segment.config.batch_size == 16 else 6)
    assert [len(each) for each in packs] == [2, 6, 2, 2]
    assert all(numbers == sorted(numbers) for numbers in ([segment.trial for segment in each] for each in packs))


def test_what_has_width_one_stands_alone() -> None:
    assert [len(each) for each in pack(segments(space(**GRID), 5), width=lambda _: 1)] == [1] * 5


def test_segments_at_different_steps_do_not_share_a_pack() -> None:
    first, second, third = segments(space(batch_sizes=(16,), schedules={"constant": {}}), 3)
    packs = pack([first, replace(second, from_step=5), third], width=lambda _: 8)
    assert [[segment.trial for segment in each] for each in packs] == [[0, 2], [1]]


def test_batch_growth_shares_a_pack_only_with_equal_batch_growth() -> None:
    made = space(batch_sizes=(16,), schedules={"constant": {}, "cosine": {}, "batch_growth": {}})
    packs = pack(segments(made, 6), width=lambda _: 16)
    assert [{segment.config.schedule for segment in each} for each in packs] == [
        {"constant", "cosine"},
        {"batch_growth"},
    ]


def test_trials_asked_together_are_of_one_batch_size_and_taken_from_its_cells_in_turn() -> None:
    study = Study(space(**GRID))
    for size in (16, 64):
        trials = study.ask_together(lambda _: 4)
        assert [(trial.train.batch_size, trial.train.schedule) for trial in trials] == [
            (size, "constant"),
            (size, "cosine"),
        ] * 2


def test_asking_together_proposes_what_asking_one_by_one_does() -> None:
    one, many = Study(space(**GRID)), Study(space(**GRID))
    singly = [trial for _ in range(100) if (trial := one.ask()) is not None]
    together = [trial for _ in range(100) for trial in many.ask_together(lambda _: 5)]
    assert {(t.cell, t.index): t.params for t in singly} == {(t.cell, t.index): t.params for t in together}


class Measured:
    """An executor whose probe has found these gains, in the order of the kinds."""

    slots = 2

    def __init__(self, *gains: dict[str, Any]) -> None:
        self.gains = list(gains)
        self.most: list[int] = []

    def calls(self, function: str, payloads: list[Any]) -> list[Any]:
        assert function == "models.probes.array_gain" and len(payloads) == len(self.gains)
        self.most = [payload["most"] for payload in payloads]
        return self.gains


def gain(times: float, reason: str | None = None, *, admission: float = 0.0) -> dict[str, Any]:
    """A step alone takes a millisecond; a training has 1000."""
    shares = {"step_seconds": 0.001, "share_seconds": 0.001 / times}
    return {"reason": reason, "width": 16, "steps": 1000, "admission_seconds": admission, **shares}


@pytest.mark.parametrize(
    ("widths", "count", "expected"),
    [
        ([8], 2, [4, 4]),
        ([8], 3, [2, 2, 4]),
        ([9, 4], 3, [4, 5, 4]),
        ([3], 2, [1, 2]),
        ([2], 4, [1, 1]),
        ([1, 1], 4, [1, 1]),
        ([8, 8], 2, [8, 8]),
        ([8], 0, [8]),
        ([], 2, []),
    ],
)
def test_packs_are_halved_until_no_worker_is_idle_or_none_can_be(
    widths: list[int], count: int, expected: list[int]
) -> None:
    made = segments(space(batch_sizes=(16,), trials=16, schedules={"constant": {}, "cosine": {}}), 32)
    packs = [[made.pop(0) for _ in range(width)] for width in widths]
    found = spread(packs, count)
    assert [len(each) for each in found] == expected
    assert [s.trial for each in found for s in each] == [s.trial for each in packs for s in each]


@pytest.mark.parametrize(("trials", "width", "expected"), [(48, 32, 24), (48, 16, 16), (12, 16, 12), (17, 16, 9)])
def test_packs_are_about_equally_wide(trials: int, width: int, expected: int) -> None:
    assert even(trials, width) == expected


def test_no_array_is_so_wide_that_workers_would_end_far_apart() -> None:
    executor = Measured(gain(3.0), gain(3.0))
    measure(executor, Study(space(**GRID, trials=40)))  # type: ignore[arg-type]
    assert executor.most == [20, 20]  # of 80 trials each: 4 packs a worker


def test_arrays_are_chosen_where_they_were_measured_to_pay() -> None:
    gains = measure(Measured(gain(3.0), gain(1.1)), Study(space(**GRID)))  # type: ignore[arg-type]
    assert gains.widths == {(16, "sgd"): 8}  # of 8 trials
    assert gains.reasons == {(64, "sgd"): "side by side is 1.1 times as fast, less than 1.2"}


NETWORKS = {"model.init_args.network.class_path": {"values": ["models.nets.MLP", "models.nets.ConvNet"]}}


@pytest.mark.parametrize(
    ("admission", "told"), [(7.9, None), (9.0, "side by side is 1.14 times as fast, less than 1.2")]
)
def test_arrays_are_not_chosen_where_admitting_them_takes_what_they_save(admission: float, told: str | None) -> None:
    # 24 trainings of 1 s alone, 0.5 s side by side. Both workers would get arrays, and one has admitted them already.
    study = Study(space(**{**GRID, "batch_sizes": (16,), "trials": 10}))
    gains = measure(Measured(gain(2.0, admission=admission)), study)  # type: ignore[arg-type]
    assert gains.reasons.get((16, "sgd")) == told


def test_every_network_is_admitted_on_its_own() -> None:
    study = Study(space(**{**GRID, "batch_sizes": (16,), "trials": 10}, parameters=NETWORKS))
    for admission, told in ((2.6, None), (3.0, "side by side is 1.14 times as fast, less than 1.2")):
        gains = measure(Measured(gain(2.0, admission=admission)), study)  # type: ignore[arg-type]
        assert gains.reasons.get((16, "sgd")) == told


def test_trials_of_different_networks_are_no_company() -> None:
    study = Study(space(**GRID, parameters=NETWORKS))
    assert set(measure(Measured(), study).reasons.values()) == {"too few trials share its shape"}  # type: ignore[arg-type]


def test_a_range_without_an_end_leaves_every_trial_alone() -> None:
    study = Study(space(**{**GRID, "trials": 100}, parameters={"model.init_args.a": {"low": 0.0, "high": 1.0}}))
    assert set(measure(Measured(), study).reasons.values()) == {"too few trials share its shape"}  # type: ignore[arg-type]


def test_arrays_of_every_network_are_filled_by_what_is_asked_at_once() -> None:
    study = Study(space(**{**GRID, "batch_sizes": (16,), "trials": 16}, parameters=NETWORKS))
    gains = measure(Measured(gain(3.0)), study)  # type: ignore[arg-type]
    assert (gains.width((16, "sgd")), gains.together((16, "sgd"))) == (16, 32)


def test_arrays_that_are_off_are_not_even_measured() -> None:
    assert measure(Measured(), Study(space(**GRID, arrays="off"))) == Gains()  # type: ignore[arg-type]


def test_required_arrays_are_used_without_a_gain_and_refused_with_the_reason() -> None:
    study = Study(space(**GRID, arrays="require"))
    assert measure(Measured(gain(0.5), gain(0.5)), study).width((64, "sgd")) == 8  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`search.arrays: require` .* at batch size 64 with sgd .*: it has an LSTM"):
        measure(Measured(gain(2.0), gain(1.0, "it has an LSTM")), study)  # type: ignore[arg-type]


def test_the_seconds_of_a_trial_in_an_array_are_its_steps_times_the_step_time_alone() -> None:
    (trial,) = [t for t in [Study(space(**GRID)).ask()] if t is not None]
    gains = Gains(widths={(16, "sgd"): 16}, step_seconds={(16, "sgd"): 0.002})
    hit = {"step": 10.0, "seconds": 99.0}
    array = TrialResult(number=0, status="COMPLETE", steps=50, seconds=500.0, hit=hit, tags={"time_mode": "array"})
    timed = gains.timed(trial, array)
    assert (timed.seconds, timed.hit) == (0.1, {"step": 10.0, "seconds": 0.02})
    assert timed.tags["time_mode"] == "steps x step time alone"
    alone = gains.timed(trial, replace(array, tags={"tier": "solo"}))
    assert (alone.seconds, alone.hit, alone.tags["time_mode"]) == (500.0, hit, "measured")


@pytest.mark.parametrize("tiers", [("array", "solo"), ("solo", "array"), ("solo", "array", "solo")])
def test_a_trial_that_was_in_an_array_at_any_time_has_no_seconds_of_its_own(tiers: tuple[str, ...]) -> None:
    (trial,) = [t for t in [Study(space(**GRID)).ask()] if t is not None]
    segments = [
        SegmentResult(
            trial=0,
            from_step=10 * index,
            to_step=10 * index + 10,
            total_steps=10 * len(tiers),
            status="COMPLETE" if index == len(tiers) - 1 else "PAUSED",
            seconds=100.0,
            tags={"tier": tier, **({"time_mode": "array"} if tier == "array" else {})},
        )
        for index, tier in enumerate(tiers)
    ]
    result = summarise(0, segments, MetricsConfig())
    timed = Gains(step_seconds={(16, "sgd"): 0.002}).timed(trial, result)
    assert timed.seconds == pytest.approx(0.002 * 10 * len(tiers))
    assert timed.tags["time_mode"] == "steps x step time alone"
    assert Gains().timed(trial, result).tags["time_mode"] == "array"
