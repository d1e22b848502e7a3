"""Production trainings: equal to the trial that they repeat, resumable, shared out, and refused where they must be."""

from __future__ import annotations

import itertools
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import config_of, train, user_code

from models.config import TrainConfig
from models.fingerprint import fingerprint, hardware
from models.job import BEST, JOB, LAST, METRICS, Factors, Job, Outcome, factors, halved, read_curve
from models.loaders import OrderedLoader
from models.plan import plan_training
from models.prepared import prepare
from models.production import train as produce
from models.shares import ShareLoader

CLOCKS = ("seconds",)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return user_code(tmp_path, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "production").mkdir()
    return tmp_path / "production"


def job_of(config: TrainConfig, **fields: Any) -> Job:
    data = prepare(config)
    known = {"steps": data.plan(config).total_steps, "fingerprint": fingerprint(data), "progress": False}
    return Job(id="a", started=0.0, config=config, **{**known, **fields})


def timeless(curve: Any) -> list[dict[str, float]]:
    return [{name: value for name, value in point.items() if name not in CLOCKS} for point in curve]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "plateau", "schedule_args": {"patience": 0}},
        {"schedule": "batch_growth"},
        {"accumulate": 2, "gradient_clip": 0.1},
        {"data": "Streamed"},
        {"optimizer": "own", "learning_rate": None, "schedule": "constant"},
        {"min_steps": 50, "evaluations": 4},
    ],
    ids=str,
)
def test_a_production_training_repeats_its_trial_to_the_bit(
    code: ModuleType, tmp_path: Path, folder: Path, changes: dict[str, Any]
) -> None:
    config = config_of(code, **changes)
    trial = train(config, tmp_path)
    outcome = produce(job_of(config), folder)
    assert (outcome.status, outcome.step) == ("COMPLETE", trial.to_step)
    assert timeless(read_curve(folder / METRICS)) == timeless(trial.curve)
    assert trial.checkpoint is not None
    expected = weights(Path(trial.checkpoint))
    assert all(torch.equal(value, expected[name]) for name, value in weights(folder / LAST).items())
    best = min(trial.curve, key=lambda point: point["val_loss"])
    assert outcome.best["step"] == best["step"] and (folder / BEST).exists()


@pytest.mark.parametrize("changes", [{}, {"min_steps": 50, "evaluations": 4}, {"accumulate": 2}], ids=str)
@pytest.mark.parametrize("every", [5, 20])
def test_a_training_that_is_interrupted_again_and_again_ends_as_one_that_is_not(
    code: ModuleType, tmp_path: Path, folder: Path, changes: dict[str, Any], every: int
) -> None:
    config = config_of(code, **changes)
    whole = tmp_path / "whole"
    whole.mkdir()
    produce(job_of(config), whole)
    outcome = Outcome(status="PAUSED")
    for _ in range(30):
        calls = itertools.count(1)
        outcome = produce(job_of(config), folder, asked_to_stop=lambda calls=calls: next(calls) >= every)  # type: ignore[misc]
        if outcome.status != "PAUSED":
            break
    assert outcome.status == "COMPLETE", outcome.reason
    assert timeless(read_curve(folder / METRICS)) == timeless(read_curve(whole / METRICS))
    expected = weights(whole / LAST)
    assert all(torch.equal(value, expected[name]) for name, value in weights(folder / LAST).items())
    assert all(
        torch.equal(a, b) for a, b in zip(weights(folder / BEST).values(), weights(whole / BEST).values(), strict=True)
    )


def test_more_forward_passes_are_the_same_steps_and_nearly_the_same_training(code: ModuleType, folder: Path) -> None:
    network = {"class_path": "models.nets.MLP", "init_args": {"features": 64, "hidden": [8], "classes": 10}}
    config = replace(
        config_of(code, batch_size=256),
        model={"class_path": "models.task.Classifier", "init_args": {"network": network}},
        data={"class_path": "models.data.Digits", "init_args": {}, "batch_size_arg": "batch_size"},
    )
    other = folder.parent / "other"
    other.mkdir()
    plain, split = produce(job_of(config), folder), produce(job_of(config, accumulate=4), other)
    assert str(split.factors) == "a step of 256 examples = 64 per device x 1 device x 4 forward passes"
    assert (split.step, split.status) == (plain.step, plain.status) == (18, "COMPLETE")
    rates = [[point["learning_rate"] for point in read_curve(where / METRICS)] for where in (folder, other)]
    assert rates[0] == rates[1]
    assert split.best["val_loss"] == pytest.approx(plain.best["val_loss"], rel=1e-3)


def test_training_on_everything_keeps_the_steps_and_validates_nothing(code: ModuleType, folder: Path) -> None:
    outcome = produce(job_of(config_of(code), fit="all"), folder)
    assert (outcome.status, outcome.step, outcome.best) == ("COMPLETE", 39, {})
    curve = read_curve(folder / METRICS)
    # 140 examples in 18 steps an epoch: 13 steps are 104 examples.
    assert [(point["step"], point["examples"]) for point in curve] == [(13, 104), (26, 204), (39, 304)]
    assert all("train_loss" in point and "val_loss" not in point for point in curve)
    assert (folder / LAST).exists() and not (folder / BEST).exists()


def test_early_stopping_ends_it_and_says_so(code: ModuleType, folder: Path) -> None:
    config = config_of(code, learning_rate=1e-9, epochs=10, evaluations=10, model_args={"dropout": 0.0})
    outcome = produce(job_of(replace(config, direction="max"), early_stopping=2), folder)
    assert outcome.status == "COMPLETE" and outcome.step < 130
    assert outcome.reason == f"early stopping after {outcome.step} of 130 steps"


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("gpu", "OOM", "CUDA"),
        ("nan", "DIVERGED", "nan"),
        ("raise", "FAILED", "own mistake"),
        ("exit", "FAILED", "Exit"),
    ],
)
def test_a_failure_is_told_as_what_it_is(code: ModuleType, folder: Path, how: str, status: str, words: str) -> None:
    outcome = produce(job_of(config_of(code, model="Fails", model_args={"how": how})), folder)
    assert outcome.status == status and words in outcome.reason
    assert outcome.factors == Factors(per_device=8, devices=1, accumulate=1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"trainer": {"precison": 16}}, "`trainer.precison` is not an argument of Trainer"),
        ({"trainer": {"accelerator": "abacus"}}, "`--trainer` must be what Lightning's Trainer takes"),
        (
            {"trainer": {"devices": 3}},
            "`trainer.devices` must divide the batch size, 8, but got 3. The",
        ),
        ({"accumulate": 3}, "`trainer.accumulate_grad_batches` must divide the 8 examples of each device"),
        ({"steps": 40}, "`budget.steps` must be 39, as epochs and batch size say, but got 40."),
        ({"fingerprint": {"examples": 99, "items": None}}, "the data have changed since the search: `examples` was 99"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_mistake_and_leaves_nothing(
    code: ModuleType, folder: Path, fields: dict[str, Any], sentence: str
) -> None:
    outcome = produce(job_of(config_of(code), **fields), folder)
    assert outcome.status == "MISTAKE" and sentence in outcome.reason
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("changes", "fields", "words"),
    [
        ({"data": "Streamed"}, {"trainer": {"devices": 2}}, "cannot be rebuilt"),
        ({"data": "Streamed"}, {"fit": "all"}, "`--fit all` must have plain DataLoaders"),
        ({"schedule": "batch_growth"}, {"fit": "all"}, "`--fit all` must have a fixed batch size"),
        ({"objective": "val_los"}, {}, "Did you mean `val_loss`?"),
    ],
    ids=str,
)
def test_what_the_data_or_module_do_not_allow_is_a_mistake(
    code: ModuleType, folder: Path, changes: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    outcome = produce(job_of(config_of(code, **changes), **fields), folder)
    assert outcome.status == "MISTAKE" and words in outcome.reason


def test_changed_data_are_accepted_with_force(code: ModuleType, folder: Path) -> None:
    job = job_of(config_of(code), fingerprint={"digest": "other"}, steps=2, force=True)
    assert produce(job, folder).step == 39


class Touches:
    """What a malicious checkpoint would do when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["truncated", "code"])
def test_a_checkpoint_that_is_no_plain_data_is_refused(code: ModuleType, folder: Path, kind: str) -> None:
    job, trap = job_of(config_of(code)), folder / "trap"
    if kind == "code":
        torch.save({"state_dict": Touches(trap)}, folder / LAST)
    else:
        produce(job, folder)
        (folder / LAST).write_bytes((folder / LAST).read_bytes()[:1000])
    outcome = produce(job, folder)
    assert outcome.status == "MISTAKE" and "is not plain data" in outcome.reason
    assert not trap.exists()


@pytest.mark.parametrize(("devices", "passes"), [(1, 2), (2, 1), (2, 4), (4, 2)])
@pytest.mark.parametrize(("examples", "drop_last"), [(100, False), (97, False), (97, True)])
def test_devices_and_passes_share_out_every_step(
    code: ModuleType, devices: int, passes: int, examples: int, drop_last: bool
) -> None:
    config = config_of(code, data_args={"count": examples, "drop_last": drop_last})
    data = prepare(config)
    plan = plan_training(config, examples=data.examples, drop_last=drop_last)
    whole = data.loader(config, plan)
    assert isinstance(whole, OrderedLoader)
    found = Factors(per_device=8 // (devices * passes), devices=devices, accumulate=passes)
    shares = [ShareLoader(data, plan, found, seed=config.seed_order, rank=rank, unit=8) for rank in range(devices)]
    batches = [list(share) for share in shares]
    assert {len(one) for one in batches} == {plan.steps_of_epoch[0] * passes} == {len(share) for share in shares}
    for step, (inputs, _) in enumerate(whole):
        parts = [batches[rank][step * passes + k][0] for k in range(passes) for rank in range(devices)]
        together = torch.cat(parts)
        # A step that cannot be divided evenly takes a few examples more.
        assert torch.equal(together[: len(inputs)], inputs) and len(together) < len(inputs) + devices * passes
        assert len({len(part) for part in parts}) == 1
        taken = [shares[0].examples_in(None, step * passes + k) for k in range(passes)]
        assert sum(taken) == len(inputs)


@pytest.mark.parametrize(
    ("size", "devices", "per_device", "asked", "expected"),
    [
        (64, 1, 64, None, (64, 1, 1)),
        (64, 2, 64, None, (32, 2, 1)),
        (64, 1, 16, None, (16, 1, 4)),
        (64, 2, 16, None, (16, 2, 2)),
        (96, 1, 40, None, (32, 1, 3)),
        (7, 1, 4, None, (1, 1, 7)),
        (64, 2, 64, 4, (8, 2, 4)),
    ],
)
def test_a_batch_keeps_within_what_the_search_had_on_a_device(
    size: int, devices: int, per_device: int, asked: int | None, expected: tuple[int, int, int]
) -> None:
    found = factors(size, devices=devices, per_device=per_device, accumulate=asked)
    assert (found.per_device, found.devices, found.accumulate) == expected
    assert math.prod(expected) == size


def test_a_batch_that_does_not_fit_is_taken_in_twice_as_many_passes_until_one_example_is_left() -> None:
    found: Factors | None = Factors(per_device=12, devices=2, accumulate=1)
    passes = []
    while found is not None:
        passes.append(found.accumulate)
        found = halved(found)
    assert passes == [1, 2, 4, 12]


def test_data_are_told_apart_by_a_single_number(code: ModuleType) -> None:
    config = config_of(code)
    one = fingerprint(prepare(config))
    assert one == fingerprint(prepare(config))
    assert (one["examples"], one["items"]) == (100, ["float32[4]", "int64[]"])
    source: Any = prepare(config).source
    source.columns[0][99, 3] += 1e-6
    assert fingerprint(prepare(config))["digest"] != one["digest"]
    source.columns[0][99, 3] -= 1e-6


@pytest.mark.parametrize("data", ["Augmented", "Streamed"])
def test_data_that_change_have_no_digest(code: ModuleType, data: str) -> None:
    found = fingerprint(prepare(config_of(code, data=data)))
    assert found["digest"] is None and found["examples"] > 0


def test_the_machine_is_told() -> None:
    assert set(hardware()) == {"platform", "machine", "cores", "gpus"}


def test_jobs_and_outcomes_go_through_their_files(code: ModuleType, folder: Path) -> None:
    job = job_of(config_of(code), trainer={"devices": 2})
    assert Job.read(job.write(folder)) == job and (folder / JOB).exists()
    assert Outcome.read(folder) is None
    outcome = Outcome(status="OOM", factors=Factors(per_device=1, devices=2, accumulate=3), best={"a": 0.1})
    outcome.write(folder)
    assert Outcome.read(folder) == outcome
    assert replace(job, id="b", started=time.time(), force=True).settings() == job.settings()
