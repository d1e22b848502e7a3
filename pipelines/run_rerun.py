"""`regatta rerun`: train one trial again, alone, from its MLflow run, and say whether it comes to the same."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.markup import escape

from models.config import TrainConfig
from models.segment import RESCALED, Segment, SegmentResult
from pipelines.interrupts import Interrupts
from pipelines.session import versions
from search.cluster import connected
from search.cluster_config import ClusterConfig
from search.dask_executor import DaskExecutor
from search.executors import Executor
from search.work import failed
from tracking.client import tracking_uri
from tracking.place import home
from tracking.projection import MACHINE
from tracking.reproduction import Verdict, to_the_bit, within_tolerance
from tracking.trial_run import TrialRun, fetch_trial

ENDED = ("COMPLETE", "DIVERGED", "OOM", "FAILED")
"""How a training ends by itself. Every other trial was stopped, and is trained as far as it had come."""
VERSIONS = ("version.regatta", "version.torch", "version.pytorch-lightning")
"""Versions that may change a number."""
WAIT = 0.25
"""Seconds between two looks at the interrupts."""


def main(run: str, study: str | None, uri: str | None) -> int:
    """Train a trial again and compare; returns the exit code: 0 if it is the same, 1 if not.

    Args:
        run: the id of its run in MLflow, or how that begins; with a study, the trial's number.
        uri: MLflow's tracking URI; None: `MLFLOW_TRACKING_URI`, or the local store.

    Raises:
        ValueError: if there is no such trial, if it cannot be trained here, or if MLflow is away.
    """
    console = Console(soft_wrap=True, highlight=False)
    trial = fetched(run, study=study, uri=uri)
    config = config_of(trial)
    console.print(introduction(trial, config))
    # Where the user stands is where their modules are found, as in a search.
    with (
        Interrupts() as interrupts,
        console.status("training it again, alone"),
        connected(ClusterConfig(workers=1, dashboard=False), paths=[os.getcwd()]) as client,
    ):
        result = train_again(trial, config, DaskExecutor(client), interrupts)
    if interrupts:
        return interrupts.exit_code
    verdict = conclude(trial, result, console)
    return 0 if verdict.holds else 1


def fetched(run: str, *, study: str | None, uri: str | None) -> TrialRun:
    """The trial, as MLflow has it."""
    try:
        trial = fetch_trial(run, study=study, uri=uri, home=home())
    except ConnectionError as error:
        where = tracking_uri(uri, home())
        raise ValueError(f"MLflow at {where} must answer, but does not: {' '.join(str(error).split())}") from error
    if trial.status not in ENDED and not trial.curve:
        raise ValueError(f"trial {trial.number} must have an evaluation to compare with, but has none yet.")
    return trial


def config_of(trial: TrialRun) -> TrainConfig:
    """Its configuration.

    Raises:
        ValueError: if this version has other settings, or if it was not trained in one go.
    """
    if trial.tags.get(RESCALED):
        raise ValueError(
            f"trial {trial.number} must have been trained in one go, but its schedule was stretched anew at every rung "
            "(`search.promotion.rescale`). `regatta verify` trains such configurations in one go, on fresh seeds."
        )
    try:
        return TrainConfig.from_json(trial.config)
    except TypeError as error:
        version = trial.tags.get("version.regatta", "unknown")
        raise ValueError(
            f"the run {trial.run_id} must have a configuration of this version of Regatta, but it is of version "
            f"{version}: {error}. Train it again with that version."
        ) from error


def introduction(trial: TrialRun, config: TrainConfig) -> str:
    """Which trial it is, in a line."""
    rate = "" if config.learning_rate is None else f" at learning rate {config.learning_rate:.3g}"
    return (
        f"[bold]trial {trial.number}[/] of the study {escape(trial.study)} (run {trial.run_id}): batch size "
        f"{config.batch_size} with {escape(config.optimizer)}, {config.schedule}{rate}"
    )


def train_again(trial: TrialRun, config: TrainConfig, executor: Executor, stopping: Interrupts) -> SegmentResult:
    """Its training in one go, as far as the trial came.

    Raises:
        ValueError: if it cannot be built from what is here.
    """
    threads = trial.tags.get("threads", "")
    # Sums are divided among threads: with as many as then, they are rounded as then.
    executor.call("torch.set_num_threads", int(threads) if threads.isdecimal() else 1)
    with tempfile.TemporaryDirectory() as folder:
        until = share(trial, config, executor)
        segment = Segment(trial=trial.number, config=config, folder=folder, until=until)
        executor.submit([segment])
        while not (ended := executor.completed(WAIT)):
            if stopping:
                executor.request_stop()
            if (lost := executor.lost()) is not None:
                ended = [failed(segment, f"lost_worker: {lost}")]
                break
    (result,) = ended
    kind, _, detail = result.reason.partition(": ")
    if kind == "config":
        raise ValueError(detail)
    if kind == "lost_worker":
        raise ValueError(f"the training must come to its end, but its process was lost: {detail}. Run this again.")
    return result


def share(trial: TrialRun, config: TrainConfig, executor: Executor) -> float:
    """The share of the whole training that the trial came to."""
    if trial.status in ENDED:
        return 1.0
    facts = executor.call("models.preflight.check", [config.to_json()])
    if facts["mistakes"]:
        raise ValueError("\n".join(facts["mistakes"]))
    steps: int = facts["steps"][str(config.batch_size)]
    return min(1.0, max(trial.curve) / steps)


def conclude(trial: TrialRun, result: SegmentResult, console: Console) -> Verdict:
    """Compare, and say how and what came of it."""
    doubts = list(reasons(trial, result))
    if doubts:
        console.print(escape(f"compared with a tolerance: {'; '.join(doubts)}"))
    else:
        console.print("compared to the bit: it trained alone, on a CPU like this one, with the same versions")
    verdict = judged(trial, result, exact=not doubts)
    console.print(f"[bold]{escape(verdict.sentence)}[/]")
    commit, now = trial.tags.get("git_commit"), versions().get("git_commit")
    if not verdict.holds and commit != now:
        console.print(f"the git commit of this folder is {now}, and was {commit}")
    return verdict


def reasons(trial: TrialRun, result: SegmentResult) -> Iterator[str]:
    """Yield why the two need not be equal to the bit."""
    tags = trial.tags
    if tags.get("tier") == "array" or "width" in tags:
        yield f"it trained side by side with others, {tags.get('width')} in all"
    now = {**result.tags, **versions()}
    for name in (*MACHINE, *VERSIONS):
        if name in tags and tags[name] != now.get(name):
            yield f"{name.removeprefix('version.')} was {tags[name]}, and is {now.get(name)}"
    if result.tags.get("device") != "cpu":
        yield f"{result.tags.get('device')} does not always add up in one order"


def judged(trial: TrialRun, result: SegmentResult, *, exact: bool) -> Verdict:
    """The comparison of the curves, and of how the two ended."""
    upto = common(trial, result, exact=exact)
    recorded = {step: point for step, point in trial.curve.items() if step <= upto}
    curve = [point for point in result.curve if point["step"] <= upto]
    verdict = to_the_bit(recorded, curve) if exact else within_tolerance(recorded, curve, trial.config)
    other = other_end(trial, result, exact=exact)
    if other is None:
        end = (
            f"{trial.status} at step {trial.steps}"
            if trial.status in ENDED
            else f"up to step {upto}, as far as it came"
        )
        return replace(verdict, sentence=f"{verdict.sentence}; {end}") if verdict.holds else verdict
    sentence = f"differs: {other}; until then {verdict.sentence}" if verdict.holds else f"{verdict.sentence}; {other}"
    return Verdict(holds=False, sentence=sentence)


def common(trial: TrialRun, result: SegmentResult, *, exact: bool) -> float:
    """The last step at which both should have been evaluated."""
    before = max(trial.curve, default=0)
    if trial.status not in ENDED:
        return before
    if not exact and "DIVERGED" in (trial.status, result.status):
        # Rounding moves the step at which that is noticed.
        return min(before, max((point["step"] for point in result.curve), default=0))
    return math.inf


def other_end(trial: TrialRun, result: SegmentResult, *, exact: bool) -> str | None:
    """How the two ended, if not in the same way."""
    if trial.status not in ENDED:
        return None if result.status in ("PAUSED", "COMPLETE") else f"it ends {result.status} now: {result.reason}"
    before, now = _end(trial.status, trial.tags.get("reason", "")), _end(result.status, result.reason)
    if trial.status != result.status:
        return f"it ended {before}, and ends {now}"
    if exact and trial.steps != result.to_step:
        return f"it ended at step {trial.steps}, and ends at step {result.to_step}"
    return None


def _end(status: str, reason: str) -> str:
    return f"{status} ({reason.splitlines()[0]})" if reason else status
