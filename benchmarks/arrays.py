"""Training side by side against one trial at a time: ratios of runs taken in turn, in one process of one thread."""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import dataclasses
import os
import platform
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from models.array import train_array
from models.config import TrainConfig
from models.fusion import fusable
from models.segment import Segment, SegmentResult
from models.train import train_segment

SCHEDULES = ("constant", "step", "exponential", "cosine")
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MLP 64-128-128-10": ({"class_path": "models.nets.MLP", "init_args": {}}, {"image": False}),
    "MLP, dropout 0.1": ({"class_path": "models.nets.MLP", "init_args": {"dropout": 0.1}}, {"image": False}),
    "conv net, width 8": ({"class_path": "models.nets.ConvNet", "init_args": {"width": 8}}, {"image": True}),
}
ALONE = 4
"""Trials that stand for all where each trains alone: they differ in nothing that takes time."""


def trials(model: str, width: int, *, batch_size: int, epochs: int, accelerator: str) -> list[TrainConfig]:
    """So many trials with rates, schedules and seeds of their own, validated after each epoch."""
    network, data = MODELS[model]
    return [
        TrainConfig(
            model={"class_path": "models.task.Classifier", "init_args": {"network": network}},
            data={
                "class_path": "models.data.Digits",
                "init_args": {**data, "validation": 0.2, "test": 0.0},
                "batch_size_arg": "batch_size",
            },
            batch_size=batch_size,
            learning_rate=0.01 * (1 + index % 5),
            optimizer="sgd",
            optimizer_args={},
            schedule=SCHEDULES[index % len(SCHEDULES)],
            schedule_args={},
            warmup=0.0,
            weight_decay=0.0,
            epochs=epochs,
            min_steps=0,
            evaluations=epochs,
            gradient_clip=None,
            accumulate=1,
            precision="32-true",
            devices=1,
            accelerator=accelerator,
            seed_init=index,
            seed_order=1000 + index,
            seed_dropout=2000 + index,
            objective="val_loss",
            direction="min",
            target_metric="val_loss",
            train_loss=None,
        )
        for index in range(width)
    ]


def seconds_of(train: Callable[[], Sequence[SegmentResult]], tier: str) -> float:
    """How long it takes; every trial must come to its end in that tier."""
    started = time.perf_counter()
    results = train()
    taken = time.perf_counter() - started
    wrong = [result for result in results if result.status != "COMPLETE" or result.tags["tier"] != tier]
    assert not wrong, f"{wrong[0].status} {wrong[0].tags} {wrong[0].reason}"
    return taken


def pair(configs: Sequence[TrainConfig]) -> tuple[float, float]:
    """Seconds per trial alone and side by side, one right after the other."""
    with tempfile.TemporaryDirectory() as folder:
        segments = [Segment(trial=index, config=config, folder=folder) for index, config in enumerate(configs)]
        alone = seconds_of(lambda: [train_segment(segment) for segment in segments[:ALONE]], "solo") / ALONE
        together = seconds_of(lambda: train_array(segments), "array") / len(segments)
    return alone, together


def table(options: argparse.Namespace) -> None:
    """A line for each model, batch size and width: medians of pairs."""
    print(f"{'model':<20}{'batch':>6}{'width':>6}{'alone':>12}{'array':>12}{'ratio':>8}   {options.repeats} pairs")
    for model in options.models:
        for batch_size in options.batch_sizes:
            for width in options.widths:
                configs = trials(
                    model, width, batch_size=batch_size, epochs=options.epochs, accelerator=options.accelerator
                )
                reason = fusable(configs)
                assert reason is None, reason
                short = [dataclasses.replace(config, epochs=1, evaluations=1) for config in configs]
                pair(short)  # Whatever is loaded and made ready once.
                pairs = [pair(configs) for _ in range(options.repeats)]
                ratios = sorted(alone / together for alone, together in pairs)
                alone, together = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
                print(
                    f"{model:<20}{batch_size:>6}{width:>6}{alone:>9.1f} ms{together:>9.1f} ms"
                    f"{statistics.median(ratios):>7.2f}x   {ratios[0]:.2f}x to {ratios[-1]:.2f}x",
                    flush=True,
                )


def profile(options: argparse.Namespace) -> None:
    """Where the time of one array goes: torch's operations, then Python's functions."""
    model, batch_size, width = options.models[0], options.batch_sizes[0], options.widths[0]
    configs = trials(model, width, batch_size=batch_size, epochs=options.epochs, accelerator=options.accelerator)
    with tempfile.TemporaryDirectory() as folder:
        segments = [Segment(trial=index, config=config, folder=folder) for index, config in enumerate(configs)]
        train_array(segments)
        with torch.profiler.profile() as operations:
            train_array(segments)
        with cProfile.Profile() as calls:
            train_array(segments)
    print(operations.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    pstats.Stats(calls).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Print the table, or a profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 32, 128, 512])
    parser.add_argument("--widths", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--profile", action="store_true", help="where the time of the first combination goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = torch.cuda.get_device_name() if options.accelerator == "gpu" else platform.machine()
    print(f"{name}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}")
    with contextlib.suppress(KeyboardInterrupt):
        profile(options) if options.profile else table(options)


if __name__ == "__main__":
    main()
