"""`regatta rerun` trains a trial again from MLflow alone: equal to the bit, within a tolerance, or it says where."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from helpers import USER_CODE, chain, config_of, user_code
from rich.console import Console
from tracking_stores import QUIET, mlflow_home, open_mlflow

from models.array import train_array
from models.config import MetricsConfig, TrainConfig
from models.segment import Segment, SegmentResult
from pipelines import run_rerun
from pipelines.cli import main
from pipelines.interrupts import Interrupts
from pipelines.run_rerun import conclude, fetched, reasons, share, train_again
from search.executors import SerialExecutor
from search.trial import TrialConfig, summarise
from tracking.ledger import Ledger
from tracking.projection import CONFIG
from tracking.sending import push
from tracking.trial_run import TrialRun, fetch_trial

pytestmark = QUIET

REGATTA = str(Path(sys.executable).with_name("regatta"))
PATIENCE = 240


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlflow_home(tmp_path_factory)


@pytest.fixture
def kept(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sends a trial of these segments to MLflow and gives what is read back of it."""

    def keep(config: TrainConfig, segments: list[SegmentResult]) -> TrialRun:
        params = {"batch_size": config.batch_size, "optimizer": config.optimizer, "schedule": config.schedule}
        asked = TrialConfig(number=0, cell="b8", index=0, phase="explore", params=params, train=config)
        with Ledger.open(tmp_path / "study", create=True) as ledger:
            ledger.set_meta("study", "mine")
            ledger.set_meta("experiment", str(tmp_path))
            ledger.ask([asked.to_json()])
            for done in segments[:-1]:
                ledger.record(done.to_json())
            ended = segments[-1].status != "PAUSED"
            whole = summarise(0, segments, MetricsConfig()).to_json() if ended else None
            ledger.record(segments[-1].to_json(), whole)
            push(ledger, open_mlflow(tmp_path_factory))
            run = ledger.run(0).run_id
        assert run is not None
        return fetch_trial(run, study=None, uri=None, home=mlflow_home(tmp_path_factory))

    return keep


def again(trial: TrialRun) -> SegmentResult:
    """Trained in this process."""
    return train_again(trial, run_rerun.config_of(trial), SerialExecutor(), Interrupts())


def said(trial: TrialRun, result: SegmentResult) -> tuple[bool, list[str]]:
    """The verdict, and all lines that are printed."""
    console = Console(file=io.StringIO(), soft_wrap=True)
    verdict = conclude(trial, result, console)
    assert isinstance(console.file, io.StringIO)
    return verdict.holds, console.file.getvalue().splitlines()


# In this process


def test_a_trial_that_paused_twice_comes_again_to_the_bit(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), learning_rate=0.1 + 0.2)
    segments = chain(config, tmp_path, untils=(0.3, 0.6))
    assert [part.status for part in segments] == ["PAUSED", "PAUSED", "COMPLETE"]
    trial = kept(config, segments)
    assert run_rerun.config_of(trial) == config
    holds, lines = said(trial, again(trial))
    assert lines == [
        "compared to the bit: it trained alone, on a CPU like this one, with the same versions",
        "equal to the bit: 3 evaluations, 6 metrics; COMPLETE at step 39",
    ]
    assert holds


def test_a_trial_that_was_stopped_is_trained_as_far_as_it_came(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    trial = kept(config, chain(config, tmp_path, untils=(0.6,))[:1])
    assert (trial.status, trial.steps, list(trial.curve)) == ("RUNNING", None, [13, 26])
    assert share(trial, config, SerialExecutor()) == pytest.approx(26 / 39)
    result = again(trial)
    assert (result.status, result.to_step) == ("PAUSED", 26)
    assert said(trial, result)[1][-1] == "equal to the bit: 2 evaluations, 6 metrics; up to step 26, as far as it came"


def test_a_trial_that_diverged_diverges_again(kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch), learning_rate=1e30)
    trial = kept(config, chain(config, tmp_path))
    assert trial.status == "DIVERGED"
    holds, lines = said(trial, again(trial))
    assert holds and lines[-1].endswith(f"; DIVERGED at step {trial.steps}")


def test_a_trial_of_an_array_comes_again_within_the_tolerance(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"class_path": "models.nets.MLP", "init_args": {"features": 64, "hidden": [8], "classes": 10}}
    config = dataclasses.replace(
        config_of(user_code(tmp_path, monkeypatch)),
        model={"class_path": "models.task.Classifier", "init_args": {"network": network}},
        data={"class_path": "models.data.Digits", "init_args": {}, "batch_size_arg": "batch_size"},
        batch_size=64,
    )
    rates = (0.05, 0.01)
    members = [
        Segment(trial=index, config=dataclasses.replace(config, learning_rate=rate), folder=str(tmp_path))
        for index, rate in enumerate(rates)
    ]
    trial = kept(config, train_array(members)[:1])
    holds, lines = said(trial, again(trial))
    assert lines[0] == "compared with a tolerance: it trained side by side with others, 2 in all"
    assert lines[1].startswith("within the tolerance: train_loss at the first evaluation is ")
    assert lines[1].endswith("; COMPLETE at step 69")
    assert holds


def test_another_configuration_is_found_at_the_first_evaluation(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    trial = kept(config, chain(config, tmp_path))
    changed = dataclasses.replace(trial, config={**trial.config, "learning_rate": 0.0500001})
    result = again(changed)
    holds, lines = said(changed, result)
    assert not holds
    assert lines[1].startswith("differs at evaluation 1 of 3: learning_rate at step 13 was 0.")
    # A tolerance is for what is trained: a rate is set.
    side_by_side = dataclasses.replace(changed, tags={**trial.tags, "tier": "array", "width": "8"})
    holds, lines = said(side_by_side, result)
    assert (holds, lines[0]) == (False, "compared with a tolerance: it trained side by side with others, 8 in all")
    assert lines[1].startswith("differs: learning_rate at step 13 was 0.")
    assert lines[1].endswith("and no rounding changes that")


def test_another_end_is_told_with_its_reason(kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    trial = kept(config, chain(config, tmp_path))
    result = again(trial)
    lost = dataclasses.replace(result, status="OOM", reason="oom_host: 80 GB\nand so on")
    equal = "; until then equal to the bit: 3 evaluations, 6 metrics"
    assert said(trial, lost)[1][1] == f"differs: it ended COMPLETE, and ends OOM (oom_host: 80 GB){equal}"
    short = dataclasses.replace(result, to_step=30)
    assert said(trial, short)[1][1] == f"differs: it ended at step 39, and ends at step 30{equal}"


def test_what_stands_against_equal_bits_is_named(kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    trial = kept(config, chain(config, tmp_path))
    result = again(trial)
    assert list(reasons(trial, result)) == []
    then = {**trial.tags, "threads": "1, then 2", "machine": "a Z80", "version.torch": "0.4"}
    told = list(reasons(dataclasses.replace(trial, tags=then), result))
    assert told[0] == f"machine was a Z80, and is {result.tags['machine']}"
    assert told[1] == "threads was 1, then 2, and is 1"
    assert told[2].startswith("torch was 0.4, and is 2.")
    gpu = {"device": "NVIDIA H200"}
    told = list(
        reasons(
            dataclasses.replace(trial, tags={**trial.tags, **gpu}),
            dataclasses.replace(result, tags={**result.tags, **gpu}),
        )
    )
    assert told == ["NVIDIA H200 does not always add up in one order"]


def test_a_class_that_is_not_here_is_a_mistake(kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    trial = kept(config, chain(config, tmp_path, untils=(0.6,))[:1])
    away = dataclasses.replace(
        trial, config={**trial.config, "model": {"class_path": "no_such_module.Net", "init_args": {}}}
    )
    for status in ("RUNNING", "COMPLETE"):
        with pytest.raises(ValueError, match="`model.class_path` .*no_such_module"):
            again(dataclasses.replace(away, status=status))


def test_a_trial_whose_schedule_was_stretched_at_rungs_is_refused(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    trial = kept(config, chain(config, tmp_path))
    with pytest.raises(ValueError, match=r"must have been trained in one go.*`search.promotion.rescale`"):
        run_rerun.config_of(dataclasses.replace(trial, tags={**trial.tags, "rescaled": "true"}))


def test_a_configuration_of_another_version_is_refused(
    kept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(user_code(tmp_path, monkeypatch))
    trial = kept(config, chain(config, tmp_path))
    later = dataclasses.replace(trial, config={**trial.config, "momentum_schedule": "cosine"})
    with pytest.raises(ValueError, match=r"of this version of Regatta, but it is of version .* 'momentum_schedule'"):
        run_rerun.config_of(later)


def test_mlflow_that_is_away_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ValueError, match=r"MLflow at http://127\.0\.0\.1:9 must answer, but does not: "):
        fetched("0" * 32, study=None, uri="http://127.0.0.1:9")


def test_without_a_store_the_search_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", "0" * 32]) == 2
    assert "there must be results in " in capsys.readouterr().err


# As a user runs it


RECIPE = """
name: mine
model: {class_path: code_of_mine.Net}
data: {class_path: code_of_mine.Data}
training: {epochs: 3, accelerator: cpu}
search:
  batch_sizes: [8]
  optimizers: [sgd]
  schedules: [constant]
  trials: 2
  refine: 0
  extend: false
  arrays: "off"
  probes: []
  segment_seconds: 0.001
cluster: {workers: 1}
tracking: {report: false}
"""


def regatta(*words: str, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    done = subprocess.run([REGATTA, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def run_of(number: int, home: Path) -> str:
    """The id of a trial's run."""
    with Ledger.open(home / "mine", create=False) as ledger:
        run = ledger.run(number).run_id
    assert run is not None
    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder in which a search has paused its trials at every turn."""
    folder = tmp_path_factory.mktemp("rerun") / "project"
    folder.mkdir()
    (folder / "code_of_mine.py").write_text(USER_CODE.replace("LIGHTNING", "pytorch_lightning"))
    (folder / "mine.yaml").write_text(RECIPE)
    done = regatta("search", "--config", "mine.yaml", home=folder.parent / "home", cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_a_users_trial_that_was_paused_comes_again_to_the_bit_where_its_code_is(project: Path) -> None:
    home = project.parent / "home"
    with Ledger.open(home / "mine", create=False) as ledger:
        assert len(ledger.segments(1)) > 1
    done = regatta("rerun", "--study", "mine", "1", home=home, cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    run = run_of(1, home)
    assert f"trial 1 of the study mine (run {run}): batch size 8 with sgd, constant at " in done.stdout
    assert done.stdout.splitlines()[-1] == "equal to the bit: 3 evaluations, 6 metrics; COMPLETE at step 39"
    elsewhere = regatta("rerun", run, home=home, cwd=project.parent)
    assert (elsewhere.returncode, elsewhere.stderr.count("\n")) == (2, 1)
    assert "regatta: `model.class_path` " in elsewhere.stderr and "code_of_mine" in elsewhere.stderr


@pytest.mark.slow
def test_a_run_whose_configuration_was_changed_by_hand_differs(project: Path) -> None:
    home = project.parent / "home"
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    run = run_of(0, home)
    config = json.loads(client.get_run(run).data.tags[CONFIG])
    client.set_tag(run, CONFIG, json.dumps({**config, "learning_rate": config["learning_rate"] * 2}))
    done = regatta("rerun", run, home=home, cwd=project)
    assert (done.returncode, done.stderr) == (1, "")
    assert "differs at evaluation 1 of 3: learning_rate at step 13 was " in done.stdout
