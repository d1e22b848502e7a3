"""`regatta train`: what it asks for, what it refuses, how it goes on, and what MLflow gets of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_pipelines_bundle import NOTED, bundle, one

from models.job import BEST, JOB, LAST, METRICS, Job, Outcome, factors, read_curve, write_curve
from pipelines.bundle import Bundle, FingerprintSection
from pipelines.bundle_file import to_yaml
from pipelines.cli import main
from pipelines.training_job import ASIDE, Request, job_of, resumed, settle, take_back
from pipelines.training_words import before, sentences
from tracking.ledger import Ledger
from tracking.memory_runs import MemoryWriter
from tracking.production import Head, ProductionRun
from tracking.runs import RunWriter

REGATTA = str(Path(sys.executable).with_name("regatta"))
POINTS = [{"step": 5.0, "seconds": 1.0, "val_loss": 0.5}, {"step": 10.0, "seconds": 2.0, "val_loss": 0.25}]


def request(*, fit: Any = "train", **trainer: str) -> Request:
    return Request(study=None, config=None, fit=fit, early_stopping=None, force=False, trainer=trainer)


# What is asked for


def test_arguments_of_the_trainer_have_the_types_that_yaml_gives_them() -> None:
    job = job_of(bundle(), request(devices="2", strategy="ddp", deterministic="true", limit_val_batches="0.5"))
    assert job.trainer == {"devices": 2, "strategy": "ddp", "deterministic": True, "limit_val_batches": 0.5}
    assert (job.steps, job.accumulate, job.fingerprint) == (23, None, NOTED["fingerprint"])


def test_precision_and_accumulation_belong_to_the_training_itself() -> None:
    job = job_of(bundle(), request(precision="bf16-mixed", accumulate_grad_batches="4"))
    assert (job.config.precision, job.accumulate, job.trainer) == ("bf16-mixed", 4, {})


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        ({"max_steps": "3"}, "`--trainer.max_steps` must be left out: the schedule ends with the bundle's steps."),
        ({"limit_train_batches": "3"}, "`--trainer.limit_train_batches` must be left out: it changes how many steps"),
        ({"gradient_clip_val": "1"}, "Change `gradient_clip` in the bundle."),
        ({"devices": "["}, "`--trainer.devices` cannot be read: '['."),
        ({"accumulate_grad_batches": "0"}, "must be a whole number of at least 1, but got 0."),
    ],
    ids=str,
)
def test_what_would_change_the_training_is_refused_with_a_reason(trainer: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        job_of(bundle(), request(**trainer))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--trainer.devices"], "--trainer.devices: a value must follow"),
        (["--early_stopping", "0"], "must be a whole number of at least 1, but got '0'"),
        (["--fit", "some"], "invalid choice: 'some'"),
        (["--forse"], "there is no option `--forse`; did you mean `--force`?"),
        (["--study", "a", "--config", "b"], "`--study` and `--config` must not be given both"),
        (["--config", "nowhere.yaml"], "`nowhere.yaml` must be a bundle"),
        ([], "Run `regatta search` first."),
    ],
)
def test_a_wrong_call_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "regatta_home").exists()


def test_a_study_without_a_complete_trial_has_nothing_to_train(
    regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger.open(regatta_home / "mine", create=True).close()
    assert main(["train", "--study", "mine"]) == 2
    assert "no trial of that study has completed yet" in capsys.readouterr().err


# Going on with what is there


def begun(folder: Path, **fields: Any) -> Job:
    job = dataclasses.replace(job_of(bundle(), request()), **fields)
    job.write(folder)
    (folder / LAST).write_text("last")
    return job


def test_the_same_call_goes_on_and_remembers_what_it_has_learnt(tmp_path: Path) -> None:
    first = begun(tmp_path, accumulate=4)
    again = resumed(job_of(bundle(), request()), tmp_path, force=False)
    assert (again.id, again.accumulate) == (first.id, 4)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (request(devices="2"), "`trainer.devices` was None, and is 2 now."),
        (request(fit="all"), "`fit` was train, and is all now."),
        (request(accumulate_grad_batches="2"), "`trainer.accumulate_grad_batches` was left open, and is 2 now."),
    ],
    ids=str,
)
def test_another_training_is_not_gone_on_with(asked: Request, sentence: str, tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(ValueError) as caught:
        resumed(job_of(bundle(), asked), tmp_path, force=False)
    assert sentence in str(caught.value) and "Give `--force`" in str(caught.value)
    assert (tmp_path / LAST).read_text() == "last"


def test_force_keeps_the_earlier_training_until_the_new_one_has_ended(tmp_path: Path) -> None:
    first = begun(tmp_path)
    new = resumed(job_of(bundle(), request(devices="3")), tmp_path, force=True)
    assert new.id != first.id and not (tmp_path / LAST).exists()
    take_back(tmp_path)
    assert Job.read(tmp_path / JOB) == first and (tmp_path / LAST).read_text() == "last"
    resumed(new, tmp_path, force=True)
    settle(tmp_path)
    assert not (tmp_path / ASIDE).exists() and Job.read(tmp_path / JOB) == new


# What is said of it


def test_a_result_stands_beside_what_was_verified_or_else_beside_the_lucky_draw(tmp_path: Path) -> None:
    outcome = Outcome(status="COMPLETE", step=23, best={"step": 20, "val_loss": 0.75})
    told = next(sentences(bundle(), outcome, tmp_path))
    assert told == "Best val_loss 0.75 at step 20 of 23; the search's one run of it, the best of many, had 0.5."
    verified = {"chosen": "a", "finalists": [{"name": "a", "trial": 0, "mean": 0.7, "sd": 0.05}]}
    assert before(bundle(verification=verified)) == (
        "verified on fresh seeds, it had 0.7 with a standard deviation of 0.05"
    )


def test_the_price_of_communication_is_told(tmp_path: Path) -> None:
    numbers = {"speed/step_seconds": 0.004, "communication/step_seconds": 0.001, "communication/share": 0.25}
    told = list(sentences(bundle(), Outcome(status="COMPLETE", numbers=numbers), tmp_path))
    assert "A step took 4 ms, of which gradients were on their way 1 ms (25%); in the search" in told[0]


# MLflow


class Away(MemoryWriter):
    """A store that is out of reach at first."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True

    def experiment(self, name: str) -> None:
        if self.away:
            raise ConnectionError("connection refused")
        super().experiment(name)


def head() -> Head:
    return Head(
        key="1:production",
        experiment="mine",
        name="train mine",
        started=100.0,
        batch_size=64,
        tags={"role": "production"},
        params={"fit": "train", "trainer": {"devices": 2}},
        files={"best.yaml": b"bundle: 1"},
    )


def finish(run: ProductionRun) -> bool:
    numbers = {"speed/seconds": 2.0}
    return run.finish(POINTS, status="FINISHED", numbers=numbers, tags={"status": "COMPLETE"}, files={METRICS: b"x"})


@pytest.mark.parametrize("repeats", [1, 2])
def test_every_evaluation_comes_to_mlflow_once(repeats: int) -> None:
    writer = MemoryWriter()
    for _ in range(repeats):  # the second time as another call of the same training would
        run = ProductionRun(head(), lambda: writer)
        run.update([])
        run.update(POINTS[:1])
        run.update(POINTS)
        assert finish(run)
    (found,) = writer.runs.values()
    assert (found.name, found.status, writer.experiment_name) == ("train mine", "FINISHED", "mine")
    values = sorted(
        (p.key, p.step, p.timestamp_ms, p.value) for p in found.points.values() if p.key != "progress/seconds"
    )
    assert values == [
        ("speed/seconds", 0, 102000, 2.0),
        ("validation/loss", 5, 101000, 0.5),
        ("validation/loss", 10, 102000, 0.25),
    ]
    assert found.params == {"fit": "train", "trainer.devices": "2"}
    assert set(found.artifacts) == {"best.yaml", METRICS}
    assert (found.tags["role"], found.tags["status"]) == ("production", "COMPLETE")


def test_a_training_that_is_refused_leaves_no_run() -> None:
    writer = MemoryWriter()
    ProductionRun(head(), lambda: writer).update([])
    assert not writer.runs


def test_a_store_that_is_away_is_told_and_gets_everything_later() -> None:
    writer = Away()

    def opened() -> RunWriter:
        return writer

    run = ProductionRun(head(), opened)
    run.update(POINTS[:1])
    assert run.problem == "connection refused" and not finish(run)
    writer.away = False
    assert finish(run) and run.problem is None
    assert len(next(iter(writer.runs.values())).points) == 5


def test_a_curve_reads_back_equal_to_the_last_bit(tmp_path: Path) -> None:
    points = [{"step": 1, "a": 0.1 + 0.2}, {"step": 2, "b": 1e-17, "a": float("nan")}]
    write_curve(tmp_path / METRICS, points)
    again = read_curve(tmp_path / METRICS)
    assert again[0] == points[0] and again[1]["b"] == 1e-17 and again[1]["a"] != again[1]["a"]


# For real, in processes of its own

LARGE = '''
import torch
from models.task import Classifier


class Large(Classifier):
    """Runs out of memory at more than 16 examples."""

    def training_step(self, batch, batch_index):
        if len(batch[0]) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return super().training_step(batch, batch_index)
'''


def ready(folder: Path, *, epochs: int = 3, **changes: Any) -> Path:
    """A bundle of a few steps, or of many, that checks no data."""
    made = bundle(one("cosine"), noted=None, mlflow=None)
    steps = 23 * epochs
    budget = dataclasses.replace(made.budget, epochs=epochs, evaluations=epochs, steps=steps, examples=1437 * epochs)
    schedule = dataclasses.replace(made.schedule, first=[], last=[])
    optimizer = dataclasses.replace(made.optimizer, learning_rate=0.05)
    new: Bundle = dataclasses.replace(made, budget=budget, schedule=schedule, optimizer=optimizer, **changes)
    path = folder / "best.yaml"
    path.write_text(to_yaml(new), encoding="utf-8")
    return path


def regatta(*words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [REGATTA, *words],
        cwd=cwd,
        env={**os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def trained(*words: str, cwd: Path, code: int = 0) -> str:
    process = regatta("train", *words, cwd=cwd)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    return out + err


def curve(home: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in point.items() if name != "seconds"}
        for point in read_curve(home / "mine" / "production" / METRICS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_interrupted_is_gone_on_with_by_the_same_command(
    which: signal.Signals, tmp_path: Path, regatta_home: Path
) -> None:
    path = str(ready(tmp_path, epochs=80))
    process = regatta("train", "--config", path, cwd=tmp_path)
    metrics = regatta_home / "mine" / "production" / METRICS
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, which)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + which, out + err
    assert f"to go on: regatta train --config {path}" in out
    step = json.loads((metrics.parent / "outcome.json").read_text())["step"]
    assert 0 < step < 80 * 23
    assert "going on from last.ckpt" in trained("--config", path, cwd=tmp_path)
    interrupted = curve(regatta_home)
    trained("--config", path, "--force", cwd=tmp_path)
    assert curve(regatta_home) == interrupted
    assert {name for name in (BEST, LAST) if (metrics.parent / name).exists()} == {BEST, LAST}
    assert "trained before" in trained("--config", path, cwd=tmp_path)


@pytest.mark.slow
def test_two_processes_take_the_same_steps_to_the_same_result(tmp_path: Path, regatta_home: Path) -> None:
    path = str(ready(tmp_path, epochs=6))
    trained("--config", path, "--trainer.accelerator", "cpu", cwd=tmp_path)
    alone, step = curve(regatta_home), Outcome.read(regatta_home / "mine" / "production")
    two = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp", "--force"]
    told = trained("--config", path, *two, cwd=tmp_path)
    assert "a step of 64 examples = 32 per device x 2 devices x 1 forward pass; 138 steps" in told
    assert "of which gradients were on their way" in told
    outcome = Outcome.read(regatta_home / "mine" / "production")
    assert outcome is not None and step is not None and outcome.step == step.step == 138
    assert outcome.factors == factors(64, devices=2, per_device=64)
    assert [p["learning_rate"] for p in curve(regatta_home)] == [p["learning_rate"] for p in alone]
    assert curve(regatta_home)[-1]["val_loss"] == pytest.approx(alone[-1]["val_loss"], rel=0.1)
    assert 0 < outcome.numbers["communication/share"] < 1
    assert outcome.numbers["communication/step_seconds"] < outcome.numbers["speed/step_seconds"]


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_taken_in_more_passes(tmp_path: Path, regatta_home: Path) -> None:
    (tmp_path / "large.py").write_text(LARGE)
    model = dataclasses.replace(bundle().model, class_path="large.Large")
    told = trained("--config", str(ready(tmp_path, model=model)), cwd=tmp_path)
    assert told.count("the batch does not fit into memory") == 2
    assert "16 per device x 1 device x 4 forward passes" in told
    assert curve(regatta_home)[-1]["step"] == 69


@pytest.mark.slow
def test_changed_data_are_refused_and_the_earlier_training_stays(tmp_path: Path, regatta_home: Path) -> None:
    # Earlier tests may have left one that lives as long as theirs: Python's own tracker of shared resources.
    others = psutil.Process().children(recursive=True)
    path = str(ready(tmp_path))
    trained("--config", path, cwd=tmp_path)
    before_it = curve(regatta_home)
    changed = FingerprintSection(examples=1437, items=["float32[64]", "int64[]"], digest="other", validation=None)
    ready(tmp_path, fingerprint=changed)
    told = trained("--config", path, "--force", "--trainer.devices", "3", cwd=tmp_path, code=2)
    assert "`trainer.devices` must divide the batch size, 64, but got 3" in told
    assert curve(regatta_home) == before_it
    (regatta_home / "mine" / "production" / JOB).unlink()
    (regatta_home / "mine" / "production" / LAST).unlink()
    told = trained("--config", path, cwd=tmp_path, code=2)
    assert "the data have changed since the search: `digest` was other" in told
    assert not set(psutil.Process().children(recursive=True)) - set(others)
