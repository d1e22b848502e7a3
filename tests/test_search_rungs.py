"""Rungs with many small groups: when the first trainings come to their end, and what that costs."""

from __future__ import annotations

import math
import random
import statistics
from collections import deque

import pytest
from search_parts import result_of
from test_search_tuning import tuned

from models.segment import SegmentResult
from search.config import PromotionConfig
from search.objectives import study_of
from search.trial import TrialConfig

STEPS = 90
SIZES = (16, 32, 64, 128)


def loss(trial: TrialConfig, progress: float) -> float:
    """Falls with progress, late where the batch is large, and to the less the nearer the rate is to its best."""
    size = math.log2(trial.params["batch_size"] / 16)
    off = abs(math.log(trial.params["learning_rate"] / (0.025 * 2**size)))
    return float(off + 0.3 * size * (1 - progress) + 2 * (1 - progress))


def raced(seed: int, *, pooled: bool) -> tuple[float, float, float]:
    """Trainings spent before the first has ended, and in all, and the best loss of those that ended."""
    promotion = PromotionConfig(eta=3, rungs=2, pooled=pooled)
    study = study_of(tuned(sampler="qmc", trials=48, batch_sizes=SIZES, promotion=promotion, seed=seed))
    waiting, segments = deque[int](), dict[int, list[SegmentResult]]()
    trials, order = dict[int, TrialConfig](), random.Random(seed)
    spent, first, best = 0.0, math.inf, math.inf
    while True:
        idle = not waiting and not study.may_ask
        waiting.extend(found := study.promoted(idle=idle))
        if idle and not found:
            return first, spent, best
        if not waiting and (trial := study.ask()) is not None:
            trials[trial.number], segments[trial.number] = trial, []
            waiting.append(trial.number)
        trial = trials[waiting.popleft()]
        before = segments[trial.number][-1].to_step if segments[trial.number] else 0
        until = round(STEPS * study.until(trial, before / STEPS))
        noise = order.gauss(0.0, 0.05)
        point = {"step": float(until), "val_loss": loss(trial, until / STEPS) + noise}
        made = {"from_step": before, "to_step": until, "total_steps": STEPS, "curve": [point]}
        status = "COMPLETE" if until == STEPS else "PAUSED"
        segments[trial.number].append(SegmentResult(trial=trial.number, status=status, **made))  # type: ignore[arg-type]
        spent += (until - before) / STEPS
        if not study.reaches(trial, segments[trial.number]):
            assert status == "COMPLETE"
            study.tell(trial, result_of(trial, value=point["val_loss"]))
            first, best = min(first, spent), min(best, point["val_loss"])


@pytest.fixture(scope="module")
def searches() -> dict[bool, list[tuple[float, float, float]]]:
    """Eight groups, six trials in each, ten times."""
    return {pooled: [raced(seed, pooled=pooled) for seed in range(10)] for pooled in (False, True)}


def test_with_a_share_together_the_first_training_ends_far_earlier(
    searches: dict[bool, list[tuple[float, float, float]]],
) -> None:
    first = {pooled: statistics.fmean(one for one, *_ in found) for pooled, found in searches.items()}
    assert first[True] < 0.75 * first[False]


def test_it_costs_hardly_more_in_all_and_comes_to_as_much(
    searches: dict[bool, list[tuple[float, float, float]]],
) -> None:
    spent = {pooled: statistics.fmean(one for _, one, _ in found) for pooled, found in searches.items()}
    best = {pooled: statistics.fmean(one for *_, one in found) for pooled, found in searches.items()}
    assert spent[True] < 1.05 * spent[False]
    assert best[True] < best[False] + 0.02
