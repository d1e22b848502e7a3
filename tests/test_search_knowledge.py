"""What a search takes over from earlier studies: results where they count, the best where not, and the law of rates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from search_parts import result_of, space
from test_search_tuning import loss, raced, tuned

from pipelines.knowledge import knowledge_of
from pipelines.recipe import load_recipe
from pipelines.session import bounds, opened, recalled, space_of
from search.earlier import earlier
from search.knowledge import Knowledge
from search.measured import measured
from search.objectives import study_of
from search.space import SearchSpace
from search.trial import TrialConfig
from search.tuning import TuneStudy
from tracking.ledger import Ledger


def kept(folder: Path, made: SearchSpace, value: Callable[[TrialConfig], float] = loss) -> Path:
    """A study's folder, all its trials complete, whatever its sampler from a sequence."""
    study = study_of(replace(made, search=replace(made.search, sampler="qmc")))
    with Ledger.open(folder, create=True) as ledger:
        while trials := study.ask_together(lambda _: 1):
            ledger.ask([trial.to_json() for trial in trials])
            for trial in trials:
                result = result_of(trial, value(trial))
                study.tell(trial, result)
                ledger.finish(result.to_json())
        parts = {name: asdict(getattr(made, name)) for name in ("model", "data", "training", "metrics", "search")}
        ledger.set_meta("space", json.loads(json.dumps(parts)))
        ledger.set_meta("metrics", parts["metrics"])
        ledger.set_meta("bounds", bounds(made))
    return folder


# Results of an earlier study


def test_results_of_the_same_training_are_known_to_the_sampler_and_no_trials_of_this_study(tmp_path: Path) -> None:
    known = earlier(tuned(), kept(tmp_path / "old", tuned(trials=30)))
    assert len(known.results) == 30 and not known.best
    assert known.said == ["from old: results of 30 of its 30 complete trials, which lie in this space"]
    study = TuneStudy(replace(tuned(trials=20), knowledge=Knowledge(**json.loads(json.dumps(asdict(known))))))
    first = study.ask()
    # It knows enough: no quasi-random trials come before the sampler's.
    assert first is not None and first.phase == "propose" and first.number == 0
    assert [trial.number for trial in study.trials()] == [0] and study.planned == 20
    assert sum(1 for _ in study._known()) == 31


def test_of_a_larger_space_the_trials_count_that_lie_in_this_one(tmp_path: Path) -> None:
    small = tuned(batch_sizes=(32, 64), schedules={"cosine": {"final": {"low": 0.0, "high": 0.1}}})
    folder = kept(tmp_path / "large", tuned(trials=60))
    known = earlier(small, folder)
    assert 0 < len(known.results) < 60
    for result in known.results:
        assert result["point"]["batch_size"] in (0, 1) and 0.0 <= result["point"]["cosine.final"] <= 0.1


def test_a_default_that_was_not_written_lies_in_the_range_of_the_argument(tmp_path: Path) -> None:
    folder = kept(tmp_path / "old", tuned(trials=6))
    searched = tuned(optimizers={"sgd": {"momentum": {"values": [0.0, 0.9]}}})
    assert {result["point"]["sgd.momentum"] for result in earlier(searched, folder).results} <= {0.0, 0.9}


def test_what_is_told_helps_from_the_first_trial_on(tmp_path: Path) -> None:
    knowledge = earlier(tuned(), kept(tmp_path / "old", tuned(trials=48)))
    told, alone = (raced(TuneStudy(replace(tuned(), knowledge=known)), count=8) for known in (knowledge, Knowledge()))
    assert sum(loss(trial) for trial in told) < sum(loss(trial) for trial in alone) / 2


@pytest.mark.parametrize(
    ("training", "words"), [({"epochs": 3}, "epochs (1 there, 3 here)"), ({"warmup": 0.1}, "warmup (0.0 there, 0.1 he")]
)
def test_of_another_budget_only_the_best_configurations_come_first(
    tmp_path: Path, training: dict[str, Any], words: str
) -> None:
    folder = kept(tmp_path / "old", tuned(trials=20))
    longer = tuned(trials=20, training=training, sampler="random")
    known = earlier(longer, folder)
    assert not known.results and len(known.best) == 3 and words in known.said[0]
    asked = raced(TuneStudy(replace(longer, knowledge=known)))
    assert [trial.phase for trial in asked].count("enqueue") == 3 and len(asked) == 20
    best = sorted(loss(trial) for trial in raced(TuneStudy(tuned(trials=20, sampler="qmc"))))[:3]
    assert sorted(loss(trial) for trial in asked[:3]) == pytest.approx(best)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metrics": {"select": "final"}}, "`metrics.select` must be that of `search.from_study` old, 'best', but got"),
        ({"batch_sizes": (512,)}, "none of the 6 of old does: they differ in its cell"),
        (
            {"optimizers": {"sgd": {"nesterov": True}}},
            "they differ in optimizer_args.nesterov (False there, True here)",
        ),
        ({"init_args": {"network": {"class_path": "a.B"}}}, "they differ in model.init_args.network.class_path ('mode"),
    ],
)
def test_a_study_that_says_nothing_here_is_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError) as raised:
        earlier(tuned(**changes), kept(tmp_path / "old", tuned(trials=6)))
    assert sentence in str(raised.value)


# The law of the learning rate


def best_rate(batch_size: int) -> float:
    """By the square root, which is not the rule that is assumed of sgd."""
    return float(0.1 * math.sqrt(batch_size / 64))


def valley(trial: TrialConfig) -> float:
    return math.exp(0.5 * math.log(trial.params["learning_rate"] / best_rate(trial.params["batch_size"])) ** 2)


def compared(**search: Any) -> SearchSpace:
    known = {"batch_sizes": (16, 32, 64, 128), "schedules": {"cosine": {}}, "trials": 12, "refine": 0}
    return space(**{**known, **search})


def test_a_measured_law_gives_every_batch_size_its_range(tmp_path: Path) -> None:
    made = compared(strategy="tune", batch_sizes=(16, 64, 256), schedules={"cosine": {}, "constant": {}})
    known = measured(made, kept(tmp_path / "map", compared(), valley))
    assert set(known.rates) == {"16-sgd", "64-sgd", "256-sgd"}
    for cell in replace(made, knowledge=known).cells():
        extent = cell.ranges["learning_rate"]
        assert extent.low is not None and extent.high is not None
        assert math.sqrt(extent.low * extent.high) == pytest.approx(best_rate(cell.batch_size), rel=0.1)
        assert 2.0 <= math.sqrt(extent.high / extent.low) * 1.001 < 4.0
    assert known.said[0].startswith("law of map: learning rates of sgd by batch size: 0.02")


@pytest.mark.parametrize(
    ("before", "changes", "sentence"),
    [
        ({"batch_sizes": (16, 32)}, {}, "map has none (sgd: needs at least 3 batch sizes whose best rate lies within"),
        ({}, {"optimizers": {"adamw": {}}}, "map has none (adamw: it was not searched there)"),
        ({}, {"optimizers": {"sgd": {"momentum": 0.5}}}, "map has none (sgd: its arguments were {} there)"),
        ({"strategy": "tune"}, {}, "`search.law` must be a study of the strategy compare, but map is none."),
        ({}, {"init_args": {"network": 1}}, "of this recipe's model and data, but map differs in model.init_args.netw"),
    ],
)
def test_a_study_without_a_law_for_this_recipe_is_refused(
    tmp_path: Path, before: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    folder = kept(tmp_path / "map", compared(**before), valley)
    with pytest.raises(ValueError) as raised:
        measured(compared(**{"strategy": "tune", **changes}), folder)
    assert sentence in str(raised.value)


# As a recipe names them


def test_what_was_taken_over_is_kept_so_that_the_other_study_may_go(regatta_home: Path) -> None:
    words = ["--config", "tune", "--search.from_study", "old", "--search.law", "map", "--study", "new"]
    recipe = load_recipe(words)
    made = space_of(recipe)
    search = replace(recipe.search, strategy="compare", schedules={"cosine": {}}, trials=12, refine=0, extend=False)
    kept(regatta_home / "map", replace(made, search=search), valley)
    kept(regatta_home / "old", replace(made, search=replace(recipe.search, trials=8)), valley)
    knowledge = knowledge_of(recipe, regatta_home / "new")
    assert knowledge.rates and knowledge.results and len(knowledge.said) == 2
    with opened(recipe, regatta_home / "new", knowledge) as ledger:
        assert asdict(recalled(ledger)) == json.loads(json.dumps(asdict(knowledge)))
        assert ledger.meta("bounds")["b64-sgd-cosine"] == knowledge.rates["64-sgd"]
    for name in ("map", "old"):
        (regatta_home / name / "study.db").rename(regatta_home / name / "gone")
    again = knowledge_of(load_recipe([*words, "--search.trials", "200"]), regatta_home / "new")
    assert asdict(again) == json.loads(json.dumps(asdict(knowledge)))
    with pytest.raises(ValueError, match=r"`search.law` must be one of new, but got 'map'."):
        knowledge_of(load_recipe([*words, "--study", "newer"]), regatta_home / "newer")


def test_a_study_cannot_be_told_of_itself(regatta_home: Path) -> None:
    recipe = load_recipe(["--config", "tune", "--search.from_study", "tune"])
    kept(regatta_home / "tune", replace(space_of(recipe), search=replace(recipe.search, trials=2)), valley)
    with pytest.raises(ValueError, match="`search.from_study` must be another study than this one, but got 'tune'"):
        knowledge_of(recipe, regatta_home / "tune")
