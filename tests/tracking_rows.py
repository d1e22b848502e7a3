"""Trials as a search would hand them to the ledger: real configurations and results, made without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.config import MetricsConfig, TrainConfig
from models.segment import SegmentResult, Status
from search.trial import TrialConfig, summarise
from tracking.ledger import Ledger

METRICS = MetricsConfig(objective="val_loss", target=0.5)
STARTED = 1_800_000_000.0


def trial(number: int, **params: Any) -> dict[str, Any]:
    """A configuration as `Ledger.ask` takes it."""
    train = TrainConfig(
        model={"class_path": "models.task.Classifier", "init_args": {"net": "mlp", "width": 64}},
        data={"class_path": "models.data.Digits", "init_args": {"folder": "data"}, "batch_size_arg": "batch_size"},
        batch_size=32,
        learning_rate=0.1 / (number + 1),
        optimizer="sgd",
        optimizer_args={"momentum": 0.9},
        schedule="cosine",
        schedule_args={"final": 0.0},
        warmup=0.05,
        weight_decay=0.0,
        epochs=3,
        min_steps=0,
        evaluations=3,
        gradient_clip=None,
        accumulate=1,
        precision="32-true",
        devices=1,
        accelerator="cpu",
        seed_init=number,
        seed_order=7,
        seed_dropout=8,
        objective="val_loss",
        direction="min",
        target_metric="val_loss",
        train_loss=None,
    )
    axes = {"batch_size": 32, "optimizer": "sgd", "schedule": "cosine", "learning_rate": 0.1 / (number + 1)}
    config = TrialConfig(
        number=number,
        cell="b32-sgd-cosine",
        index=number,
        phase="explore",
        params={**axes, **params},
        train=train,
    )
    return config.to_json()


def point(step: int, **metrics: float) -> dict[str, float]:
    """An evaluation: ten steps take a second and half an epoch."""
    axes = {"step": step, "examples": 32 * step, "epoch": step / 20, "seconds": step / 10, "batch_size": 32}
    rates = {"learning_rate": 0.1, "gradient_norm": 2.0, "train_loss": 4.0 / (step + 1)}
    return {**axes, **rates, "val_loss": 5.0 / (step + 1), "val_accuracy": step / 100, **metrics}


def segment(
    number: int, from_step: int = 0, to_step: int = 60, *, status: Status = "COMPLETE", curve: Any = None
) -> SegmentResult:
    """A stretch of a trial with an evaluation every twenty steps, begun a minute after the one before."""
    points = [point(step) for step in range(from_step + 20, to_step + 1, 20)] if curve is None else curve
    return SegmentResult(
        trial=number,
        from_step=from_step,
        to_step=to_step,
        total_steps=60,
        status=status,
        curve=points,
        started=STARTED + 1000 * number + 3 * from_step,
        seconds=(to_step - from_step) / 10,
        wall_seconds=(to_step - from_step) / 8,
        examples=32 * (to_step - from_step),
        worker="worker-1",
        tags={"order": "exact", "tier": "cpu"},
    )


def result(segments: Sequence[SegmentResult]) -> dict[str, Any]:
    """What the segments of a trial add up to."""
    return summarise(segments[0].trial, segments, METRICS).to_json()


def complete(ledger: Ledger, number: int) -> None:
    """Ask a trial and commit its only segment."""
    ledger.ask([trial(number)])
    done = segment(number)
    assert ledger.record(done.to_json(), result([done]))


def study(folder: Path, trials: int) -> Ledger:
    """A new ledger with so many complete trials."""
    ledger = Ledger.open(folder, create=True)
    for number in range(trials):
        complete(ledger, number)
    return ledger
