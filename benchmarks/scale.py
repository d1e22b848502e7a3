"""What the driver of a search costs a trial, after 1,000 and after 10,000: processor time, memory, time to resume."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from models.config import ClassConfig, DataConfig, MetricsConfig, TrainingConfig
from models.segment import Segment, SegmentResult
from pipelines.display import Display
from search.config import LearningRateConfig, PromotionConfig, SearchConfig
from search.objectives import study_of
from search.race import Race
from search.resuming import restore
from search.space import SearchSpace
from search.trial import TrialConfig, TrialResult
from tracking.ledger import Ledger

STEPS, EVALUATIONS = 270, 15
WORKERS = 16
WINDOW = 500
"""Trials over which the processor time of one is averaged, just before so many have been asked."""
RATES = LearningRateConfig(rule="linear", centre=0.1, reference_batch_size=64, factor=30.0, highest=10.0)
NONE = PromotionConfig(rule="none")
WAYS: dict[str, dict[str, Any]] = {
    "compare": {},
    "random": {"strategy": "tune", "sampler": "random", "promotion": NONE},
    "qmc": {"strategy": "tune", "sampler": "qmc", "promotion": NONE},
    "asha": {"strategy": "tune", "sampler": "qmc", "promotion": PromotionConfig(rule="halving", eta=3, rungs=2)},
    "hyperband": {"strategy": "tune", "sampler": "qmc", "promotion": PromotionConfig(rule="hyperband", eta=3, rungs=2)},
}


def space(way: str, trials: int) -> SearchSpace:
    """Eight cells, searched in one of the ways; trials in all."""
    settings = {**WAYS, "tpe": {"strategy": "tune", "sampler": "tpe", "promotion": NONE}}[way]
    return SearchSpace(
        model=ClassConfig(class_path="models.task.Classifier"),
        data=DataConfig(class_path="models.data.Digits"),
        training=TrainingConfig(epochs=15),
        metrics=MetricsConfig(),
        search=SearchConfig(
            trials=trials if "strategy" in settings else trials // 8,
            refine=0,
            extend=False,
            batch_sizes=[16, 32, 64, 128],
            optimizers={"sgd": {}},
            schedules={"constant": {}, "cosine": {}},
            learning_rate=RATES,
            **settings,
        ),
    )


class AtOnce:
    """Answers every segment at once with a made-up curve: what is left is the driver's own work."""

    slots = capacity = WORKERS

    def __init__(self) -> None:
        self._waiting: deque[Segment] = deque()

    @property
    def in_flight(self) -> int:
        """Segments not yet handed back."""
        return len(self._waiting)

    @property
    def tasks(self) -> int:
        """The same: each is a task of its own."""
        return len(self._waiting)

    def submit(self, segments: Sequence[Segment]) -> None:
        """Keep them until `completed` is called."""
        self._waiting.extend(segments)

    def completed(self, timeout: float) -> list[SegmentResult]:
        """The oldest one."""
        return [made_up(self._waiting.popleft())] if self._waiting else []

    def request_stop(self) -> None:
        """Everything ends at once anyway."""

    def lost(self) -> str | None:
        """Never."""
        return None


def made_up(segment: Segment) -> SegmentResult:
    """What a training might have come to: better near one rate, and no two alike."""
    rate = segment.config.learning_rate or 0.1
    last = round(segment.until * STEPS)
    steps = range(STEPS // EVALUATIONS, last + 1, STEPS // EVALUATIONS)
    curve = [point(step, rate) for step in steps if step > segment.from_step]
    return SegmentResult(
        trial=segment.trial,
        from_step=segment.from_step,
        to_step=last,
        total_steps=STEPS,
        status="COMPLETE" if last == STEPS else "PAUSED",
        curve=curve,
        started=time.time(),
        seconds=1.0,
        wall_seconds=1.0,
        examples=32 * (last - segment.from_step),
        tags={"tier": "solo", "order": "own"},
    )


def point(step: int, rate: float) -> dict[str, float]:
    """One evaluation."""
    loss = abs(rate - 0.1) + 1 / step
    known = {"step": step, "examples": 32 * step, "epoch": step / 18, "seconds": step / 100, "learning_rate": rate}
    measured = {
        "batch_size": 32.0,
        "gradient_norm": 1.0,
        "train_loss": loss,
        "val_loss": loss,
        "val_accuracy": 1 - loss,
    }
    return {**known, **measured}


def measured(way: str, counts: Sequence[int]) -> dict[str, Any]:
    """Race, note the processor time whenever another trial is asked, then take it all up again from the ledger."""
    with tempfile.TemporaryDirectory() as home:
        asked_at: list[float] = []
        with Ledger.open(Path(home), create=True) as ledger, Display(Console(file=sys.stderr), note=str) as display:
            race = Race(study_of(space(way, max(counts))), ledger, f"{home}/checkpoints")

            def watch(race: Race) -> None:
                display.watch(race)
                asked_at.extend([time.process_time()] * (len(race.trials) - len(asked_at)))

            race.run(AtOnce(), stopping=lambda: False, watch=watch)
        spent = {count: 1000 * (asked_at[count - 1] - asked_at[count - 1 - WINDOW]) / WINDOW for count in counts}
        whole = time.process_time() - asked_at[0]
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.process_time()
        with Ledger.open(Path(home), create=False) as ledger:
            restore(Race(study_of(space(way, max(counts))), ledger, f"{home}/checkpoints"))
        return {
            "ms": [spent[count] for count in counts],
            "whole": whole,
            "mb": megabytes,
            "resume": time.process_time() - began,
        }


def proposing(counts: Sequence[int], proposals: int = 10) -> list[float]:
    """Processor milliseconds of a proposal by TPE after so many results; a whole search by it would take an hour."""
    sequence = study_of(space("qmc", max(counts)))
    known: list[tuple[TrialConfig, TrialResult]] = []
    while (trial := sequence.ask()) is not None:
        value = abs(trial.params["learning_rate"] - 0.1) + 1 / STEPS
        known.append((trial, TrialResult(number=trial.number, status="COMPLETE", value=value)))
    spent = []
    for count in counts:
        study = study_of(space("tpe", 2 * max(counts)))
        study.restore(known[:count])
        began = time.process_time()
        for _ in range(proposals):
            study.ask()
        spent.append(1000 * (time.process_time() - began) / proposals)
    return spent


def main() -> None:
    """Measure and print, each way in a process of its own so that memory is its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="*", default=list(WAYS), help=f"which of {', '.join(WAYS)} (default: all)")
    parser.add_argument(
        "--counts", type=int, nargs=2, default=[1_000, 10_000], help="trials asked (default: 1000 10000)"
    )
    parser.add_argument("--one", action="store_true", help="measure one way in this process and print it as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.ways[0], arguments.counts)))
        return
    few, many = arguments.counts
    print(f"| way | ms a trial at {few:,} | at {many:,} | ratio | s in all | MB | s to resume |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for way in arguments.ways:
        command = [sys.executable, "-m", "benchmarks.scale", way, "--one", "--counts", str(few), str(many)]
        found: Mapping[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        at_few, at_many = found["ms"]
        row = [
            f"{at_few:.2f}",
            f"{at_many:.2f}",
            f"{at_many / at_few:.2f}",
            f"{found['whole']:.0f}",
            f"{found['mb']:.0f}",
            f"{found['resume']:.1f}",
        ]
        print(f"| {way} | {' | '.join(row)} |", flush=True)
    before, after = proposing(arguments.counts)
    print(f"\nA proposal by tpe: {before:.0f} ms after {few:,} results, {after:.0f} after {many:,}.")


if __name__ == "__main__":
    main()
