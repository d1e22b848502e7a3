"""What goes to a production training and what comes back, as plain JSON files, and how its batch is made up."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.config import TrainConfig
from models.plain import misfit

Fit = Literal["train", "all"]
Ending = Literal["COMPLETE", "PAUSED", "DIVERGED", "OOM", "TIMEOUT", "FAILED", "MISTAKE"]
"""How a training ended. MISTAKE: it was asked for something that cannot be, and nothing has been trained."""

JOB, OUTCOME, METRICS, LAST, BEST = "job.json", "outcome.json", "metrics.csv", "last.ckpt", "best.ckpt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A production training; equal settings make the training that a later call goes on with."""

    id: str
    """By which its run in MLflow is found again."""
    started: float
    """Unix time of the first call."""
    config: TrainConfig
    steps: int
    """Optimizer steps that it must come to."""
    fingerprint: Mapping[str, Any] | None
    """What the data must be; None: unknown."""
    code: Mapping[str, Mapping[str, str]] | None = None
    """What the user's classes must be made of; None: unknown."""
    fit: Fit = "train"
    """On the training set, or on training and validation set together."""
    early_stopping: int | None = None
    """Evaluations without improvement after which it ends; None: never."""
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of Lightning's Trainer."""
    accumulate: int | None = None
    """Forward passes to a step; None: as few as keep the search's batch per device."""
    force: bool = False
    """Whether changed data and code are accepted."""
    progress: bool = True
    """Whether Lightning draws its bar."""

    def write(self, folder: Path) -> Path:
        """Write it into its folder, whole or not at all."""
        return write_json(folder / JOB, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> Job:
        """The job that `write` wrote.

        Raises:
            ValueError: if it is damaged.
        """
        values = _values(path, cls)
        return cls(**{**values, "config": TrainConfig.from_json(values["config"])})

    def settings(self) -> dict[str, Any]:
        """All that a call must have in common with the one that it goes on from."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for name in ("id", "started", "accumulate", "force", "progress"):
            del values[name]
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """Examples of an optimizer step: `per_device` x `devices` x `accumulate`."""

    per_device: int
    devices: int
    accumulate: int

    def __str__(self) -> str:
        """In words."""
        size = self.per_device * self.devices * self.accumulate
        devices = "1 device" if self.devices == 1 else f"{self.devices} devices"
        passes = "1 forward pass" if self.accumulate == 1 else f"{self.accumulate} forward passes"
        return f"a step of {size} examples = {self.per_device} per device x {devices} x {passes}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a call of a production training came to."""

    status: Ending
    reason: str = ""
    step: int = 0
    factors: Factors | None = None
    best: Mapping[str, float] = field(default_factory=dict)
    """The evaluation with the best objective, empty where there is no validation."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Figures of the training as a whole, by their names in MLflow."""

    def write(self, folder: Path) -> Path:
        """Write it into its folder, whole or not at all."""
        return write_json(folder / OUTCOME, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """The outcome that `write` wrote; None if the last call has not got that far.

        Raises:
            ValueError: if it is damaged.
        """
        if not (folder / OUTCOME).exists():
            return None
        values = _values(folder / OUTCOME, cls)
        factors = values["factors"]
        return cls(**{**values, "factors": None if factors is None else Factors(**factors)})


def factors(batch_size: int, *, devices: int, per_device: int, accumulate: int | None = None) -> Factors:
    """How `devices` make up a batch: in as few forward passes as keep each within `per_device` examples.

    Args:
        accumulate: forward passes that were asked for.

    Raises:
        ValueError: if the batch cannot be divided so.
    """
    if batch_size % devices:
        near = _nearest(batch_size, devices)
        raise ValueError(f"`trainer.devices` must divide the batch size, {batch_size}, but got {devices}. {near}")
    share = batch_size // devices
    if accumulate is not None and share % accumulate:
        near = _nearest(share, accumulate)
        raise ValueError(
            f"`trainer.accumulate_grad_batches` must divide the {share} examples of each device (batch size "
            f"{batch_size}), but got {accumulate}. {near}"
        )
    passes = accumulate or next(n for n in divisors(share) if share // n <= per_device)
    return Factors(per_device=share // passes, devices=devices, accumulate=passes)


def halved(present: Factors) -> Factors | None:
    """The same batch in at least twice as many forward passes; None if one example at a time is what there was."""
    share = present.per_device * present.accumulate
    passes = next((n for n in divisors(share) if n >= 2 * present.accumulate), None)
    if passes is None:
        return None
    return Factors(per_device=share // passes, devices=present.devices, accumulate=passes)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [n for n in range(1, number + 1) if number % n == 0]


def _nearest(number: int, wanted: int) -> str:
    lower = max(n for n in divisors(number) if n < max(wanted, 2))
    higher = next((n for n in divisors(number) if n > wanted), None)
    return f"The nearest that do: {lower}{'' if higher is None else f' and {higher}'}."


def write_json(path: Path, values: Mapping[str, Any]) -> Path:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_curve(path: Path, points: Sequence[Mapping[str, float]]) -> None:
    """Write the evaluations of a training as a table, whole or not at all; floats read back equal to the last bit."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    columns = list(dict.fromkeys(name for point in points for name in point))
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(points)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_curve(path: Path) -> list[dict[str, float]]:
    """The evaluations that `write_curve` wrote; none if there is no such file.

    Raises:
        ValueError: if it is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(text) for name, text in row.items() if text != ""} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(_damaged(path, str(error))) from error
    if not all("step" in row for row in rows):
        raise ValueError(_damaged(path, "a line has no `step`"))
    return rows


def _values(path: Path, cls: type[Job | Outcome]) -> dict[str, Any]:
    """The plain values of a file that `write` wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(_damaged(path, str(error))) from error
    if (why := misfit(cls, values)) is not None:
        raise ValueError(_damaged(path, why))
    found: dict[str, Any] = values
    return found


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} must be as a production training has left it, but is damaged ({' '.join(why.split())}). Move the "
        "folder that it is in away, and train anew."
    )
