"""What the report needs and no trial measures, found once the race is over: on its best configurations, by workers."""

from __future__ import annotations

from typing import Any

from search.executors import Executor
from search.failure import DeadlyCall
from search.gains import Gains
from search.study import Study
from search.trial import TrialConfig, TrialResult

NOISE = "models.noise.noise_scale"
SHARPNESS = "models.sharpness.diagnose"
MEMORY = "models.footprint.measure"
LARGEST = "models.footprint.largest_batch"

Found = dict[str, Any]


def probe(study: Study, executor: Executor, gains: Gains) -> Found:
    """Measure what `search.probes` names, one after the other.

    Returns:
        `steps`: seconds of a step alone by "batch size-optimizer"; `noise`: the gradient noise scale along the best
        configuration's training; `sharpness`: of each cell's best; `memory` by batch size, and the `largest` batch that
        fits; `deadly`: what ended workers instead, its name to a sentence.
    """
    found: Found = {"steps": gains.noted}
    wanted = study.space.search.probes
    for name, measure in (("noise", noise), ("sharpness", sharpness), ("memory", memory), ("largest", largest)):
        # Memory and the largest batch are one setting: both start processes of their own.
        if ("memory" if name == "largest" else name) in wanted and study.ranking():
            try:
                found[name] = measure(study, executor)
            except DeadlyCall as death:
                found["deadly"] = {**found.get("deadly", {}), name: str(death)}
    return found


def noise(study: Study, executor: Executor) -> Found:
    """Along one more training of the best configuration: at a well-tuned rate, as the noise scale depends on it."""
    (best, _), *_ = study.ranking()
    found: Found = executor.call(NOISE, {"config": best.train.to_json()})
    return {"trial": best.number, **found}


def sharpness(study: Study, executor: Executor) -> list[Found]:
    """At the end of every cell's best training."""
    kept = [(trial, result) for trial, result in study.leaders() if result.checkpoint is not None]
    found = executor.calls(SHARPNESS, [_finished(trial, result) for trial, result in kept])
    return [{"trial": trial.number, **one} for (trial, _), one in zip(kept, found, strict=True)]


def _finished(trial: TrialConfig, result: TrialResult) -> Found:
    return {"config": trial.train.to_json(), "checkpoint": result.checkpoint, "sha256": result.sha256}


def memory(study: Study, executor: Executor) -> list[Found]:
    """Of the best configuration of every batch size, each in a process of its own."""
    best: dict[int, TrialConfig] = {}
    for trial, _ in study.ranking():
        best.setdefault(trial.train.batch_size, trial)
    return executor.calls(MEMORY, [{"config": best[size].train.to_json()} for size in sorted(best)])


def largest(study: Study, executor: Executor) -> Found:
    """From the largest batch size of the search on."""
    trial = max((trial for trial, _ in study.ranking()), key=lambda trial: trial.train.batch_size)
    found: Found = executor.call(LARGEST, {"config": trial.train.to_json()})
    return found
