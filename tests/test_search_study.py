"""Studies: what is asked depends on the recipe and the set of results alone, stays balanced, and never comes twice."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import qmc
from search_parts import ONE_TO_NINE, bowl, changed, result_of, space

from search.config import RangeConfig
from search.proposals import quasi_random
from search.space import SearchSpace
from search.study import Study
from search.trial import TrialConfig, TrialResult

Judge = Callable[[TrialConfig], TrialResult]


def run(study: Study, *, outstanding: int = 1, seed: int = 0, judge: Judge = result_of, most: int = 10**6) -> Study:
    """Ask and tell with so many trials under way, results coming back in any order."""
    shuffle = random.Random(seed)
    waiting: list[TrialConfig] = []
    for _ in range(most):
        while len(waiting) < outstanding and (trial := study.ask()) is not None:
            waiting.append(trial)
        if not waiting:
            break
        done = waiting.pop(shuffle.randrange(len(waiting)))
        study.tell(done, judge(done))
    return study


def asked(study: Study) -> dict[str, list[tuple[str, dict[str, Any], Any]]]:
    """Everything asked, by cell: phase, parameters and training."""
    return {
        name: [(trial.phase, dict(trial.params), trial.train) for trial in cell.asked]
        for name, cell in study.cells.items()
    }


def rebuilt(study: Study, made: SearchSpace) -> Study:
    """The study as a ledger would give it back."""
    new = Study(made)
    results = {trial.number: cell.results.get(trial.index) for cell in study.cells.values() for trial in cell.asked}
    new.restore(
        (
            TrialConfig.from_json(json.loads(json.dumps(trial.to_json()))),
            TrialResult.from_json(json.loads(json.dumps(result.to_json())))
            if (result := results[trial.number])
            else None,
        )
        for trial in study.trials()
    )
    return new


COUNTS: list[tuple[Any, Any, Any, int, int]] = [
    # batch sizes, optimizers, schedules, trials, refine
    ((64,), {"sgd": {}}, {"constant": {}}, 1, 0),
    ((16, 64), {"sgd": {}}, {"constant": {}, "cosine": {}}, 12, 2),
    ((16, 64, 256), {"sgd": {}, "adamw": {}}, {"constant": {}, "cosine": {}}, 3, 1),
]


@pytest.mark.parametrize(("sizes", "optimizers", "schedules", "trials", "refine"), COUNTS)
def test_every_cell_gets_its_trials_and_no_more(
    sizes: Any, optimizers: Any, schedules: Any, trials: int, refine: int
) -> None:
    made = space(batch_sizes=sizes, optimizers=optimizers, schedules=schedules, trials=trials, refine=refine)
    study = Study(made)
    cells = len(sizes) * len(optimizers) * len(schedules)
    assert study.planned == cells * (trials + refine)
    run(study, outstanding=3)
    assert study.planned == len(study.trials()) == cells * (trials + refine)
    for cell in study.cells.values():
        assert Counter(t.phase for t in cell.asked) == Counter({"explore": trials, "refine": refine})
        assert [trial.index for trial in cell.asked] == list(range(trials + refine))
    assert [trial.number for trial in study.trials()] == list(range(cells * (trials + refine)))


@pytest.mark.parametrize("stopped_after", range(1, 25))
def test_a_search_is_balanced_whenever_it_is_stopped(stopped_after: int) -> None:
    study = Study(space(batch_sizes=(16, 64), trials=4, refine=2))
    asked_each = Counter(trial.cell for _ in range(stopped_after) if (trial := _next(study)) is not None)
    assert max(asked_each.values()) - min(asked_each[name] for name in study.cells) <= 1


def _next(study: Study) -> TrialConfig | None:
    trial = study.ask()
    if trial is not None:
        study.tell(trial, result_of(trial))
    return trial


@pytest.mark.parametrize("outstanding", [2, 4, 16])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_asked_does_not_depend_on_workers_or_on_the_order_of_results(outstanding: int, seed: int) -> None:
    made = space(trials=6, refine=3, extend=True, learning_rate=ONE_TO_NINE)

    def judge(trial: TrialConfig) -> TrialResult:
        # The best lies at the lower edge in one cell, and one trial in each diverges.
        best = 1e-4 if trial.cell == "b64-sgd-cosine" else 0.03
        if trial.index == 2:
            return result_of(trial, status="DIVERGED", value=None)
        return result_of(trial, bowl(trial, best=best))

    alone = run(Study(made), judge=judge)
    many = run(Study(made), judge=judge, outstanding=outstanding, seed=seed)
    assert asked(many) == asked(alone)
    assert {trial.phase for trial in many.trials()} == {"explore", "extend", "refine"}


def test_refining_waits_for_every_quasi_random_result_of_its_cell() -> None:
    study = Study(space(batch_sizes=(64,), schedules={"constant": {}}, trials=3, refine=2))
    trials = [study.ask() for _ in range(4)]
    first = [trial for trial in trials if trial is not None]
    assert [trial.phase for trial in first] == ["explore"] * 3
    for trial in reversed(first):
        assert study.ask() is None
        study.tell(trial, result_of(trial))
    refining = study.ask()
    assert refining is not None and refining.phase == "refine"


def test_refining_looks_around_the_best() -> None:
    study = run(Study(space(batch_sizes=(64,), trials=12, refine=8, learning_rate=ONE_TO_NINE)))
    near = {phase: [bowl(t) for t in study.trials() if t.phase == phase] for phase in ("explore", "refine")}
    assert np.median(near["refine"]) < np.median(near["explore"])


@pytest.mark.parametrize("stopped_after", [1, 5, 7, 9, 12, 14])
def test_a_study_rebuilt_from_rows_goes_on_as_the_original(stopped_after: int) -> None:
    made = space(trials=4, refine=3, batch_sizes=(64,), extend=True, learning_rate=ONE_TO_NINE)

    def judge(trial: TrialConfig) -> TrialResult:
        return result_of(trial, bowl(trial, best=1e-4))

    original = run(Study(made), judge=judge, outstanding=2, most=stopped_after)
    copy = rebuilt(original, made)
    for study in (original, copy):
        for trial in study.trials():
            if trial.index not in study.cells[trial.cell].results:
                study.tell(trial, judge(trial))
    assert asked(run(copy, judge=judge)) == asked(run(original, judge=judge))


EDGES = [(1e-5, "low"), (100.0, "high")]


@pytest.mark.parametrize(("best", "edge"), EDGES)
def test_a_best_at_the_edge_extends_the_range_once(best: float, edge: str) -> None:
    made = space(
        batch_sizes=(64,), schedules={"constant": {}}, trials=24, refine=2, extend=True, learning_rate=ONE_TO_NINE
    )
    study = run(Study(made), judge=lambda trial: result_of(trial, bowl(trial, best=best)))
    phases = Counter(trial.phase for trial in study.trials())
    assert phases == Counter({"explore": 24, "extend": 6, "refine": 2})
    assert study.planned == 32
    outside = [trial.params["learning_rate"] for trial in study.trials() if trial.phase == "extend"]
    assert all(rate < 1e-3 if edge == "low" else rate > 1.0 for rate in outside)
    (cell,) = study.cells.values()
    reach = 1000**0.25
    widened = cell.ranges()["learning_rate"]
    assert widened.low == pytest.approx(1e-3 / reach if edge == "low" else 1e-3, rel=5e-3)
    assert widened.high == pytest.approx(reach if edge == "high" else 1.0, rel=5e-3)


def test_a_best_inside_extends_nothing() -> None:
    made = space(batch_sizes=(64,), trials=8, extend=True, learning_rate=ONE_TO_NINE)
    assert "extend" not in {trial.phase for trial in run(Study(made)).trials()}


@pytest.mark.parametrize("best", [1e-5, 0.03])
def test_raising_the_number_of_trials_adds_and_never_repeats(best: float) -> None:
    made = space(batch_sizes=(64,), trials=3, refine=2, extend=True, learning_rate=ONE_TO_NINE)

    def judge(trial: TrialConfig) -> TrialResult:
        return result_of(trial, bowl(trial, best=best))

    before = run(Study(made), judge=judge)
    for trials, refine in ((8, 2), (8, 4), (16, 6)):
        larger = changed(made, trials=trials, refine=refine)
        after = run(rebuilt(before, larger), judge=judge)
        for name, cell in after.cells.items():
            rates = [trial.params["learning_rate"] for trial in cell.asked]
            assert len(set(rates)) == len(rates)
            assert rates[: len(before.cells[name].asked)] == [
                t.params["learning_rate"] for t in before.cells[name].asked
            ]
            counts = Counter(trial.phase for trial in cell.asked)
            assert (counts["explore"], counts["refine"]) == (trials, refine)
            assert after.planned == len(after.trials())
        before = after


def test_the_longer_sequence_begins_with_the_shorter_one() -> None:
    ranges = {"a": RangeConfig(low=0.0, high=1.0), "b": RangeConfig(low=1, high=8), "c": RangeConfig(values=["x", "y"])}
    long = quasi_random(ranges, count=40, seed=7)
    for count in (1, 2, 3, 7, 12, 39):
        assert quasi_random(ranges, count=count, seed=7) == long[:count]
    assert quasi_random(ranges, count=5, seed=8) != long[:5]


def test_quasi_random_points_are_spread_more_evenly_than_random_ones() -> None:
    ranges = {name: RangeConfig(low=0.0, high=1.0) for name in "ab"}
    for count in (8, 12, 32):
        ours = [
            qmc.discrepancy(np.array([[p["a"], p["b"]] for p in quasi_random(ranges, count=count, seed=seed)]))
            for seed in range(20)
        ]
        independent = [qmc.discrepancy(np.random.default_rng(seed).random((count, 2))) for seed in range(20)]
        assert max(ours) < np.median(independent)
        assert np.mean(ours) < 0.6 * np.mean(independent)


SMALL: list[tuple[dict[str, Any], int]] = [
    ({"model.init_args.width": {"values": [1, 2, 3]}}, 3),
    ({"model.init_args.width": {"low": 1, "high": 6}}, 6),
    ({"model.init_args.width": {"values": [1, 2]}, "data.init_args.flip": {"values": [True, False]}}, 4),
    ({}, 1),
]


@pytest.mark.parametrize(("parameters", "size"), SMALL, ids=[str(size) for _, size in SMALL])
@pytest.mark.parametrize(("trials", "refine"), [(2, 1), (3, 2), (8, 4)])
def test_a_small_space_is_never_searched_twice(parameters: dict[str, Any], size: int, trials: int, refine: int) -> None:
    made = space(
        batch_sizes=(64,), optimizers={"own": {}}, schedules={"constant": {}}, trials=trials, refine=refine,
        parameters=parameters,
    )  # fmt: skip
    study = run(Study(made), outstanding=2)
    for _ in range(2):
        points = [json.dumps(dict(trial.params)) for trial in study.trials()]
        assert len(set(points)) == len(points)
        assert len(points) == min(size, trials + refine) == study.planned
        # Once more with more trials: what is left of the space, and then nothing.
        trials, refine = trials + 8, refine + 4
        study = run(rebuilt(study, changed(made, trials=trials, refine=refine)), outstanding=2)


def test_what_refining_found_is_not_explored_again_when_trials_are_raised() -> None:
    made = space(
        batch_sizes=(64,), optimizers={"own": {}}, schedules={"constant": {}}, trials=4, refine=4,
        parameters={"model.init_args.width": {"low": 1, "high": 30}},
    )  # fmt: skip

    def judge(trial: TrialConfig) -> TrialResult:
        return result_of(trial, abs(trial.params["model.init_args.width"] - 7.2))

    study = run(rebuilt(run(Study(made), judge=judge), changed(made, trials=20)), judge=judge)
    widths = [trial.params["model.init_args.width"] for trial in study.trials()]
    assert len(widths) == len(set(widths)) == 24


def test_a_large_objective_can_be_the_best() -> None:
    made = space(batch_sizes=(64,), trials=6, refine=2, metrics={"direction": "max"}, learning_rate=ONE_TO_NINE)
    study = run(Study(made), judge=lambda trial: result_of(trial, -bowl(trial)))
    values = [result.value for cell in study.cells.values() for result in cell.results.values() if result.value]
    assert study.ranking()[0][1].value == study.top(1)[0].value == max(values)
    upside_down = run(Study(space(batch_sizes=(64,), trials=6, refine=2, learning_rate=ONE_TO_NINE)))
    # Judged by the mirrored objective, the same is asked, refining included.
    assert [trial.params for trial in study.trials()] == [trial.params for trial in upside_down.trials()]


STATES = [
    ("COMPLETE", 1.5, TrialState.COMPLETE),
    ("DIVERGED", 1e9, TrialState.PRUNED),
    ("DIVERGED", None, TrialState.PRUNED),
    ("PRUNED", 2.0, TrialState.PRUNED),
    ("FAILED", None, TrialState.FAIL),
    ("TIMEOUT", 3.0, TrialState.FAIL),
    ("OOM", None, TrialState.PRUNED),
]


@pytest.mark.parametrize(("status", "value", "state"), STATES)
def test_optuna_is_given_a_value_only_by_a_complete_trial(status: Any, value: float | None, state: TrialState) -> None:
    study = Study(space(batch_sizes=(64,), schedules={"constant": {}}))
    trial = study.ask()
    assert trial is not None
    study.tell(trial, TrialResult(number=trial.number, status=status, value=value))
    (told,) = study.cells[trial.cell].frozen()
    assert told.state is state
    assert told.value == (value if state is TrialState.COMPLETE else None)
    assert told.intermediate_values == {}
    optuna.create_study().add_trial(told)


def test_a_cell_in_which_everything_diverges_is_refined_and_ranked_all_the_same() -> None:
    study = run(Study(space(batch_sizes=(64,))), judge=lambda trial: result_of(trial, status="DIVERGED", value=None))
    assert len(study.trials()) == study.planned == 12
    assert not study.ranking() and not study.top(3)


def test_out_of_memory_closes_its_batch_size_and_all_larger_ones() -> None:
    made = space(batch_sizes=(16, 64, 256), schedules={"constant": {}}, trials=4, refine=1)

    def judge(trial: TrialConfig) -> TrialResult:
        return result_of(trial, status="OOM" if trial.train.batch_size >= 64 else "COMPLETE")

    study = run(Study(made), judge=judge)
    assert {name: len(cell.asked) for name, cell in study.cells.items()} == {
        "b16-sgd-constant": 5,
        "b64-sgd-constant": 1,
        "b256-sgd-constant": 0,
    }
    assert study.planned == 6
    assert [cell.closed for cell in rebuilt(study, made).cells.values()] == [False, True, True]


def test_ties_go_to_the_earlier_trial() -> None:
    study = run(Study(space(trials=3, refine=0)), judge=lambda trial: result_of(trial, 1.0), outstanding=5, seed=3)
    assert [trial.number for trial, _ in study.ranking()] == [0, 1, 2, 3]
    assert [result.number for result in study.top(5)] == [0, 1, 2, 3, 4]


def test_the_ranking_has_the_best_of_each_cell_and_the_top_the_best_of_all() -> None:
    study = Study(space(batch_sizes=(64,), trials=3, refine=0))
    values = iter([3.0, 9.0, 1.0, 8.0, 2.0, None])
    run(study, judge=lambda trial: result_of(trial, v) if (v := next(values)) else result_of(trial, status="FAILED"))
    assert [(trial.cell, result.value) for trial, result in study.ranking()] == [
        ("b64-sgd-constant", 1.0),
        ("b64-sgd-cosine", 8.0),
    ]
    assert [result.value for result in study.top(3)] == [1.0, 2.0, 3.0]


def test_cells_that_the_recipe_no_longer_has_are_left_alone() -> None:
    both = run(Study(space(trials=2, refine=0)))
    one = rebuilt(both, space(trials=2, refine=0, batch_sizes=(64,)))
    assert list(one.cells) == ["b64-sgd-constant", "b64-sgd-cosine"]
    assert one.ask() is None
    more = rebuilt(both, space(trials=3, refine=0, batch_sizes=(64,))).ask()
    assert more is not None and more.number == 8
