"""The best configurations on fresh seeds: who takes part, what is trained, what is said of it, and the test split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from search_parts import ONE_TO_NINE, changed, result_of, space

from models.segment import Segment
from search.executors import SerialExecutor
from search.failure import SearchFailed
from search.gains import Gains
from search.race import Race
from search.resuming import restore
from search.space import SearchSpace
from search.standings import Outcome, judge
from search.study import Study
from search.trial import TrialConfig, recorded
from search.verification import Verification, on_test_split
from tracking.ledger import Ledger

AT_ONCE = "search_parts.at_once"
STEPS = {"64-sgd": 0.001, "256-sgd": 0.001}


def never() -> bool:
    return False


def after(calls: int) -> Callable[[], bool]:
    looks = iter(range(calls))
    return lambda: next(looks, None) is None


def searched(made: SearchSpace, values: Mapping[str, float] | None = None) -> Study:
    """A search that is over; the first trial of a cell may have a value of its own."""
    study = Study(made)
    while (trial := study.ask()) is not None:
        own = (values or {}).get(trial.cell) if trial.index == 0 else 9.0 + trial.number
        study.tell(trial, result_of(trial, own))
    return study


FOUR = {"b64-sgd-constant": 0.4, "b64-sgd-cosine": 0.3, "b256-sgd-constant": 0.2, "b256-sgd-cosine": 0.1}


@pytest.mark.parametrize(
    ("top", "names"),
    [
        (1, ["b256-sgd-cosine@3", "b64-sgd-cosine@1"]),
        (2, ["b256-sgd-cosine@3", "b256-sgd-constant@2", "b64-sgd-cosine@1"]),
        (3, ["b256-sgd-cosine@3", "b256-sgd-constant@2", "b64-sgd-cosine@1"]),
        (9, ["b256-sgd-cosine@3", "b256-sgd-constant@2", "b64-sgd-cosine@1", "b64-sgd-constant@0"]),
    ],
)
def test_finalists_are_the_best_of_the_best_cells_and_of_the_smallest_batch_size(top: int, names: list[str]) -> None:
    verification = Verification(searched(space(), FOUR), top=top)
    assert list(verification.cells) == names
    assert [one.cell.name for one in verification.finalists if one.baseline] == ["b64-sgd-cosine@1"]


def test_a_study_without_a_complete_trial_has_nothing_to_verify() -> None:
    study = Study(space())
    trial = study.ask()
    assert trial is not None
    study.tell(trial, result_of(trial, status="DIVERGED"))
    with pytest.raises(ValueError, match=r"a complete trial to verify, but this study has none\."):
        Verification(study)


def asked(verification: Verification) -> list[TrialConfig]:
    found: list[TrialConfig] = []
    while (trial := verification.ask()) is not None:
        found.append(trial)
    return found


def test_all_seed_sources_are_new_and_the_same_for_every_configuration() -> None:
    search = searched(space(), FOUR)
    verification = Verification(search, top=4, seeds=3)
    trials = asked(verification)
    seeds = {(t.index, t.train.seed_init, t.train.seed_order, t.train.seed_dropout) for t in trials}
    assert len(trials) == 12 and len(seeds) == 3
    fresh = {seed for _, *of_trial in seeds for seed in of_trial}
    known = {s for t in search.trials() for s in (t.train.seed_init, t.train.seed_order, t.train.seed_dropout)}
    assert len(fresh) == 9 and not fresh & known


def test_a_trial_of_it_is_the_configuration_that_won_but_for_its_seeds() -> None:
    search = searched(space(), FOUR)
    won = next(trial for trial in search.trials() if trial.number == 3)
    trial = asked(Verification(search, top=1, seeds=2))[0]
    assert (trial.cell, trial.index, trial.phase, trial.number) == ("b256-sgd-cosine@3", 0, "confirm", 0)
    assert trial.params == {**won.params, "verify_seed": 0}
    seeds = dict.fromkeys(("seed_init", "seed_order", "seed_dropout"), 0)
    assert {**trial.train.to_json(), **seeds} == {**won.train.to_json(), **seeds}


# In the ledger of the search


@contextmanager
def verifying(
    folder: Path, made: SearchSpace, *, top: int = 3, seeds: int = 2, function: str = AT_ONCE
) -> Iterator[tuple[Race, SerialExecutor]]:
    """The verification of a search that is over; the search is raced first if there is none."""
    with Ledger.open(folder, create=True) as ledger:
        study = Study(made)
        search = Race(study, ledger, str(folder / "checkpoints"))
        restore(search)
        search.run(SerialExecutor(function), stopping=never, watch=lambda _: None)
        race = Race(Verification(study, top=top, seeds=seeds), ledger, str(folder / "verification"))
        restore(race)
        yield race, SerialExecutor(function)


def run(race: Race, executor: SerialExecutor, *, stopping: Callable[[], bool] = never) -> None:
    race.run(executor, stopping=stopping, watch=lambda _: None)


def rows(folder: Path) -> list[dict[str, Any]]:
    with Ledger.open(folder, create=False) as ledger:
        return ledger.trials()


def confirmed(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder) if row["config"]["phase"] == "confirm"]


def test_its_trials_are_numbered_on_in_the_ledger_of_the_study(tmp_path: Path) -> None:
    with verifying(tmp_path, space()) as (race, executor):
        run(race, executor)
        assert race.is_over
    found = confirmed(tmp_path)
    assert [row["number"] for row in found] == list(range(24, 30))
    assert Counter(row["cell"] for row in found) == Counter({row["cell"]: 2 for row in found})
    assert {row["status"] for row in found} == {"COMPLETE"}


class Packs(SerialExecutor):
    """Notes how many are submitted together."""

    def __init__(self) -> None:
        super().__init__(AT_ONCE)
        self.packs: list[int] = []

    def submit(self, segments: Sequence[Segment]) -> None:
        self.packs.append(len(segments))
        super().submit(segments)


@pytest.mark.parametrize("stopped_after", [1, 2, 4])
def test_a_stopped_one_goes_on_and_trains_nothing_twice(tmp_path: Path, stopped_after: int) -> None:
    trained = []
    for stops in (stopped_after, 10**6, 10**6):
        with verifying(tmp_path, space()) as (race, _):
            run(race, executor := Packs(), stopping=after(stops))
            trained.append(sum(executor.packs))
            assert race.is_over == (stops > stopped_after)
    assert 0 < trained[0] < 6 and trained[1:] == [6 - trained[0], 0]
    with verifying(tmp_path / "whole", space()) as (race, _):
        run(race, Packs())
    assert [row["config"] for row in rows(tmp_path)] == [row["config"] for row in rows(tmp_path / "whole")]


def test_more_seeds_add_only_the_new_ones(tmp_path: Path) -> None:
    for seeds, trials in ((2, 6), (5, 15), (3, 15)):
        before = rows(tmp_path)[:] if (tmp_path / "study.db").exists() else []
        with verifying(tmp_path, space(), seeds=seeds) as (race, executor):
            run(race, executor)
            assert race.study.planned == trials
        assert len(confirmed(tmp_path)) == trials
        assert rows(tmp_path)[: len(before)] == before


def test_the_search_never_takes_them_for_its_own(tmp_path: Path) -> None:
    few, many = space(trials=2, learning_rate=ONE_TO_NINE), space(trials=4, learning_rate=ONE_TO_NINE)
    with verifying(tmp_path / "verified", few) as (race, executor):
        run(race, executor)
    for name in ("verified", "plain"):
        for made in (few, many):
            with verifying(tmp_path / name, made) as (race, _):
                assert len(race.study.cells) == 3
    own = {name: [row["config"] for row in rows(tmp_path / name)] for name in ("verified", "plain")}
    own = {name: [c | {"number": 0} for c in configs if c["phase"] != "confirm"] for name, configs in own.items()}
    assert own["verified"] == own["plain"]
    numbers = [row["number"] for row in rows(tmp_path / "verified")]
    assert numbers == list(range(len(numbers)))
    study = Study(many)
    study.restore(recorded(rows(tmp_path / "verified")))
    assert study.is_over and {trial.phase for trial in study.trials()} == {"explore", "refine"}


def test_finalists_of_one_batch_size_train_side_by_side(tmp_path: Path) -> None:
    made = space(batch_sizes=(64,))
    with verifying(tmp_path, made, seeds=4) as (race, _):
        race.gains = Gains(widths={(64, "sgd"): 8})
        run(race, packs := Packs())
    assert packs.packs == [8]


def test_all_checkpoints_are_kept_until_the_choice_is_made(tmp_path: Path) -> None:
    made = space(batch_sizes=(256,), trials=1, refine=0, keep_checkpoints=1)
    with verifying(tmp_path, made, seeds=3, function="models.train.train_segment") as (race, executor):
        run(race, executor)
    kept = {row["result"]["checkpoint"] for row in confirmed(tmp_path)}
    assert {str(path) for path in (tmp_path / "verification").iterdir()} == kept and len(kept) == 6


# The verdict


def outcome(
    values: Mapping[str, Sequence[float | None]],
    *,
    steps: Mapping[str, int] | None = None,
    step_seconds: Mapping[str, float] = STEPS,
    tags: Mapping[str, str] | None = None,
    **metrics: Any,
) -> Outcome:
    """Of made-up values by cell, None: it failed; the search had measured 0 for all."""
    made = space(metrics=metrics, trials=1, refine=0)
    worst = -1e3 if metrics.get("direction") == "max" else 1e3
    verification = Verification(searched(made, {name: 0.0 if name in values else worst for name in FOUR}))
    verification.finalists = [one for one in verification.finalists if one.proposed.cell in values]
    verification.cells = {one.cell.name: one for one in verification.finalists}
    for finalist in verification.finalists:
        finalist.seeds = len(values[finalist.proposed.cell])
    asked(verification)
    for finalist in verification.finalists:
        cell = finalist.proposed.cell
        for trial, value in zip(finalist.asked, values[cell], strict=True):
            status = "FAILED" if value is None else "COMPLETE" if math.isfinite(value) else "DIVERGED"
            length = (steps or {}).get(cell, 100)
            fields = {"status": status, "steps": length, "examples": length * finalist.cell.batch_size}
            known = {"tier": "array", "time_mode": "array"} if tags is None else tags
            finalist.results[trial.index] = result_of(trial, value, tags=known, seconds=5.0, **fields)
    return judge(verification, step_seconds=step_seconds, searched=4)


A, B, C = "b64-sgd-constant", "b64-sgd-cosine", "b256-sgd-constant"
NEAR = {A: [0.10, 0.11, 0.12, 0.13, 0.14], B: [0.101, 0.111, 0.121, 0.131, 0.141]}
FAR = {A: [0.10, 0.11, 0.12, 0.13, 0.14], B: [0.50, 0.51, 0.52, 0.53, 0.54]}


def cell_of(name: str) -> str:
    return name.partition("@")[0]


def test_a_clear_difference_is_called_better_and_the_best_is_chosen_whatever_it_costs() -> None:
    found = outcome(FAR, steps={A: 1000, B: 10})
    best, other = found.finalists
    assert cell_of(best.name) == A == cell_of(found.chosen)
    assert (best.outcome, other.outcome) == ("best", "better")
    assert best.difference is None and other.difference == pytest.approx(-0.4)
    assert other.low is not None and other.high is not None and other.low < -0.4 < other.high < 0
    assert other.p_better == 1.0
    assert f"{best.name} is better than {other.name}." in found.sentences


@pytest.mark.parametrize(("steps", "chosen"), [({A: 100, B: 50}, B), ({A: 100, B: 100}, A), ({A: 50, B: 100}, A)])
def test_ties_go_to_the_cheaper(steps: dict[str, int], chosen: str) -> None:
    found = outcome(NEAR, steps=steps)
    assert cell_of(found.finalists[0].name) == A
    assert found.finalists[1].outcome in ("equivalent", "no detectable difference")
    assert cell_of(found.chosen) == chosen
    cheaper = [
        sentence for sentence in found.sentences if "costs less, 0.05 s of training instead of 0.1 s." in sentence
    ]
    assert bool(cheaper) == (chosen == B)


@pytest.mark.parametrize(
    ("tags", "unit", "costs"),
    [
        ({"tier": "array", "time_mode": "array"}, "examples", {A: 6400.0, C: 5120.0}),
        ({"tier": "array", "time_mode": "steps x step time alone"}, "seconds", {A: 0.1, C: 5.0}),
        ({"tier": "solo", "time_mode": "measured"}, "seconds", {A: 0.1, C: 5.0}),
    ],
)
def test_costs_are_examples_where_no_training_alone_was_timed(
    tags: dict[str, str], unit: str, costs: dict[str, float]
) -> None:
    found = outcome({A: NEAR[A], C: NEAR[B]}, step_seconds={"64-sgd": 0.001}, steps={A: 100, C: 20}, tags=tags)
    assert {one.cost_unit for one in found.finalists} == {unit}
    assert {cell_of(one.name): one.cost for one in found.finalists} == pytest.approx(costs)


def test_a_large_metric_may_be_the_good_one() -> None:
    found = outcome(FAR, direction="max", objective="val_accuracy")
    assert cell_of(found.chosen) == B and found.finalists[1].outcome == "better"
    # It was 0 in the search: on fresh seeds it is larger, that is better, and nothing was luck.
    assert not [sentence for sentence in found.sentences if "luckiest" in sentence]


def test_what_the_search_promised_too_much_is_told() -> None:
    found = outcome(FAR)
    assert found.choice.regression == pytest.approx(-0.12)
    assert "0.12 better than its mean on fresh seeds" in found.sentences[-1]


def test_what_diverged_more_often_than_the_best_is_no_tie() -> None:
    found = outcome({A: NEAR[A], B: [*NEAR[B][:4], math.inf]}, steps={A: 1000, B: 10})
    other = found.finalists[1]
    assert other.outcome != "better" and other.diverged == 1
    assert other.mean == pytest.approx(0.116) and other.values[-1] == math.inf
    assert cell_of(found.chosen) == A


def test_a_training_that_failed_is_left_out_and_counted() -> None:
    found = outcome({A: [*NEAR[A], None], B: [None] * 6})
    best, other = found.finalists
    assert (len(best.values), best.failed, best.diverged) == (5, 1, 0)
    assert (other.outcome, other.mean, other.failed) == ("no result", None, 6)
    assert f"There is no result of {other.name}." in found.sentences


def test_without_any_value_there_is_no_verdict() -> None:
    with pytest.raises(SearchFailed, match="no training on a fresh seed came to a value"):
        outcome({A: [math.inf, math.inf], B: [None, None]})


def test_one_finalist_alone_is_used() -> None:
    found = outcome({A: NEAR[A]})
    assert cell_of(found.chosen) == A
    assert found.sentences[0].endswith("is 0.12 (SD 0.016). There is no other cell to compare it with.")


# The test split


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Verification:
    """Real trainings, all ended."""
    folder = tmp_path_factory.mktemp("verified")
    made = space(batch_sizes=(256,), trials=1, refine=0)
    with verifying(folder, made, seeds=2, function="models.train.train_segment") as (race, executor):
        run(race, executor)
        assert isinstance(race.study, Verification)
        return race.study


class Counting(SerialExecutor):
    """Counts the trainings that meet the test split."""

    def __init__(self) -> None:
        super().__init__()
        self.called = 0

    def calls(self, function: str, payloads: Sequence[Any]) -> list[Any]:
        self.called += len(payloads)
        return super().calls(function, payloads)


def test_the_test_split_is_for_the_choice_alone_and_once(verified: Verification) -> None:
    first, second = verified.cells
    executor = Counting()
    found = on_test_split(verified, first, executor, earlier=None)
    assert executor.called == 2 and found["reason"] is None and found["before"] == []
    assert found["metrics"].keys() == {"test_loss", "test_accuracy"}
    loss = found["metrics"]["test_loss"]
    assert loss["mean"] == pytest.approx(sum(loss["values"]) / 2) and len(set(loss["values"])) == 2 and loss["sd"] > 0
    assert on_test_split(verified, first, executor, earlier=found) == found and executor.called == 2
    again = on_test_split(verified, second, executor, earlier=found)
    assert executor.called == 4 and again["name"] == second and again["before"] == [first]
    back = on_test_split(verified, first, executor, earlier=again)
    assert back["before"] == [second] and back["metrics"] == found["metrics"]


def test_without_a_test_split_there_is_a_reason(verified: Verification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.verification.TEST", f"{__name__}.refuses")
    found = on_test_split(verified, next(iter(verified.cells)), SerialExecutor(), earlier=None)
    assert (found["metrics"], found["reason"]) == ({}, "Data has no `test_dataloader`")


def refuses(_: Any) -> dict[str, Any]:
    return {"metrics": {}, "reason": "Data has no `test_dataloader`"}


def test_more_trials_of_the_search_change_the_finalists_and_leave_what_was_trained(tmp_path: Path) -> None:
    made = space(trials=1, refine=0)
    with verifying(tmp_path, made, top=1) as (race, executor):
        run(race, executor)
    before = {row["cell"] for row in confirmed(tmp_path)}
    with verifying(tmp_path, changed(made, trials=8), top=1) as (race, executor):
        run(race, executor)
        now = set(race.study.cells)
    assert {row["cell"] for row in confirmed(tmp_path)} == before | now
