"""What `search.promotion.pooled` brings: searches of the noisy quadratic, whose curves are known, in virtual time.

For every curvature h, E w^2 <- (1 - lr h)^2 E w^2 + lr^2 h / B (Zhang et al. 2019), with 5 % of noise on an evaluation:
late decays and large batches look worse half-way than they are in the end.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models import schedules
from models.config import ClassConfig, DataConfig, MetricsConfig, TrainConfig, TrainingConfig
from models.segment import Segment, SegmentResult
from search.config import LearningRateConfig, PromotionConfig, SearchConfig
from search.gains import Gains
from search.objectives import study_of
from search.race import Race
from search.space import SearchSpace
from tracking.ledger import Ledger

CURVATURES = 1.0 / np.arange(1, 201)
EVALUATIONS = 18
NOISE = 0.05
BUDGETS = (8, 10, 12, 15, 18, 22, 26, 30)
"""Workers' time spent, in whole trainings of a trial alone, at which searches are compared."""
MEMBER = 0.2
"""What every further member adds to the time that the steps of an array take, in those of a trial alone: about what was
measured for small networks (`RESULTS.md`)."""
RATES = LearningRateConfig(rule="linear", centre=0.2, reference_batch_size=64, factor=16.0, highest=1.0)

Found = list[tuple[float, float]]
"""Of every training that came to its end: what had been spent by then, and its best loss."""


def steps_of(config: TrainConfig) -> int:
    """A large batch takes fewer steps, as with a budget in epochs, but never very few."""
    return EVALUATIONS * max(3, min(60, round(960 / config.batch_size)))


def curve_of(config: TrainConfig) -> tuple[list[dict[str, float]], bool]:
    """The evaluations of a training, and whether it diverged after the last of them."""
    total, chance = steps_of(config), random.Random(f"{config.seed_order}")
    factors = schedules.factors(config.schedule, dict(config.schedule_args), steps=total, warmup=0.0).tolist()
    moment, start = np.ones(len(CURVATURES)), float(CURVATURES.sum()) / 2
    points: list[dict[str, float]] = []
    for step, factor in enumerate(factors, 1):
        rate = (config.learning_rate or 0.0) * factor
        moment = (1 - rate * CURVATURES) ** 2 * moment + rate**2 * CURVATURES / config.batch_size
        if step % (total // EVALUATIONS) == 0:
            loss = float(CURVATURES @ moment) / 2
            if not loss < 10 * start:
                return points, True
            axes = {"step": step, "examples": step * config.batch_size, "epoch": step / total, "seconds": step / total}
            points.append({**axes, "val_loss": loss * math.exp(NOISE * chance.gauss(0.0, 1.0))})
    return points, False


class Virtual:
    """Workers that take no time: a segment ends when its share of a training would have passed."""

    def __init__(self, workers: int) -> None:
        self.slots = self.capacity = workers
        self.spent = 0.0
        self.found: Found = []
        self._now = 0.0
        self._running: list[tuple[float, int, list[SegmentResult]]] = []
        self._best: dict[int, float] = {}

    @property
    def in_flight(self) -> int:
        """Segments not yet handed back."""
        return sum(len(results) for *_, results in self._running)

    @property
    def tasks(self) -> int:
        """Arrays and single segments not yet handed back."""
        return len(self._running)

    def submit(self, segments: Sequence[Segment]) -> None:
        """Begin them now, side by side."""
        results = [trained(segment) for segment in segments]
        heapq.heappush(self._running, (self._now + taken(results), segments[0].trial, results))

    def completed(self, timeout: float) -> list[SegmentResult]:
        """Those that end first."""
        self._now, _, results = heapq.heappop(self._running)
        self.spent += taken(results)
        for result in results:
            losses = [point["val_loss"] for point in result.curve]
            self._best[result.trial] = min([*losses, self._best.get(result.trial, math.inf)])
            if result.status == "COMPLETE":
                self.found.append((self.spent, self._best[result.trial]))
        return results

    def request_stop(self) -> None:
        """Nobody asks for it."""

    def lost(self) -> str | None:
        """Never."""
        return None


def taken(results: Sequence[SegmentResult]) -> float:
    """Of a worker's time, in whole trainings, by segments side by side."""
    return max(result.seconds for result in results) * (1 + MEMBER * (len(results) - 1))


def trained(segment: Segment) -> SegmentResult:
    """A stretch of a training; `seconds` are shares of the whole."""
    total = steps_of(segment.config)
    points, diverged = curve_of(segment.config)
    goal = round(segment.until * total)
    broken = diverged and (not points or points[-1]["step"] < goal)
    last = int(points[-1]["step"] if points else 0) + total // EVALUATIONS if broken else goal
    return SegmentResult(
        trial=segment.trial,
        from_step=segment.from_step,
        to_step=last,
        total_steps=total,
        status="DIVERGED" if broken else "COMPLETE" if last == total else "PAUSED",
        curve=[point for point in points if segment.from_step < point["step"] <= last],
        seconds=(last - segment.from_step) / total,
        wall_seconds=(last - segment.from_step) / total,
    )


def searched(seed: int, *, pooled: bool, workers: int, trials: int, side_by_side: int) -> Virtual:
    """One search of 24 cells with the default sampler and rungs: the workers that it had."""
    made = SearchSpace(
        model=ClassConfig(class_path="models.task.Classifier"),
        data=DataConfig(class_path="models.data.Digits"),
        training=TrainingConfig(seed=seed),
        metrics=MetricsConfig(),
        search=SearchConfig(
            strategy="tune",
            trials=trials,
            schedules={"constant": {}, "multistep": {}, "cosine": {}, "wsd": {}},
            learning_rate=RATES,
            promotion=PromotionConfig(pooled=pooled),
            seed=seed,
        ),
    )
    executor = Virtual(workers)
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder), create=True) as ledger:
        study = study_of(made)
        gains = Gains(widths={cell.cell.kind: side_by_side for cell in study.cells.values()})
        race = Race(study, ledger, folder, gains=gains)
        race.run(executor, stopping=lambda: False, watch=lambda _: None)
    return executor


def best_after(found: Found, budget: float) -> float:
    """The best loss of the trainings that had ended by then; infinity before the first."""
    return min((loss for spent, loss in found if spent <= budget), default=math.inf)


def told(pairs: Sequence[tuple[Virtual, Virtual]]) -> None:
    """Print what searches came to, without and with it."""
    for name, side in (("without", 0), ("pooled", 1)):
        each = [pair[side] for pair in pairs]
        first = statistics.fmean(one.found[0][0] for one in each)
        spent = statistics.fmean(one.spent for one in each)
        ended = statistics.fmean(len(one.found) for one in each)
        print(f"{name:8} first training ended after {first:.2f}; {ended:.1f} ended; {spent:.1f} spent in all")
    for budget in (*BUDGETS, math.inf):
        both = [tuple(best_after(one.found, budget) for one in pair) for pair in pairs]
        gains = [math.log(pooled / without) for without, pooled in both if math.isfinite(without + pooled)]
        lack = [sum(math.isinf(values[side]) for values in both) for side in (0, 1)]
        if len(gains) > 1:
            mean, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
            low, high = (math.expm1(mean + bound * 1.96 * error) for bound in (-1, 1))
            change = f"best loss {math.expm1(mean):+.1%} (95 %: {low:+.1%} to {high:+.1%})"
            print(f"after {budget:4}: {change}; without any yet: {lack[0]} without, {lack[1]} pooled, of {len(pairs)}")


def main() -> None:
    """Compare searches with the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trials", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side-by-side", type=int, default=1, help="trials in an array, at most (default: 1)")
    asked = parser.parse_args()
    more = {"workers": asked.workers, "trials": asked.trials, "side_by_side": asked.side_by_side}
    told([(searched(s, pooled=False, **more), searched(s, pooled=True, **more)) for s in range(asked.seeds)])


if __name__ == "__main__":
    main()
