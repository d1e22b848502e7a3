"""`regatta train`: train a bundle for production, in a process of its own, and keep MLflow up with it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from models.job import JOB, LAST, METRICS, OUTCOME, Job, Outcome, halved, read_curve, write_json
from pipelines.bundle import Bundle
from pipelines.bundle_file import NAME, read_bundle
from pipelines.interrupts import Interrupts
from pipelines.register import Finished, make_model, register
from pipelines.session import versions
from pipelines.training_job import PRODUCTION, SENT, Request, job_of, resumed, run_key, settle, take_back
from pipelines.training_words import line, sentences
from tracking.ledger_file import driver_lock
from tracking.mlflow_runs import MlflowWriter
from tracking.place import existing_study, home, study_folder
from tracking.production import Head, ProductionRun
from tracking.runs import RunStatus

POLL = 0.25
"""Seconds between two looks at a training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Production:
    """One call: the bundle, where its training is kept, and who watches."""

    request: Request
    bundle: Bundle
    text: str
    folder: Path
    console: Console
    run: ProductionRun | None


def main(request: Request) -> int:
    """Train, or go on with a training that was interrupted; returns the exit code.

    Raises:
        ValueError: if the bundle, the data or what was asked for do not allow it.
    """
    if request.study is not None and request.config is not None:
        raise ValueError("`--study` and `--config` must not be given both: each names the bundle.")
    path = Path(request.config) if request.config else existing_study(request.study) / NAME
    if not request.config and not path.exists():
        raise ValueError(f"there must be a bundle at {path}, but no trial of that study has completed yet.")
    bundle, console = read_bundle(path), Console(soft_wrap=True, highlight=False)
    study = path.absolute().parent if (path.parent / "study.db").exists() else study_folder(bundle.study)
    folder = study / PRODUCTION
    asked = job_of(bundle, request)
    folder.mkdir(parents=True, exist_ok=True)
    with driver_lock(folder), ExitStack() as stack:
        job = resumed(asked, folder, force=request.force)
        done = Outcome.read(folder)
        text = path.read_text(encoding="utf-8")
        run = stack.enter_context(_mirrored(bundle, job, text, folder)) if bundle.mlflow else None
        production = Production(request=request, bundle=bundle, text=text, folder=folder, console=console, run=run)
        introduce(production)
        if done is not None and done.status == "COMPLETE":
            console.print("trained before; `--force` trains it anew")
            return conclude(production, done)
        return attempt(production, job)


def introduce(production: Production) -> None:
    """Say what is trained, and what is not as it was."""
    bundle, console = production.bundle, production.console
    optimizer = bundle.optimizer
    rate = "" if optimizer.learning_rate is None else f" at learning rate {optimizer.learning_rate:.3g}"
    console.print(
        f"[bold]{escape(bundle.name)}[/]: trial {bundle.trial} of the study {escape(bundle.study)}, batch size "
        f"{bundle.batch.size} with {optimizer.name}, {bundle.schedule.name}{rate}"
    )
    now = versions()
    names = [f"version.{name}" for name in ("torch", "pytorch-lightning", "python")]
    for name in names:
        if bundle.versions.get(name, now[name]) != now[name]:
            console.print(f"{name.removeprefix('version.')} is {now[name]} here, and was {bundle.versions[name]}")
    if production.request.fit == "all":
        console.print("training on training and validation set together: there is no validation, and no best.ckpt")


def attempt(production: Production, job: Job) -> int:
    """Train until it ends; where a batch does not fit, again in more forward passes."""
    folder, console = production.folder, production.console
    if (folder / LAST).exists():
        console.print(f"going on from {LAST}")
    with Interrupts() as interrupts:
        while True:
            (folder / OUTCOME).unlink(missing_ok=True)
            code = watch(production, interrupts)
            outcome = Outcome.read(folder)
            if outcome is None:
                outcome = Outcome(status="PAUSED") if interrupts else _lost(code)
            if outcome.status == "MISTAKE":
                (folder / OUTCOME).unlink(missing_ok=True)
                take_back(folder)
                raise ValueError(outcome.reason)
            smaller = halved(outcome.factors) if outcome.factors else None
            if outcome.status != "OOM" or smaller is None or (folder / LAST).exists() or interrupts:
                return conclude(production, outcome) or interrupts.exit_code
            console.print(f"the batch does not fit into memory: the same one again, {smaller}")
            job = replace(job, accumulate=smaller.accumulate)
            job.write(folder)


def _lost(code: int) -> Outcome:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return Outcome(status="FAILED", reason=f"the training process {how} without a word; memory may be used up.")


def watch(production: Production, interrupts: Interrupts) -> int:
    """Run the training process to its end, and send what it measures; returns its exit code."""
    # -P and its like in the environment: a folder of the user's called `models` must not hide ours, not even from the
    # processes of further devices, which Lightning starts.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "models.production", str(production.folder / JOB)]
    shown, told = len(read_curve(production.folder / METRICS)), False
    with subprocess.Popen(command, env=environment) as process:
        try:
            while process.poll() is None:
                if interrupts and not told:
                    # The terminal has told it already; a `kill` of this process alone has not.
                    process.send_signal(signal.SIGTERM)
                    production.console.print("ending at the next step, with a checkpoint")
                    told = True
                curve = read_curve(production.folder / METRICS)
                if production.run is not None:
                    production.run.update(curve)
                if not sys.stdout.isatty():
                    for point in curve[shown:]:
                        production.console.print(line(point, production.bundle.train_config()))
                shown = len(curve)
                time.sleep(POLL)
        except BaseException:
            process.kill()
            raise
        for point in read_curve(production.folder / METRICS)[shown:] if not sys.stdout.isatty() else ():
            production.console.print(line(point, production.bundle.train_config()))
        return process.returncode


def conclude(production: Production, outcome: Outcome) -> int:
    """Say how it ended and where everything is, and tell MLflow; returns the exit code of all but an interrupt."""
    console, folder = production.console, production.folder
    if outcome.status == "COMPLETE":
        settle(folder)
        for sentence in sentences(production.bundle, outcome, folder):
            console.print(escape(sentence))
    elif outcome.status == "PAUSED":
        console.print(f"interrupted at step {outcome.step:,}; to go on: [bold]{escape(again(production))}[/]")
    else:
        where = f"; {LAST} and what else there is are in {folder}" if (folder / LAST).exists() else ""
        console.print(f"[red]{outcome.status.lower()}[/] at step {outcome.step:,}: {escape(outcome.reason + where)}")
    sent = tell(production, outcome)
    if outcome.status == "COMPLETE":
        return hand_on(production, sent=sent)
    return 0 if outcome.status == "PAUSED" else 1


def hand_on(production: Production, *, sent: bool) -> int:
    """Make a model of what was trained and register it, if MLflow has its run; returns the exit code."""
    console = production.console
    finished = Finished(
        bundle=production.bundle,
        text=production.text,
        folder=production.folder,
        promote=production.request.promote,
    )
    with console.status("writing the model"):
        problem = make_model(finished)
    if problem is not None:
        console.print(f"[red]no model[/] could be written: {escape(problem)}. The same command tries again.")
        return 1
    for sentence in register(finished) if sent else ():
        console.print(escape(sentence))
    return 0


def again(production: Production) -> str:
    """The same command, which goes on."""
    request = production.request
    words = ["regatta", "train"]
    words += ["--study", request.study or production.bundle.study] if not request.config else []
    words += ["--config", request.config] if request.config else []
    words += ["--fit", request.fit] if request.fit != "train" else []
    words += ["--early_stopping", str(request.early_stopping)] if request.early_stopping is not None else []
    words += ["--registry.promote", request.promote] if request.promote != "gate" else []
    for name, text in request.trainer.items():
        words += [f"--trainer.{name}", text]
    return shlex.join(words)


@contextmanager
def _mirrored(bundle: Bundle, job: Job, text: str, folder: Path) -> Iterator[ProductionRun]:
    mlflow = bundle.mlflow
    assert mlflow is not None, "a bundle of a study that has MLflow"
    tags = {"role": "production", "study": bundle.study, "trial": str(bundle.trial), "cell": bundle.cell}
    run = ProductionRun(
        Head(
            key=run_key(job),
            experiment=mlflow.experiment,
            name=f"train {bundle.name}",
            started=job.started,
            batch_size=job.config.batch_size,
            tags={**tags, "fit": job.fit, "mlflow.source.name": "regatta train"},
            params=_params(job),
            files={NAME: text.encode()},
        ),
        lambda: MlflowWriter(mlflow.uri, home()),
    )
    try:
        yield run
    finally:
        run.close()


def _params(job: Job) -> dict[str, Any]:
    tree = {name: value for name, value in asdict(job.config).items() if name != "accumulate"}
    return {**tree, "fit": job.fit, "early_stopping": job.early_stopping, "trainer": dict(job.trainer)}


def tell(production: Production, outcome: Outcome) -> bool:
    """Send MLflow the rest; returns whether it has all. Where it is away, the same command sends it."""
    run, folder = production.run, production.folder
    if run is None or (folder / SENT).exists():
        return True
    status: RunStatus = {"COMPLETE": "FINISHED", "PAUSED": "KILLED"}.get(outcome.status, "FAILED")  # type: ignore[assignment]
    numbers = {f"result/best_{name}": value for name, value in outcome.best.items() if name != "batch_size"}
    tags = {"status": outcome.status, "reason": outcome.reason, "factors": str(outcome.factors or "")}
    curve: Sequence[Mapping[str, float]] = read_curve(folder / METRICS)
    files = {METRICS: (folder / METRICS).read_bytes()} if curve else {}
    sent = run.finish(curve, status=status, numbers={**outcome.numbers, **numbers}, tags=tags, files=files)
    if not sent:
        lacking = "everything, nor the model" if outcome.status == "COMPLETE" else "everything"
        production.console.print(escape(f"MLflow has not got {lacking} ({run.problem}): the same command sends it."))
    elif outcome.status == "COMPLETE":
        write_json(folder / SENT, {"status": status})
    return sent
