"""Trials trained side by side: each is the trial that it would be alone, whoever stands beside it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import array_modules
import pytest
import torch
from helpers import config_of, curve_of, same_weights, weights_of

from models import recorded, schedules, stacked
from models.array import train_array
from models.config import TrainConfig
from models.fusion import fusable
from models.segment import Segment, SegmentResult
from models.train import train_segment

MODELS = ("Plain", "Norm", "GroupNorm", "Attention", "Tied")
OPTIMIZERS: dict[str, list[dict[str, Any]]] = {
    "sgd": [{}, {"nesterov": True}, {"momentum": 0.0}],
    "adam": [{}, {"beta1": 0.5, "epsilon": 1e-3}, {"beta2": 0.9}],
    "adamw": [{}, {"beta1": 0.5, "epsilon": 1e-3}, {"beta2": 0.9}],
    "rmsprop": [{}, {"momentum": 0.5}, {"alpha": 0.9}],
}
FIXED = [name for name in schedules.SCHEDULES if name != "batch_growth"]


@pytest.fixture(autouse=True)
def _steps_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few there are."""
    monkeypatch.setattr(recorded, "LEAST_STEPS", 1)
    monkeypatch.setattr(recorded, "LEAST_SHARE", 0.0)


def config(**changes: Any) -> TrainConfig:
    """A trial in float64 of a module of `array_modules`: 8 steps an epoch, the last on 4 examples."""
    base = {"model": "Norm", "data": "Sequences", "precision": "64-true"}
    return config_of(sys.modules["array_modules"], **{**base, **changes})


def trio(schedules_: Sequence[str] = ("cosine", "step", "plateau"), **changes: Any) -> list[TrainConfig]:
    """Three trials that differ in all that members may differ in."""
    settings = OPTIMIZERS[changes.get("optimizer", "sgd")]
    peak = 0.05 if changes.get("optimizer", "sgd") == "sgd" else 0.005
    # At large rates attention makes of one bit more in the rate, alone too, 1e-9 after 200 steps.
    peak *= 0.2 if changes.get("model") == "Attention" else 1.0
    return [
        dataclasses.replace(
            config(**changes),
            learning_rate=peak * (1 + member),
            optimizer_args=settings[member],
            schedule=schedule,
            schedule_args={"patience": 0, "threshold": 0.5} if schedule == "plateau" else {},
            warmup=0.1 * member,
            weight_decay=0.01 * member,
            gradient_clip=(None, 0.5, 1.0)[member],
            seed_init=member,
            seed_order=10 + member,
            seed_dropout=20 + member,
        )
        for member, schedule in enumerate(schedules_)
    ]


def segments(configs: Sequence[TrainConfig], folder: Path, **fields: Any) -> list[Segment]:
    """The first segments of trials."""
    return [Segment(trial=i, config=c, folder=str(folder), **fields) for i, c in enumerate(configs)]


def after(results: Sequence[SegmentResult], before: Sequence[Segment], **fields: Any) -> list[Segment]:
    """The segments that go on from there."""
    return [
        dataclasses.replace(
            s, from_step=r.to_step, checkpoint=r.checkpoint, sha256=r.sha256, **{"until": 1.0, **fields}
        )
        for r, s in zip(results, before, strict=True)
    ]


def alone(parts: Sequence[Segment]) -> list[SegmentResult]:
    """Each in a Trainer of its own."""
    return [train_segment(part) for part in parts]


def difference(one: SegmentResult, other: SegmentResult) -> float:
    """The largest between two trained modules, buffers included."""
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys() and all(a[name].dtype == b[name].dtype for name in a)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def assert_equal(one: Sequence[SegmentResult], other: Sequence[SegmentResult], *, tolerance: float = 1e-10) -> None:
    """The same steps, ends, weights and curves."""
    for a, b in zip(one, other, strict=True):
        assert (a.status, a.to_step, a.total_steps, a.examples) == (b.status, b.to_step, b.total_steps, b.examples), (
            a.reason + b.reason
        )
        assert difference(a, b) <= tolerance
        assert bool(a.fit) == (a.status == "COMPLETE") and a.fit == pytest.approx(b.fit, rel=1e-8, abs=1e-10)
        for p, q in zip(curve_of([a]), curve_of([b]), strict=True):
            assert p == pytest.approx(q, rel=1e-8, abs=1e-10)


CASES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "accumulated": {"accumulate": 2},
    "evaluations off the epochs' ends": {"evaluations": 7},
    "steps that end in mid-epoch": {"min_steps": 29, "evaluations": 4},
    "much logged, a train loss by name": {"model": "LogsMuch", "train_loss": "train_loss"},
    "frozen and unused parts": {"model": "Freezes", "optimizer": "adam"},
    "buffers": {"model": "KeepsMean"},
    "tied": {"model": "Tied", "optimizer": "adamw"},
    "attention with dropout": {"model": "Attention"},
    "in order, whole batches only": {"data_args": {"shuffle": False, "drop_last": True}},
    "one batch an epoch": {"batch_size": 60},
}


@pytest.mark.parametrize("steps", ["recorded", "as they are"])
@pytest.mark.parametrize("name", CASES)
def test_a_member_equals_the_same_trial_alone(
    name: str, steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if steps == "as they are":
        monkeypatch.setattr(recorded, "LEAST_STEPS", math.inf)
    configs = trio(**CASES[name])
    together = train_array(segments(configs, tmp_path / "array"))
    for result in together:
        assert result.tags == {"tier": "array", "width": "3", "order": "own", "time_mode": "array"}
    assert_equal(together, alone(segments(configs, tmp_path / "solo")))


def test_members_whose_batches_grow_equal_the_same_trials_alone(tmp_path: Path) -> None:
    growth = {"schedule": "batch_growth", "schedule_args": {"milestones": [0.3, 0.6], "factor": 2.0}}
    configs = [dataclasses.replace(config(**growth), seed_order=seed) for seed in (1, 2)]
    together = train_array(segments(configs, tmp_path / "array"))
    assert together[0].tags["tier"] == "array"
    assert_equal(together, alone(segments(configs, tmp_path / "solo")))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_equals_itself_alone_under_every_optimizer_and_schedule(
    model: str, optimizer: str, tmp_path: Path
) -> None:
    # Twelve schedules in arrays of three, 240 steps. Half-way the first is pruned, and a fresh trial takes its slot.
    for names in (FIXED[start : start + 3] for start in range(0, len(FIXED), 3)):
        configs = trio(names, model=model, optimizer=optimizer, epochs=30, evaluations=10)[: len(names)]
        first = segments(configs, tmp_path / "array", until=0.5)
        half = train_array(first)
        assert {r.status for r in half} == {"PAUSED"}, half[0].reason
        refilled = [*segments(configs[:1], tmp_path / "refill"), *after(half, first)[1:]]
        rest = train_array(refilled)
        assert {r.tags["tier"] for r in rest} == {"array"}
        whole = alone(segments(configs, tmp_path / "solo"))
        assert_equal(rest[:1], whole[:1])
        assert_equal(
            [dataclasses.replace(r, curve=(), examples=w.examples) for r, w in zip(rest[1:], whole[1:], strict=True)],
            [dataclasses.replace(w, curve=()) for w in whole[1:]],
        )


CUTS: dict[str, dict[str, Any]] = {
    "at an epoch's end": {"until": 1 / 3},
    "in mid-epoch": {"stop": 11},
    "for want of time": {"max_seconds": 1e-9},
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("order", ["solo, array, solo", "array, solo, array"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_trial_goes_from_alone_to_an_array_and_back(cut: str, order: str, optimizer: str, tmp_path: Path) -> None:
    configs = trio(optimizer=optimizer)
    whole = alone(segments(configs, tmp_path / "whole"))
    parts: list[list[SegmentResult]] = []
    going = segments(configs, tmp_path)
    for tier, until in zip(order.split(", "), (1 / 3, 2 / 3, 1.0), strict=True):
        how = dict(CUTS[cut]) if until < 1.0 else {}
        stop = how.pop("stop", None)
        how |= {"until": until} if "until" in how else {}
        going = [dataclasses.replace(s, **{"until": 1.0, "max_seconds": None, **how}) for s in going]
        if tier == "array":
            results = train_array(going, stop=stopping(stop))
            assert {r.tags["tier"] for r in results} == {"array"}
        else:
            results = [train_segment(s, stop=stopping(stop)) for s in going]
        parts.append(results)
        going = after(results, going)
    assert [{r.status for r in part} for part in parts] == [{"PAUSED"}, {"PAUSED"}, {"COMPLETE"}]
    for member, one in enumerate(whole):
        last = parts[-1][member]
        assert difference(last, one) <= 1e-10
        for p, q in zip(curve_of([part[member] for part in parts]), curve_of([one]), strict=True):
            assert p == pytest.approx(q, rel=1e-8, abs=1e-10)


def stopping(after_calls: int | None) -> Any:
    """A flag that is up from its so-manieth reading on."""
    calls = itertools.count(1)
    return lambda: after_calls is not None and next(calls) >= after_calls


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_of_an_array_is_the_one_that_the_trial_would_have_written_alone(
    optimizer: str, tmp_path: Path
) -> None:
    configs = trio(optimizer=optimizer)
    for cut, stop in (("epoch", None), ("middle", 11)):
        fields = {"until": 1 / 3} if stop is None else {}
        together = train_array(segments(configs, tmp_path / cut / "array", **fields), stop=stopping(stop))
        singly = [train_segment(s, stop=stopping(stop)) for s in segments(configs, tmp_path / cut / "solo", **fields)]
        for one, other in zip(together, singly, strict=True):
            assert_same_tree(*(torch.load(str(r.checkpoint), weights_only=True) for r in (one, other)))


def assert_same_tree(one: Any, other: Any, path: str = "") -> None:
    """Equal but for times, rounding, and how far the loop over the last validation had come."""
    if path.endswith(("/seconds", "/epoch_loop.val_loop.batch_progress")):
        return
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert sorted(map(str, one)) == sorted(map(str, other)), path
        for key in one:
            assert_same_tree(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_tree(a, b, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.stride() == other.stride(), path
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    else:
        assert one == (pytest.approx(other, rel=1e-9, abs=1e-12) if isinstance(other, float) else other), path


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_member_that_diverges_leaves_the_others_bitwise_unchanged(precision: str, tmp_path: Path) -> None:
    first, second, third = trio(precision=precision)
    calm = [first, second, dataclasses.replace(third, gradient_clip=None)]
    wild = [calm[0], dataclasses.replace(calm[1], learning_rate=1e30, gradient_clip=None), calm[2]]
    quiet, loud = (train_array(segments(c, tmp_path / name)) for name, c in (("quiet", calm), ("loud", wild)))
    assert [r.status for r in loud] == ["COMPLETE", "DIVERGED", "COMPLETE"]
    for member in (0, 2):
        assert same_weights(quiet[member], loud[member])
        assert curve_of([quiet[member]]) == curve_of([loud[member]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_divergence_is_told_as_it_is_alone(optimizer: str, tmp_path: Path) -> None:
    configs = [dataclasses.replace(c, warmup=0.0) for c in trio(optimizer=optimizer, model="Plain")]
    configs = [
        dataclasses.replace(c, learning_rate=rate, gradient_clip=None)
        for c, rate in zip(configs, (1e300, 40.0, 0.01), strict=True)
    ]
    together = train_array(segments(configs, tmp_path / "array"))
    singly = alone(segments(configs, tmp_path / "solo"))
    assert together[0].status == "DIVERGED" and together[0].checkpoint is None
    for one, other in zip(together, singly, strict=True):
        assert (one.status, one.reason, one.to_step) == (other.status, other.reason, other.to_step)


def test_a_member_does_not_depend_on_its_neighbours_or_its_place(tmp_path: Path) -> None:
    configs = trio()
    forth = train_array(segments(configs, tmp_path / "forth"))
    back = train_array(segments(configs[::-1], tmp_path / "back"))[::-1]
    assert [difference(a, b) for a, b in zip(forth, back, strict=True)] == pytest.approx([0.0] * 3, abs=1e-12)


def test_an_array_run_twice_is_the_same_to_the_bit(tmp_path: Path) -> None:
    configs = trio(precision="32-true")
    one, other = (train_array(segments(configs, tmp_path / name)) for name in ("one", "other"))
    assert all(itertools.starmap(same_weights, zip(one, other, strict=True)))


def test_in_32_bits_members_agree_with_trials_alone_as_far_as_rounding_lets_them(tmp_path: Path) -> None:
    configs = trio(precision="32-true", model="Plain")
    together = train_array(segments(configs, tmp_path / "array"))
    for a, b in zip(together, alone(segments(configs, tmp_path / "solo")), strict=True):
        assert a.curve[-1]["val_loss"] == pytest.approx(b.curve[-1]["val_loss"], rel=1e-3)


def test_members_of_different_rungs_share_an_array_and_leave_it_when_they_are_through(tmp_path: Path) -> None:
    configs = trio()
    whole = alone(segments(configs, tmp_path / "whole"))
    fresh = segments(configs, tmp_path)
    third = train_segment(dataclasses.replace(fresh[1], until=1 / 3))
    mixed = [dataclasses.replace(fresh[0], until=2 / 3), *after([third], [fresh[1]]), fresh[2]]
    results = train_array(mixed)
    assert [(r.status, r.to_step, r.tags["tier"]) for r in results] == [
        ("PAUSED", 16, "array"),
        ("COMPLETE", 24, "array"),
        ("COMPLETE", 24, "array"),
    ]
    assert difference(results[1], whole[1]) <= 1e-10 and difference(results[2], whole[2]) <= 1e-10
    assert len(results[1].curve) == 2 and len(results[0].curve) == 2


@pytest.mark.parametrize(
    ("evaluations", "ends", "steps"),
    # An evaluation in mid-epoch is no place to pause at: it is one step later.
    [(3, (1 / 3, 2 / 3, 1.0), [8, 16, 24]), (4, (1 / 4, 3 / 4, 1.0), [7, 19, 24])],
)
def test_rescaled_members_of_different_rungs_equal_themselves_alone(
    evaluations: int, ends: Sequence[float], steps: Sequence[int], tmp_path: Path
) -> None:
    configs = trio(evaluations=evaluations)
    parts, again = (
        [dataclasses.replace(part, until=end) for part, end in zip(made, ends, strict=True)]
        for made in (segments(configs, tmp_path / place, rescale=True) for place in ("array", "alone"))
    )
    together = train_array(parts)
    assert [result.to_step for result in together] == steps
    assert_equal(together, alone(again))


def test_what_cannot_be_fused_trains_alone_and_says_why(tmp_path: Path) -> None:
    configs = trio(model="Counter")
    results = train_array(segments(configs, tmp_path / "array"))
    assert {(r.status, r.tags["tier"], r.tags["fallback_reason"]) for r in results} == {
        ("COMPLETE", "solo", "it changes `self.count` in a step")
    }
    assert all(itertools.starmap(same_weights, zip(results, alone(segments(configs, tmp_path / "solo")), strict=True)))


def test_a_failure_in_the_array_is_each_trials_own_alone(tmp_path: Path) -> None:
    configs = trio(model="FailsLate", epochs=4)
    assert fusable(configs) is None
    results = train_array(segments(configs, tmp_path))
    assert [r.status for r in results] == ["FAILED"] * 3
    assert all("the user's own mistake" in r.reason for r in results)
    assert all("the user's own mistake" in r.tags["fallback_reason"] for r in results)


def test_a_damaged_checkpoint_fails_its_own_trial_only(tmp_path: Path) -> None:
    going = segments(trio(), tmp_path, until=1 / 3)
    going = after(train_array(going), going)
    results = train_array([dataclasses.replace(going[0], sha256="0" * 64), *going[1:]])
    assert [r.status for r in results] == ["FAILED", "COMPLETE", "COMPLETE"]
    assert results[0].reason.startswith("checkpoint:")


def test_short_of_memory_half_of_the_trials_train_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_modules.Greedy, "limit", 2)
    configs = [*trio(model="Greedy"), config(model="Greedy", seed_init=9)]
    results = train_array(segments(configs, tmp_path))
    assert [(r.status, r.tags.get("width")) for r in results] == [("COMPLETE", "2")] * 4
    assert [r.trial for r in results] == [0, 1, 2, 3]


def test_one_trial_is_an_array_only_where_it_is_to_be(tmp_path: Path) -> None:
    (alone,) = train_array(segments([config()], tmp_path / "alone"))
    assert alone.tags["tier"] == "solo" and "fallback_reason" not in alone.tags
    (fused,) = train_array(segments([config()], tmp_path / "fused", fused=True))
    assert (fused.tags["tier"], fused.tags["width"]) == ("array", "1")
    assert difference(fused, alone) <= 1e-10


def test_one_trial_whose_array_takes_too_much_memory_trains_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_modules.Greedy, "limit", 0)
    (result,) = train_array(segments([config(model="Greedy")], tmp_path, fused=True))
    assert (result.status, result.tags["tier"]) == ("COMPLETE", "solo")
    assert result.tags["fallback_reason"] == "its array took too much memory"


@pytest.mark.parametrize("limit", [0.5, math.inf])
def test_clipping_is_each_members_own(limit: float) -> None:
    gradients = [torch.tensor([[3.0, 4.0], [30.0, 40.0], [math.inf, 1.0]])]
    (clipped,) = stacked.clipped(gradients, stacked.norms(gradients), torch.tensor([10.0, limit, math.inf]))
    assert clipped is not None
    expected = [5.0, min(50.0, limit), math.inf]
    assert clipped.norm(dim=1).tolist() == pytest.approx(expected, rel=1e-5)
