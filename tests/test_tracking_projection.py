"""A trial's run says what was asked, what was measured and when, in the names by which MLflow groups its charts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tracking_rows import STARTED, point, result, segment, trial

from tracking import projection


def row(number: int = 0, *, status: str = "RUNNING", outcome: Any = None, **params: Any) -> dict[str, Any]:
    config = trial(number, **params)
    return {"number": number, "cell": config["cell"], "config": config, "status": status, "result": outcome}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("val_loss", "validation/loss"),
        ("valid_acc", "validation/acc"),
        ("validation_top_5", "validation/top_5"),
        ("train_loss", "train/loss"),
        ("val/loss", "val/loss"),
        ("accuracy", "accuracy"),
        ("val_", "val_"),
        ("val_acc@5", "validation/acc_5"),
    ],
)
def test_metrics_are_grouped_by_the_split_that_they_were_measured_on(name: str, key: str) -> None:
    assert projection.metric_key(name) == key


def test_the_axes_of_an_evaluation_are_metrics_too() -> None:
    points = projection.points(trial(0), [segment(0, 0, 20).to_json()], after=-1)
    assert {point.key: point.value for point in points} == {
        "progress/examples": 640,
        "progress/epoch": 1.0,
        "progress/seconds": 2.0,
        "optimizer/learning_rate": 0.1,
        "optimizer/gradient_norm": 2.0,
        "train/loss": 4 / 21,
        "validation/loss": 5 / 21,
        "validation/accuracy": 0.2,
    }
    assert {point.step for point in points} == {20}


def test_a_batch_size_is_a_metric_only_where_it_changes() -> None:
    curve = [point(20), point(40, batch_size=64)]
    points = projection.points(trial(0), [segment(0, 0, 40, curve=curve).to_json()], after=-1)
    assert [(point.step, point.value) for point in points if point.key == "optimizer/batch_size"] == [(40, 64)]


def test_a_point_is_timed_by_its_segment_and_the_seconds_trained_in_it() -> None:
    segments = [segment(0, 0, 40, status="PAUSED").to_json(), segment(0, 40, 60).to_json()]
    points = projection.points(trial(0), segments, after=-1)
    times = {point.step: point.timestamp_ms / 1000 - STARTED for point in points}
    # The second segment began 120 s after the first; its evaluation came after another 2 s of training.
    assert times == {20: 2.0, 40: 4.0, 60: 122.0}


def test_only_evaluations_after_a_step_are_taken() -> None:
    segments = [segment(0, 0, 40, status="PAUSED").to_json(), segment(0, 40, 60).to_json()]
    assert {point.step for point in projection.points(trial(0), segments, after=20)} == {40, 60}
    assert projection.points(trial(0), segments, after=60) == []


def test_an_infinity_becomes_a_gap_in_the_chart() -> None:
    curve = [point(20, val_loss=math.inf, val_accuracy=-math.inf)]
    points = projection.points(trial(0), [segment(0, 0, 20, curve=curve).to_json()], after=-1)
    values = {point.key: point.value for point in points}
    assert math.isnan(values["validation/loss"])
    assert math.isnan(values["validation/accuracy"])


def test_a_trials_result_is_summed_up_in_columns() -> None:
    outcome = result([segment(0)])
    values = {point.key: point.value for point in projection.summary(outcome)}
    assert values["result/value"] == values["result/best_val_loss"] == values["result/final_val_loss"] == 5 / 61
    assert (values["result/best_step"], values["result/best_train_loss"]) == (60, 4 / 61)
    hits = {key: value for key, value in values.items() if "_to_target" in key or "hit" in key}
    assert hits == {
        "result/steps_to_target": 20,
        "result/examples_to_target": 640,
        "result/epochs_to_target": 1.0,
        "result/seconds_to_target": 2.0,
        "result/hit_after": 0.0,
        "result/sustained_steps_to_target": 60,
        "result/interpolated_steps_to_target": 20,
    }
    assert {(point.step, point.timestamp_ms) for point in projection.summary(outcome)} == {
        (0, round(1000 * outcome["ended"]))
    }


def test_a_trial_that_measured_nothing_has_no_value() -> None:
    outcome = result([segment(0, 0, 0, status="FAILED", curve=[])])
    keys = {point.key for point in projection.summary(outcome)}
    assert keys == {"result/steps", "result/examples", "result/epochs", "result/seconds"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [("COMPLETE", "FINISHED"), ("PRUNED", "FINISHED")]
    + [(status, "FAILED") for status in ("DIVERGED", "OOM", "TIMEOUT", "FAILED")],
)
def test_a_pruned_trial_has_not_failed_and_a_diverged_one_has(status: str, expected: str) -> None:
    assert projection.run_status(row(status=status)) == expected


def test_params_are_what_was_asked_and_the_rest_of_what_training_depends_on() -> None:
    params = projection.params(trial(0, **{"optimizer.momentum": 0.5, "training.warmup": 0.05}))
    expected = {
        "batch_size": "32",
        "learning_rate": "0.1",
        "optimizer": "sgd",
        "optimizer.momentum": "0.5",
        "schedule": "cosine",
        "schedule.final": "0.0",
        "training.warmup": "0.05",
        "model": "models.task.Classifier",
        "model.init_args.net": "mlp",
        "model.init_args.width": "64",
        "data": "models.data.Digits",
        "seed_init": "0",
        "precision": "32-true",
    }
    assert expected.items() <= params.items()
    # What is not set is left out, and nothing stands there under two names.
    assert not {"warmup", "gradient_clip", "train_loss", "optimizer_args"} & params.keys()


def test_tags_tell_what_a_trial_is_and_how_it_ended() -> None:
    done = segment(3, status="OOM", curve=[])
    outcome = {**result([done]), "reason": "oom_gpu: 80 GB"}
    assert projection.tags(row(3, status="OOM", outcome=outcome), [done.to_json()]) == {
        "cell": "b32-sgd-cosine",
        "phase": "explore",
        "trial": "3",
        "seed": "3",
        "status": "OOM",
        "reason": "oom_gpu: 80 GB",
        "censoring": "oom",
        "worker": "worker-1",
        "order": "exact",
        "tier": "cpu",
        "regatta.spans": f'[[{STARTED + 3000}, {STARTED + 3007.5}, "worker-1"]]',
    }


def test_a_trial_that_was_only_asked_has_no_worker() -> None:
    assert projection.tags(row(), []).keys() == {"cell", "phase", "trial", "seed", "status"}
