"""Training side by side against one trial at a time and against Lightning's defaults: ratios of runs taken in turn."""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import dataclasses
import multiprocessing
import os
import platform
import pstats
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from digits_trials import check_trained, short_trials
from peer_searches import Plain, silence

from models.array import train_array
from models.config import TrainConfig
from models.data import Digits
from models.fusion import fusable
from models.memory import keep_freed_memory
from models.segment import Segment, SegmentResult
from models.train import train_segment

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
    made = short_trials(network, data, width, batch_size=batch_size, accelerator=accelerator)
    return [dataclasses.replace(config, epochs=epochs, evaluations=epochs) for config in made]


def seconds_of(train: Callable[[], Sequence[SegmentResult]], tier: str) -> float:
    """How long it takes; every trial must come to its end in that tier."""
    started = time.perf_counter()
    results = train()
    taken = time.perf_counter() - started
    check_trained(results, tier)
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


def plain(configs: Sequence[TrainConfig], folder: str) -> None:
    """Trials as Lightning trains them with nothing switched off: bar, summary, logger, checkpoints."""
    for config in configs:
        data = Digits(config.batch_size, validation=0.2, test=0.0)
        data.setup()
        settings = {"learning_rate": config.learning_rate, "schedule": config.schedule}
        module = Plain(settings, momentum=0.9, steps=config.epochs * len(data.train_dataloader()))
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=config.epochs, default_root_dir=folder)
            trainer.fit(module, datamodule=data)


def in_turn(barrier: Barrier, told: Any, options: argparse.Namespace) -> None:
    """What each of several processes does: trials in every way, all processes in the same way at the same time."""
    silence()
    torch.set_num_threads(1)
    keep_freed_memory()
    model, width, batch_size = options.models[0], options.widths[-1], options.batch_sizes[0]
    configs = trials(model, width, batch_size=batch_size, epochs=options.epochs, accelerator="cpu")
    with tempfile.TemporaryDirectory() as folder:
        segments = [Segment(trial=index, config=config, folder=folder) for index, config in enumerate(configs)]
        ways: dict[str, tuple[int, Callable[[], object]]] = {
            "arrays": (width, lambda: train_array(segments)),
            "one at a time": (ALONE, lambda: [train_segment(segment) for segment in segments[:ALONE]]),
            "Lightning's defaults": (ALONE, lambda: plain(configs[:ALONE], folder)),
        }
        for repeat in range(-1, options.repeats):  # The first one makes everything ready.
            for way, (count, run) in ways.items():
                barrier.wait()
                started = time.perf_counter()
                run()
                told.put((repeat, way, count, time.perf_counter() - started))


def together(options: argparse.Namespace) -> None:
    """Trials a minute of several processes at once, and what arrays gain over the two other ways."""
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(options.processes), context.SimpleQueue()
    processes = [context.Process(target=in_turn, args=(barrier, told, options)) for _ in range(options.processes)]
    for process in processes:
        process.start()
    rates: defaultdict[str, list[float]] = defaultdict(list)
    answers: defaultdict[tuple[int, str], list[tuple[int, float]]] = defaultdict(list)
    for _ in range(3 * (options.repeats + 1) * options.processes):
        repeat, way, count, seconds = told.get()
        answers[repeat, way].append((count, seconds))
    for (repeat, way), parts in answers.items():
        if repeat >= 0:
            rates[way].append(60 * sum(count for count, _ in parts) / max(seconds for _, seconds in parts))
    for process in processes:
        process.join()
    print(f"{options.processes} processes, width {options.widths[-1]}, batch size {options.batch_sizes[0]}")
    for way, found in rates.items():
        ratios = sorted(mine / other for mine, other in zip(rates["arrays"], found, strict=True))
        print(
            f"{way:<22}{statistics.median(found):>8.0f} trials a minute; arrays {statistics.median(ratios):.1f} times "
            f"as many ({ratios[0]:.1f} to {ratios[-1]:.1f})"
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
    parser.add_argument("--processes", type=int, help="so many at once, with Lightning's defaults as third way")
    parser.add_argument("--profile", action="store_true", help="where the time of the first combination goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    name = torch.cuda.get_device_name() if options.accelerator == "gpu" else platform.machine()
    print(f"{name}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}")
    with contextlib.suppress(KeyboardInterrupt):
        (profile if options.profile else together if options.processes else table)(options)


if __name__ == "__main__":
    main()
