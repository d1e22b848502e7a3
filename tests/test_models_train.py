"""A trial's training: the same however it is cut into segments, as planned at every step, its failures values."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import chain, config_of, curve_of, in_another_process, same_weights, train, user_code, weights_of
from torch import nn

from models import schedules
from models.config import TrainConfig
from models.loaders import permutation
from models.segment import Segment
from models.task import Classifier
from models.train import out_of_memory, train_segment

LIGHTNINGS = ("pytorch_lightning", "lightning.pytorch")

TRAININGS: dict[str, dict[str, Any]] = {
    "sgd and cosine": {},
    "adam and plateau": {
        "optimizer": "adam",
        "learning_rate": 0.01,
        "schedule": "plateau",
        "schedule_args": {"patience": 0, "threshold": 0.5, "factor": 0.5},
    },
    "rmsprop and onecycle": {"optimizer": "rmsprop", "learning_rate": 0.01, "schedule": "onecycle"},
    "batch growth": {"schedule": "batch_growth", "schedule_args": {"milestones": [0.3, 0.6], "factor": 2.0}},
    "batch growth, accumulated": {"schedule": "batch_growth", "accumulate": 2},
    "accumulated, clipped, decayed": {"accumulate": 2, "gradient_clip": 0.5, "weight_decay": 0.01},
    "evaluations off the epochs' ends": {"evaluations": 7},
    "steps that end in mid-epoch": {"min_steps": 50, "evaluations": 4},
    "drop last": {"data_args": {"drop_last": True}},
    "its own step schedule": {"model": "OwnSchedule", "optimizer": "own", "learning_rate": None},
    "its own epoch schedule": {
        "model": "OwnSchedule",
        "model_args": {"kind": "epoch"},
        "optimizer": "own",
        "learning_rate": None,
    },
    "its own plateau": {
        "model": "OwnSchedule",
        "model_args": {"kind": "plateau"},
        "optimizer": "own",
        "learning_rate": None,
    },
    "manual optimization": {"model": "Manual"},
    "hooks that change the module": {"model": "Counts"},
    "random items": {"data": "Augmented"},
    "a stream": {"data": "Streamed"},
    "a sampler of its own": {"data": "OwnSampler"},
    "a train loss that it logs": {"train_loss": "train_loss", "accumulate": 2},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_trial_that_pauses_anywhere_equals_one_that_never_did(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), **TRAININGS[name])
    whole = chain(config, tmp_path / "whole")
    assert [part.status for part in whole] == ["COMPLETE"], whole[0].reason
    cuts: dict[str, dict[str, Any]] = {
        "epoch": {"untils": (1 / 3, 2 / 3)},
        "steps": {"every": 5},
        "seconds": {"max_seconds": 1e-9},
    }
    for cut, how in cuts.items():
        parts = chain(config, tmp_path / cut, **how)
        assert len(parts) > 1 and parts[-1].status == "COMPLETE", parts[-1].reason
        assert same_weights(parts[-1], whole[0]), cut
        assert curve_of(parts) == curve_of(whole), cut
        assert parts[-1].to_step == whole[0].to_step == whole[0].total_steps
        assert sum(part.examples for part in parts) == whole[0].examples


def test_a_trial_goes_on_to_the_bit_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Data split from the global generator: the other process must find the same split.
    code = user_code(tmp_path, monkeypatch)
    config = config_of(code, data="RandomPart")
    whole = train(config, tmp_path / "whole")
    first = chain(config, tmp_path / "parts", every=15)[0]
    assert (first.status, first.to_step) == ("PAUSED", 15)
    rest = Segment(
        trial=0,
        config=config,
        folder=str(tmp_path / "parts"),
        from_step=first.to_step,
        checkpoint=first.checkpoint,
        sha256=first.sha256,
    )
    last = in_another_process(rest, path=tmp_path)
    assert last.status == "COMPLETE", last.reason
    assert same_weights(last, whole)
    assert curve_of([first, last]) == curve_of([whole])


def test_a_segment_run_twice_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), data="OwnSampler")
    first, between, second = (
        train(changed, tmp_path / str(i)) for i, changed in enumerate([config, _with(config, seed_init=9), config])
    )
    assert same_weights(first, second) and curve_of([first]) == curve_of([second])
    assert not same_weights(first, between)


@pytest.mark.slow
def test_random_items_of_worker_processes_are_the_same_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), data="Augmented", data_args={"workers": 2}, epochs=2)
    whole, parts = chain(config, tmp_path / "whole"), chain(config, tmp_path / "parts", every=9)
    assert len(parts) > 1
    assert same_weights(whole[-1], parts[-1]) and curve_of(whole) == curve_of(parts)


def test_a_stop_in_mid_epoch_of_a_foreign_loader_waits_for_the_epochs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), data="Streamed")
    assert [part.to_step for part in chain(config, tmp_path, every=5)] == [12, 24, 36]


@pytest.mark.parametrize("lightning", LIGHTNINGS)
@pytest.mark.parametrize("model", ["Net", "GivesDict", "KeepsArguments", "Manual", "OwnSchedule"])
def test_a_users_module_trains_as_it_is(
    model: str, lightning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch, lightning), model=model)
    parts = chain(config, tmp_path, every=20)
    assert [part.status for part in parts] == ["PAUSED", "COMPLETE"], parts[-1].reason
    assert parts[-1].curve[-1]["val_loss"] < 1.0 and parts[-1].curve[-1]["train_loss"] < 1.1


def test_a_module_of_one_lightning_takes_data_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ones, others = (user_code(tmp_path, monkeypatch, lightning) for lightning in LIGHTNINGS)
    for data in ("Data", "Transfers"):
        mixed = {"class_path": f"{others.__name__}.{data}", "init_args": {}, "batch_size_arg": "batch_size"}
        result = train(_with(config_of(ones), data=mixed), tmp_path / "mixed")
        assert result.status == "COMPLETE", result.reason
        assert same_weights(result, train(config_of(ones, data=data), tmp_path / "pure"))


def test_the_transfer_hooks_of_a_datamodule_are_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    seen: dict[str, list[float]] = {}
    for data in ("Data", "Transfers"):
        code.Remembers.seen.clear()
        result = train(config_of(code, model="Remembers", data=data, epochs=1), tmp_path)
        assert result.status == "COMPLETE", result.reason
        seen[data] = [number for batch in code.Remembers.seen for number in batch]
    assert [2 * number for number in seen["Transfers"]] == seen["Data"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "TakesDict", "data": "Dicts"},
        {"data": "OtherName", "batch_size_arg": "examples_per_step"},
        {"data": "Part"},
        {"data": "OneByOne"},
        {"data": "Augmented"},
    ],
    ids=str,
)
def test_a_users_data_trains_as_it_is(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(config_of(user_code(tmp_path, monkeypatch), **changes), tmp_path)
    assert result.status == "COMPLETE", result.reason
    assert result.tags["order"] == "own"
    assert len(result.curve) == 3


def test_examples_taken_into_memory_come_as_a_dataloader_would_give_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    assert same_weights(
        train(config_of(code, data="OneByOne"), tmp_path / "one"), train(config_of(code), tmp_path / "other")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": name, "warmup": warmup, "accumulate": accumulate}
        for name in ("constant", "cosine", "onecycle", "wsd", "step")
        for warmup, accumulate in ((0.0, 1), (0.2, 2))
    ],
    ids=str,
)
def test_the_rate_used_at_every_step_is_the_pure_schedules(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    result = train(config_of(code, model="Watches", **changes), tmp_path)
    # 100 examples in batches of 8: 13 steps an epoch; in batches of 4: 25, and Lightning steps at the odd one too.
    assert result.total_steps == result.to_step == 39
    factors = schedules.factors(changes["schedule"], {}, steps=39, warmup=changes["warmup"])
    assert code.Watches.rates == (0.05 * factors).tolist()
    assert [p["learning_rate"] for p in result.curve] == [code.Watches.rates[int(p["step"]) - 1] for p in result.curve]


def test_a_rescaled_schedule_is_whole_at_every_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    config = config_of(code, model="Watches", schedule="cosine", warmup=0.0)
    first = Segment(trial=0, config=config, folder=str(tmp_path), until=1 / 3, rescale=True)
    begun = train_segment(first)
    assert code.Watches.rates == (0.05 * schedules.factors("cosine", {}, steps=13)).tolist()
    code.Watches.rates.clear()
    going_on = dataclasses.replace(first, from_step=13, checkpoint=begun.checkpoint, sha256=begun.sha256, until=1.0)
    ended = train_segment(going_on)
    assert (begun.status, ended.status, ended.tags["rescaled"]) == ("PAUSED", "COMPLETE", "true")
    assert code.Watches.rates == (0.05 * schedules.factors("cosine", {}, steps=39)).tolist()[13:]


def test_a_rescaled_schedule_stays_at_its_end_where_the_rung_is_an_evaluation_in_mid_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    config = config_of(code, model="Watches", schedule="cosine", warmup=0.0, evaluations=6)
    first = Segment(trial=0, config=config, folder=str(tmp_path), until=6 / 39, rescale=True)
    begun = train_segment(first)
    assert (begun.status, begun.to_step, [point["step"] for point in begun.curve]) == ("PAUSED", 7, [6])
    rates = (0.05 * schedules.factors("cosine", {}, steps=6)).tolist()
    assert code.Watches.rates == [*rates, rates[-1]]


def test_plateau_lowers_the_rate_after_the_evaluation_that_did_not_improve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    settings = {"patience": 0, "threshold": 0.9, "factor": 0.5}
    train(config_of(code, model="Watches", schedule="plateau", schedule_args=settings, warmup=0.0), tmp_path)
    assert code.Watches.rates == [0.05] * 26 + [0.025] * 13


def test_batches_grow_at_their_milestones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    growth = {"schedule": "batch_growth", "schedule_args": {"milestones": [0.3, 0.6], "factor": 4.0}}
    result = train(config_of(code, model="Watches", **growth), tmp_path)
    assert code.Watches.sizes == [8] * 12 + [4] + [32] * 3 + [4] + [100]
    assert result.to_step == result.total_steps == 13 + 4 + 1
    assert [(p["step"], p["examples"]) for p in result.curve] == [(6, 48), (12, 96), (18, 300)]
    assert [p["batch_size"] for p in result.curve] == [8.0, 8.0, 100.0]


@pytest.mark.parametrize("clip", [None, 0.01])
def test_the_gradients_norm_is_taken_before_clipping(
    clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    result = train(config_of(code, model="Watches", gradient_clip=clip), tmp_path)
    for point in result.curve:
        assert point["gradient_norm"] == pytest.approx(code.Watches.norms[int(point["step"]) - 1], rel=1e-5)
        assert point["gradient_norm"] > 0.05


def test_duplicating_every_example_of_a_batch_leaves_the_gradient_unchanged() -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3).double()
    task = Classifier(network)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    gradients = []
    for times in (1, 2):
        task.zero_grad()
        task.training_step((x.repeat(times, 1), y.repeat(times)), 0).backward()
        assert network.weight.grad is not None
        gradients.append(network.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_a_curve_counts_examples_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    result = train(config_of(code, evaluations=6), tmp_path)
    expected = [(6, 48), (13, 100), (20, 156), (26, 200), (32, 248), (39, 300)]
    assert [(p["step"], p["examples"]) for p in result.curve] == expected
    assert [p["epoch"] for p in result.curve] == [examples / 100 for _, examples in expected]
    assert result.examples == 300
    dropping = train(config_of(code, data_args={"drop_last": True}), tmp_path)
    assert [(p["step"], p["examples"]) for p in dropping.curve] == [(12, 96), (24, 192), (36, 288)]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("train_loss", [None, "train_loss"])
def test_the_train_loss_is_the_mean_over_the_steps_since_the_last_evaluation(
    train_loss: str | None, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a rate of almost nothing and no dropout, the loss of an epoch is that of the untrained module.
    code = user_code(tmp_path, monkeypatch)
    changes: dict[str, Any] = {"learning_rate": 1e-12, "batch_size": 20, "model_args": {"dropout": 0.0}}
    config = config_of(code, train_loss=train_loss, accumulate=accumulate, epochs=2, evaluations=2, **changes)
    result = train(config, tmp_path)
    x, y = code.examples()
    torch.manual_seed(1)
    module = code.Net(dropout=0.0)
    for epoch, point in enumerate(result.curve):
        batches = permutation(100, config.seed_order, epoch).split(20 // accumulate)
        losses = [module.loss((x[i], y[i])).item() for i in batches]
        assert point["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("on_step", [False, True])
def test_a_train_loss_logged_per_epoch_only_is_no_obstacle(
    on_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    config = config_of(
        code, model="Logs", model_args={"on_step": on_step}, train_loss="train_loss", schedule="constant"
    )
    result = train(config, tmp_path)
    assert result.status == "COMPLETE", result.reason
    assert all(0.1 < point.get("train_loss", 0.5) < 2.0 for point in result.curve)


@pytest.mark.parametrize("data", ["Data", "Augmented"])
def test_evaluating_more_often_trains_the_same_module(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    seldom, often = (
        train(config_of(code, model="DrawsInValidation", data=data, evaluations=n), tmp_path / str(n)) for n in (1, 7)
    )
    assert (len(seldom.curve), len(often.curve)) == (1, 7)
    assert same_weights(seldom, often)


def test_seconds_leave_validation_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 3 validations of 3 batches sleep 0.45 s together.
    result = train(config_of(user_code(tmp_path, monkeypatch), model="Sleeps"), tmp_path)
    assert result.wall_seconds - result.seconds > 0.45
    seconds = [point["seconds"] for point in result.curve]
    assert seconds == sorted(seconds) and seconds[-1] <= result.seconds


def test_seconds_go_on_from_segment_to_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = chain(config_of(user_code(tmp_path, monkeypatch)), tmp_path, untils=(1 / 3, 2 / 3))
    ends = [part.curve[-1]["seconds"] for part in parts]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(sum(part.seconds for part in parts), rel=0.5)


FAILURES: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "Fails", "model_args": {"how": "nan"}}, "DIVERGED", "diverged: the training loss is nan at step 10"),
    ({"learning_rate": 1e4}, "DIVERGED", "diverged: "),
    ({"model": "Fails", "model_args": {"how": "gpu"}}, "OOM", "oom_gpu: CUDA out of memory"),
    ({"model": "Fails", "model_args": {"how": "host"}}, "OOM", "oom_host: out of memory"),
    ({"model": "Fails"}, "FAILED", "user_error: RuntimeError: the user's own mistake"),
    (
        {"model": "Fails", "model_args": {"how": "exit"}},
        "FAILED",
        "user_error: RuntimeError: the code called sys.exit(0)",
    ),
    (
        {"model": "LogsOther"},
        "FAILED",
        "config: `metrics.objective` must be a metric that the module logs in validation, but got 'val_loss'; "
        "it logs `train_loss`, `val_losss`. Did you mean `val_losss`?",
    ),
    (
        {"target_metric": "val_accuracy"},
        "FAILED",
        "config: `metrics.target_metric` must be a metric that the module logs in validation, but got 'val_accuracy'",
    ),
    # 100 examples leave a last batch of one, of which batch norm has no statistics.
    ({"batch_size": 33}, "FAILED", "user_error: ValueError: Expected more than 1 value per channel when training"),
    ({"batch_size": 128}, "FAILED", "config: `batch_size` must be at most 100 (the training set), but got 128."),
    (
        {"data": "Streamed", "schedule": "batch_growth"},
        "FAILED",
        "config: `search.schedules.batch_growth` must have a train loader that can be rebuilt",
    ),
    (
        {"data": "Streamed", "data_args": {"has_length": False}},
        "FAILED",
        "config: `data.class_path` must have a train loader with a length",
    ),
    ({"data": "TwoLoaders"}, "FAILED", "config: `data.class_path` must have one train loader"),
    ({"data": "NoValidationData"}, "FAILED", "config: `data.class_path` must have a `val_dataloader`"),
    ({"batch_size_arg": "batchsize"}, "FAILED", "config: `data.batch_size_arg` must be an argument of Data"),
    ({"model_args": {"widht": 3}}, "FAILED", "config: `model.init_args.widht` is not an argument of Net"),
    ({"model": "Nett"}, "FAILED", "config: `model.class_path` must name a class"),
    ({"data": "Net"}, "FAILED", "config: `data.class_path` must derive from a LightningDataModule"),
]


@pytest.mark.parametrize(("changes", "status", "reason"), FAILURES, ids=[f[2][:60] for f in FAILURES])
def test_a_failure_is_a_value(
    changes: dict[str, Any], status: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    # A trial before it with the same data: a rule that holds for one trial must not be forgotten with the next.
    if changes.get("data", "Data") in ("Data", "Streamed") and not changes.get("data_args"):
        assert train(config_of(code, data=changes.get("data", "Data")), tmp_path).status == "COMPLETE"
    result = train(config_of(code, **changes), tmp_path)
    assert result.status == status
    assert result.reason.startswith(reason)
    assert ("Traceback" in result.reason) == result.reason.startswith("user_error")


def test_a_divergence_is_seen_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(config_of(user_code(tmp_path, monkeypatch), learning_rate=1e4, epochs=100, warmup=0.0), tmp_path)
    assert result.status == "DIVERGED"
    assert result.to_step <= 50
    assert result.total_steps == 1300


def test_ctrl_c_is_no_failure_of_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a terminal: whoever starts the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)
    code = user_code(tmp_path, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config_of(code, model="Fails", model_args={"how": "interrupt"}), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_reaches_whoever_runs_the_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        code = user_code(tmp_path, monkeypatch)
        monkeypatch.setattr(code.Net, "on_train_start", lambda self: os.kill(os.getpid(), signal.SIGTERM))
        result = train(config_of(code), tmp_path, stop=lambda: bool(received))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (result.status, result.to_step) == ("PAUSED", 1), result.reason


def test_slurms_variables_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "workers", "SLURM_PROCID": "2"}.items():
        monkeypatch.setenv(name, value)
    for lightning in LIGHTNINGS:
        result = train(config_of(user_code(tmp_path, monkeypatch, lightning)), tmp_path)
        assert result.status == "COMPLETE", result.reason


def test_a_module_keeps_its_name_and_its_copies_while_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    result = train(config_of(code, model="Introspects"), tmp_path)
    assert result.status == "COMPLETE", result.reason


def test_a_training_step_may_take_the_batch_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    alone, usual = (train(config_of(code, model=model), tmp_path / model) for model in ("TakesBatchAlone", "Net"))
    assert alone.status == "COMPLETE", alone.reason
    assert same_weights(alone, usual)


def test_several_manual_steps_in_a_batch_are_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    for steps in (0, 3):
        result = train(config_of(code, model="Manual", model_args={"steps": steps}), tmp_path)
        assert (result.status, result.to_step) == ("COMPLETE", 39), result.reason
        assert [point["step"] for point in result.curve] == [13, 26, 39]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "code"])
def test_a_checkpoint_that_is_not_what_was_written_is_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    first = chain(config, tmp_path, every=5)[0]
    path = Path(first.checkpoint or "")
    content = path.read_bytes()
    changed = {"truncated": content[:-100], "flipped": content[:500] + bytes([content[500] ^ 1]) + content[501:]}
    if damage == "missing":
        path.unlink()
    elif damage == "code":
        torch.save({"state_dict": _Malicious(str(tmp_path / "ran"))}, path)
    else:
        path.write_bytes(changed[damage])
    for digest in (first.sha256, None) if damage != "flipped" else (first.sha256,):
        result = train(config, tmp_path, from_step=5, checkpoint=str(path), sha256=digest)
        assert result.status == "FAILED"
        assert result.reason.startswith("checkpoint: checkpoint")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["sgd and cosine", "its own step schedule", "its own plateau"])
def test_every_checkpoint_is_plain_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), **TRAININGS[name])
    for part in chain(config, tmp_path, every=20):
        assert part.checkpoint is not None
        state = torch.load(part.checkpoint, weights_only=True)
        assert "hyper_parameters" not in state and state["state_dict"]


def test_a_result_and_a_segment_travel_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment(trial=7, config=config_of(user_code(tmp_path, monkeypatch), epochs=1), folder=str(tmp_path))
    result = train_segment(Segment.from_json(segment.to_json()))
    assert result.status == "COMPLETE", result.reason
    assert type(result).from_json(result.to_json()) == result
    assert all(isinstance(v, int | float) and math.isfinite(v) for point in result.curve for v in point.values())
    assert weights_of(result).keys() == {name for name in weights_of(result) if name.startswith("net.")}


class _Malicious:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def _with(config: TrainConfig, **changes: Any) -> TrainConfig:
    return TrainConfig.from_json({**config.to_json(), **changes})


def test_memory_that_ran_out_is_the_reason_even_where_something_else_failed_for_it() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError:
            raise KeyError("cleaning up") from None
    except KeyError as error:
        assert out_of_memory(error) == "oom_host"
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) == "oom_gpu"
    assert out_of_memory(KeyError("label")) is None
