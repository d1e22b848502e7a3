"""What is known before a search: configurations that are asked first, and priors that a wrong guess cannot ruin."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from search_parts import space
from test_search_tuning import best, loss, raced, tuned

from search.config import RangeConfig
from search.joint import JointSpace
from search.placing import holds, place_of
from search.prior_points import Priors
from search.priors import HALVED_AFTER, PriorConfig, around, share
from search.space import value_at
from search.trial import recorded
from search.tuning import TuneStudy

PRIORS = {
    "none": {},
    "right": {"learning_rate": PriorConfig(centre=0.1), "batch_size": PriorConfig(centre=64)},
    "wrong": {
        "learning_rate": PriorConfig(centre=2.5, confidence=0.9),
        "batch_size": PriorConfig(centre=16, confidence=0.9),
    },
}
RANGES = {
    "log": RangeConfig(low=1e-4, high=1.0, log=True),
    "log of whole numbers": RangeConfig(low=8, high=512, log=True),
    "continuous": RangeConfig(low=-1.0, high=1.0),
    "steps": RangeConfig(low=0.0, high=1.0, step=0.25),
    "whole numbers": RangeConfig(low=2, high=9),
    "choices": RangeConfig(values=["relu", "gelu", True, 1.5]),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_value_lies_at_the_place_that_gives_it(name: str) -> None:
    extent = RANGES[name]
    for index in range(50):
        value = value_at(extent, (index + 0.5) / 50)
        assert holds(extent, value)
        again = value_at(extent, place_of(extent, value))
        assert again == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log", 1.1), ("log", 0.0), ("log", float("nan")), ("log", "0.1"), ("log", True),
        ("log of whole numbers", 8.5), ("steps", 0.3), ("whole numbers", 10), ("choices", "tanh"), ("choices", 1),
        ("choices", [1]),
    ],
)  # fmt: skip
def test_a_value_outside_of_its_range_is_none_of_it(name: str, value: object) -> None:
    assert not holds(RANGES[name], value)


# Configurations asked first


def test_configurations_that_are_known_come_first_and_count_among_the_trials() -> None:
    known: tuple[dict[str, Any], ...] = (
        {"learning_rate": 0.2, "batch_size": 32, "schedule": "cosine", "schedule.final": 0.0},
        {},
    )
    study = TuneStudy(tuned(trials=20, enqueue=known))
    asked = raced(study)
    assert len(asked) == 20 and [trial.phase for trial in asked].count("enqueue") == 2
    first, second = asked[:2]
    assert first.params == {
        **{"batch_size": 32, "optimizer": "sgd", "schedule": "cosine", "schedule.final": 0.0},
        "learning_rate": pytest.approx(0.2),
    }
    # The middle batch size of four and the first schedule, at the middle of the range there.
    assert (second.params["batch_size"], second.params["schedule"]) == (64, "constant")
    assert second.params["learning_rate"] == pytest.approx(0.1, rel=0.01)
    assert study.known[1] == (
        "asked first: batch size 64 with sgd, constant, learning_rate 0.09995 "
        "(filled in: batch_size, schedule, learning_rate)"
    )


def test_a_search_that_goes_on_asks_nothing_again_and_what_was_added_next() -> None:
    made = tuned(trials=20, enqueue=({"learning_rate": 0.2},))
    asked = raced(TuneStudy(made), count=5)
    more = TuneStudy(tuned(trials=20, enqueue=({"learning_rate": 0.2}, {"learning_rate": 0.3})))
    more.restore(recorded([{"config": trial.to_json(), "result": None} for trial in asked]))
    trial = more.ask()
    assert trial is not None and trial.phase == "enqueue" and trial.params["learning_rate"] == pytest.approx(0.3)
    following = more.ask()
    assert following is not None and following.phase == "explore"


@pytest.mark.parametrize(
    ("configuration", "sentence"),
    [
        ({"learning_rate": 99}, "`search.enqueue.0.learning_rate` must be from 0.00333 to 3 at batch size 64 with sgd"),
        ({"batch_size": 100}, "`search.enqueue.0.batch_size` must be one of 16, 32, 64, 128, which are searched, but"),
        ({"optimizer": "adam"}, "`search.enqueue.0.optimizer` must be one of sgd, which are searched, but got 'adam'"),
        ({"momentum": 0.9}, "`search.enqueue.0.momentum` must be searched there, but at batch size 64 with sgd, const"),
        ({"schedule.final": 0.1}, "only these are: batch_size, optimizer, schedule, learning_rate. Leave it out."),
        (
            {"learning_rate": float("nan")},
            "must be from 0.00333 to 3 at batch size 64 with sgd, constant, but got nan.",
        ),
        ({"learning_rate": "0.1"}, "must be from 0.00333 to 3 at batch size 64 with sgd, constant, but got '0.1'."),
        ({"batch_size": True}, "`search.enqueue.0.batch_size` must be one of 16, 32, 64, 128, which are searched, but"),
        ({"batch_size": [64]}, "`search.enqueue.0.batch_size` must be one of 16, 32, 64, 128, which are searched, but"),
        ({"schedule": "cosine", "schedule.final": 0.3}, "`search.enqueue.0.schedule.final` must be from 0 to 0.2"),
    ],
)
def test_a_configuration_outside_of_the_space_is_refused(configuration: Mapping[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        TuneStudy(tuned(enqueue=(configuration,)))
    assert sentence in str(raised.value)


# Priors


def test_a_prior_draws_near_its_centre_within_the_range_and_fades() -> None:
    generator = random.Random(0)
    for centre in (0.0, 0.3, 1.0):
        places = [around(centre, generator) for _ in range(200)]
        assert all(0.0 <= place <= 1.0 for place in places)
        assert abs(statistics.median(places) - centre) < 0.1
    assert share(0.8, 0) == 0.8 and share(0.8, HALVED_AFTER) == pytest.approx(0.4)
    assert sum(share(1.0, number) for number in range(10_000)) < 24


@cache
def found(sampler: str, prior: str) -> float:
    """The best that a search comes to, over the seeds; 0 is the best there is."""
    trials, seeds = (48, 16) if sampler == "qmc" else (40, 8)
    values = []
    for seed in range(seeds):
        study = TuneStudy(tuned(sampler=sampler, trials=trials, priors=PRIORS[prior], seed=seed))
        raced(study)
        values.append(best(study))
    return statistics.mean(values)


@pytest.mark.parametrize("sampler", ["qmc", pytest.param("tpe", marks=pytest.mark.slow)])
def test_a_right_prior_finds_more_and_a_wrong_one_costs_little(sampler: str) -> None:
    """Of an objective whose middle value over the space is above 4: see `loss`."""
    assert statistics.median(loss(trial) for trial in raced(TuneStudy(tuned(sampler="qmc", trials=64)))) > 4
    assert found(sampler, "right") < found(sampler, "none")
    assert found(sampler, "wrong") < found(sampler, "none") + 0.5


def test_what_a_prior_draws_depends_on_neither_results_nor_the_width() -> None:
    def points(width: int) -> list[str]:
        study = TuneStudy(tuned(sampler="qmc", trials=32, priors=PRIORS["right"]))
        return sorted(repr(trial.params) for trial in raced(study, width=width))

    assert points(1) == points(5)


def test_a_prior_on_a_choice_and_on_an_argument_is_drawn_where_it_belongs() -> None:
    priors = {
        "schedule": PriorConfig(centre="cosine", confidence=1.0),
        "schedule.final": PriorConfig(centre=0.2, confidence=1.0),
    }
    asked = raced(TuneStudy(tuned(sampler="qmc", trials=16, priors=priors)))
    plain = raced(TuneStudy(tuned(sampler="qmc", trials=16)))
    for trials, least in ((asked, 10), (plain, 0)):
        finals = [trial.params["schedule.final"] for trial in trials if trial.params["schedule"] == "cosine"]
        assert len(finals) >= least and (statistics.median(finals) > 0.15) == (trials is asked)


def test_a_rate_expected_of_one_optimizer_leaves_those_alone_whose_range_lacks_it() -> None:
    joint = JointSpace(space(optimizers={"sgd": {}, "adamw": {}}, strategy="tune"))
    priors = Priors(joint, {"learning_rate": PriorConfig(centre=0.2, confidence=1.0)}, seed=0)
    assert set(priors.drawn(0)) == {"sgd.learning_rate"}


def test_where_everything_near_a_prior_was_asked_a_search_goes_on_without_it() -> None:
    small = {"schedules": {"constant": {}}, "optimizers": {"own": {}}, "sampler": "tpe", "trials": 30}
    parameters = {"model.init_args.width": {"low": 1, "high": 10}}
    study = TuneStudy(
        tuned(
            **small,
            batch_sizes=(16, 32, 64),
            parameters=parameters,
            priors={"model.init_args.width": PriorConfig(centre=1, confidence=1.0)},
        )
    )
    asked = []
    while trial := study.ask():
        asked.append(trial)
    assert len(asked) == 30


@pytest.mark.parametrize(
    ("name", "centre", "sentence"),
    [
        (
            "learning_rate",
            99,
            "`search.priors.learning_rate.centre` must lie in what is searched at batch size 64, but",
        ),
        ("batch_size", 100, "`search.priors.batch_size.centre` must lie in what is searched, but got 100."),
        (
            "momentum",
            0.9,
            "`search.priors.momentum` must be on what is searched, but that is only batch_size, schedule",
        ),
    ],
)
def test_a_prior_outside_of_the_space_is_refused(name: str, centre: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        TuneStudy(tuned(priors={name: PriorConfig(centre=centre)}))
    assert sentence in str(raised.value)
