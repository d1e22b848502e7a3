"""The best configurations trained again on fresh seeds, in the same race as the search; and the test split, once."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.config import TrainConfig
from models.seeds import derive
from search.cell_study import CellStudy
from search.criterion import Criterion
from search.executors import Executor
from search.space import SearchSpace
from search.study import Study
from search.trial import Phase, TrialConfig, TrialResult

TEST = "models.testing.test"
SEED = "verify_seed"
"""The parameter in which the trials of one finalist differ."""
TOP = 3
SEEDS = 5


@dataclass(slots=True, kw_only=True)
class Finalist(CellStudy):
    """A configuration of the search as a cell of its own, whose trials differ in their seeds alone."""

    proposed: TrialConfig
    """The trial that stands for its cell."""
    search_value: float
    """What that trial came to."""
    baseline: bool
    """Whether it is the best of the smallest batch size."""
    seeds: int
    """Trials wanted; an earlier call may have asked more."""
    criterion: Criterion

    @property
    def planned(self) -> int:
        """Trials that it will have had."""
        return len(self.asked) if self.closed else max(self.seeds, len(self.asked))

    def explorations(self) -> list[dict[str, Any]]:
        """The same parameters every time, but for the number of the seed."""
        return [{**self.proposed.params, SEED: seed} for seed in range(self.seeds)]

    def propose(self) -> tuple[Phase, dict[str, Any]] | None:
        """The next seed, if one is lacking."""
        if self.closed or len(self.asked) >= self.seeds:
            return None
        return "confirm", self.explorations()[len(self.asked)]

    def train_config(self, sampled: Mapping[str, Any], *, index: int) -> TrainConfig:
        """The training that won, with the seeds of this index."""
        seeds: dict[str, Any] = fresh_seeds(self.space, index)
        return dataclasses.replace(self.proposed.train, **seeds)

    @property
    def values(self) -> list[float]:
        """The metric's values, by seed: infinity where a training diverged, nothing where one failed."""
        return self._each(lambda result: result.value)

    @property
    def judged(self) -> list[float]:
        """The same in what it is compared by; infinity also where a training never came to it."""
        return self._each(self.criterion.of)

    def _each(self, figure: Callable[[TrialResult], float | None]) -> list[float]:
        ended = [self.results[trial.index] for trial in self.ended()]
        values = [math.inf if result.status == "DIVERGED" else figure(result) for result in ended if came_to(result)]
        return [value for value in values if value is not None]

    def means(self) -> dict[str, float]:
        """The mean of each objective, over the trainings that came to it; empty where only the metric is looked for."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for result in self.results.values():
            for name, value in self.criterion.objectives(result).items() if result.status == "COMPLETE" else ():
                found[name].append(value)
        return {name: statistics.fmean(values) for name, values in found.items()}


def came_to(result: TrialResult) -> bool:
    """Whether a training ended on its own account: what was too large or failed says nothing of the configuration."""
    return result.status in ("COMPLETE", "DIVERGED")


def fresh_seeds(space: SearchSpace, index: int) -> dict[str, int]:
    """The seeds of all three sources: the same list for every configuration, and those of no trial of the search."""
    return {
        f"seed_{source}": derive(space.search.seed, space.training.seed, "verify", index, source)
        for source in ("init", "order", "dropout")
    }


class Verification(Study):
    """The finalists of a search as the cells of a study, for the same race in the same ledger.

    Their names are no cells of the search, which therefore never takes these trials for its own.
    """

    def __init__(self, searched: Study, *, top: int = TOP, seeds: int = SEEDS) -> None:
        """`top`: cells whose best is a finalist; the best of the smallest batch size is one in any case.

        Raises:
            ValueError: if the search has no complete trial.
        """
        # What has won is confirmed as it was trained, in no more parts.
        search = dataclasses.replace(searched.space.search, accumulate=False)
        super().__init__(dataclasses.replace(searched.space, search=search))
        self.finalists = finalists(searched, top=top, seeds=seeds)
        self.compared_by = searched.criterion
        self.cells = {finalist.cell.name: finalist for finalist in self.finalists}

    def keepers(self, count: int) -> list[TrialResult]:
        """All of them: which configuration meets the test split is known when the last training has ended."""
        return self.top(self.planned)


def finalists(searched: Study, *, top: int, seeds: int) -> list[Finalist]:
    """The best trial of each of the best `top` cells, and as a baseline that of the smallest batch size."""
    ranking = searched.ranking()
    if not ranking:
        raise ValueError("there must be a complete trial to verify, but this study has none. Search first.")
    smallest = min(trial.train.batch_size for trial, _ in ranking)
    baseline = next(trial.number for trial, _ in ranking if trial.train.batch_size == smallest)
    criterion = searched.criterion
    chosen = [*ranking[:top], *(pair for pair in ranking[top:] if pair[0].number == baseline)]
    return [
        Finalist(
            space=searched.space,
            cell=dataclasses.replace(searched.cells[trial.cell].cell, name=f"{trial.cell}@{trial.number}", ranges={}),
            proposed=trial,
            search_value=_known(result.value),
            baseline=trial.number == baseline,
            seeds=seeds,
            criterion=criterion,
        )
        for trial, result in chosen
    ]


def on_test_split(
    verification: Verification, chosen: str, executor: Executor, *, earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The chosen configuration on the test split: all its seeds, at the end of their trainings.

    Nothing of it enters the choice. What `earlier` has of the same configuration is what comes back.

    Returns:
        `name`, `metrics` (name to mean, sd and values), `reason` (why there are none, or None), and in `before` the
        other configurations that the test split was used for earlier.
    """
    if is_tested(chosen, earlier):
        assert earlier is not None, "what is tested has been so earlier"
        return dict(earlier)
    finalist = verification.cells[chosen]
    results = [(trial, finalist.results[trial.index]) for trial in finalist.ended()]
    found = executor.calls(
        TEST,
        [
            {"config": trial.train.to_json(), "checkpoint": result.checkpoint, "sha256": result.sha256}
            for trial, result in results
            if result.status == "COMPLETE"
        ],
    )
    used = [*earlier["before"], earlier["name"]] if earlier and earlier["metrics"] else []
    reasons = [one["reason"] for one in found if one["reason"]]
    logged: dict[str, list[float]] = defaultdict(list)
    for one in found:
        for name, value in one["metrics"].items():
            logged[name].append(value)
    return {
        "name": chosen,
        "metrics": {
            name: {"mean": statistics.fmean(values), "sd": deviation(values), "values": values}
            for name, values in logged.items()
        },
        "reason": reasons[0] if reasons else None,
        "before": [name for name in dict.fromkeys(used) if name != chosen],
    }


def is_tested(chosen: str, earlier: Mapping[str, Any] | None) -> bool:
    """Whether the test split has been used for this configuration last."""
    return bool(earlier) and earlier["name"] == chosen and bool(earlier["metrics"])  # type: ignore[index]


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


def _known(value: float | None) -> float:
    assert value is not None, "only complete trials are ranked"
    return value
