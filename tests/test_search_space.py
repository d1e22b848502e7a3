"""The search space: ranges that follow their rules, and points that become trainings without loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
from search_parts import ONE_TO_NINE, bowl, result_of, space

from models.optimizers import OPTIMIZERS
from search.config import LearningRateConfig, RangeConfig
from search.proposals import distribution
from search.space import (
    adam_sde,
    beyond,
    edge_of,
    is_range,
    learning_rate_range,
    parameter_names,
    value_at,
    values_in,
)
from search.study import Study

ALMOST_ONE = 1 - 2**-53

CENTRES = [
    # rule, batch size, centre given, reference, highest, expected centre for sgd (0.05 at 64, highest 0.3)
    ("linear", 64, None, 64, None, 0.05),
    ("linear", 128, None, 64, None, 0.1),
    ("linear", 16, None, 64, None, 0.0125),
    ("linear", 4096, None, 64, None, 0.3),  # linear scaling ends
    ("linear", 4096, None, 64, 1.0, 1.0),
    ("sqrt", 256, None, 64, None, 0.1),
    ("sqrt", 16, None, 64, None, 0.025),
    ("adam_sde", 256, None, 64, None, 0.1),
    ("adam_sde", 512, 0.1, 128, None, 0.2),
    ("none", 1024, None, 64, None, 0.05),
    ("none", 1, None, 64, None, 0.05),
    ("linear", 512, 0.1, 256, None, 0.2),  # Goyal et al. 2017
    ("sqrt", 512, 0.1, 128, None, 0.2),
    ("linear", 128, None, 256, None, 0.1),  # the optimizer's own centre is meant at 64 whatever the reference
    (None, 128, None, 64, None, 0.1),  # sgd's own rule is linear
]


@pytest.mark.parametrize("case", CENTRES, ids=repr)
def test_a_rule_moves_the_middle_of_the_range(case: tuple[Any, int, float | None, int, float | None, float]) -> None:
    rule, size, centre, reference, highest, expected = case
    config = LearningRateConfig(rule=rule, centre=centre, reference_batch_size=reference, highest=highest, factor=10.0)
    extent = learning_rate_range(config, "sgd", size)
    assert extent.log
    assert extent.low == pytest.approx(expected / 10, rel=5e-3)
    assert extent.high == pytest.approx(expected * 10, rel=5e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_default_range_lies_around_the_optimizers_own_centre(optimizer: str) -> None:
    extent = learning_rate_range(LearningRateConfig(), optimizer, 64)
    assert extent.low is not None and extent.high is not None
    assert math.sqrt(extent.low * extent.high) == pytest.approx(OPTIMIZERS[optimizer].centre, rel=5e-3)
    assert extent.high / extent.low == pytest.approx(256, rel=1e-2)


@pytest.mark.parametrize("size", [1, 64, 4096])
def test_absolute_bounds_are_the_same_for_every_batch_size(size: int) -> None:
    config = LearningRateConfig(rule="absolute", low=1e-4, high=3.0)
    assert learning_rate_range(config, "sgd", size) == RangeConfig(low=1e-4, high=3.0, log=True)


VALUES = [
    (RangeConfig(low=0.0, high=2.0), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0)]),
    (RangeConfig(low=1e-4, high=1.0, log=True), [(0.0, 1e-4), (0.5, 1e-2), (0.75, 1e-1)]),
    (RangeConfig(low=1, high=4), [(0.0, 1), (0.24, 1), (0.26, 2), (0.5, 3), (ALMOST_ONE, 4)]),
    (RangeConfig(low=8, high=32, step=8), [(0.0, 8), (0.25, 16), (0.6, 24), (ALMOST_ONE, 32)]),
    (RangeConfig(low=0.1, high=0.5, step=0.2), [(0.0, 0.1), (0.34, 0.3), (ALMOST_ONE, 0.5)]),
    (RangeConfig(low=1, high=1000, log=True), [(0.0, 1), (ALMOST_ONE, 1000)]),
    (RangeConfig(values=["a", None, 3]), [(0.0, "a"), (0.4, None), (0.7, 3), (ALMOST_ONE, 3)]),
    (RangeConfig(values=[True, False]), [(0.49, True), (0.5, False)]),
]


@pytest.mark.parametrize(("extent", "table"), VALUES, ids=lambda value: repr(value)[:60])
def test_a_point_of_the_unit_interval_is_a_value_of_the_range(extent: RangeConfig, table: Any) -> None:
    for u, expected in table:
        value = value_at(extent, u)
        assert type(value) is type(expected)
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("u", [0.0, 1e-17, 0.1, 1 / 3, 0.5, 0.9, ALMOST_ONE])
@pytest.mark.parametrize(
    "extent",
    [
        RangeConfig(low=0.0031, high=0.794, log=True),
        RangeConfig(low=7e-5, high=0.018, log=True),
        RangeConfig(low=-1.1, high=0.7),
        RangeConfig(low=0.1, high=0.7, step=0.1),
        RangeConfig(low=3, high=17, step=7),
        RangeConfig(low=1, high=7, log=True),
        RangeConfig(values=[1, "b", 2.5, None]),
    ],
    ids=repr,
)
def test_every_value_is_one_that_optuna_accepts_for_the_range(extent: RangeConfig, u: float) -> None:
    optunas = distribution(extent)
    assert optunas._contains(optunas.to_internal_repr(value_at(extent, u)))


def test_whole_numbers_on_a_logarithmic_range_are_as_likely_as_optuna_has_them() -> None:
    drawn = [value_at(RangeConfig(low=1, high=8, log=True), (i + 0.5) / 10000) for i in range(10000)]
    for value in range(1, 9):
        expected = math.log((value + 0.5) / (value - 0.5)) / math.log(8.5 / 0.5)
        assert drawn.count(value) / 10000 == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("extent", "expected"),
    [
        (RangeConfig(values=["a", "b"]), 2),
        (RangeConfig(low=1, high=4), 4),
        (RangeConfig(low=1, high=8, log=True), 8),
        (RangeConfig(low=8, high=32, step=8), 4),
        (RangeConfig(low=0.1, high=0.7, step=0.1), 7),
        (RangeConfig(low=0.0, high=1.0), math.inf),
    ],
    ids=repr,
)
def test_a_range_knows_how_many_values_it_has(extent: RangeConfig, expected: float) -> None:
    assert values_in(extent) == expected
    if expected < math.inf:
        assert len({value_at(extent, (i + 0.5) / 1000) for i in range(1000)}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1e-3, "low"), (1.99e-3, "low"), (2.1e-3, None), (0.03, None), (0.49, None), (0.51, "high"), (1.0, "high")],
)
def test_the_outer_tenths_of_a_logarithmic_range_are_its_edges(value: float, expected: str | None) -> None:
    assert edge_of(RangeConfig(low=1e-3, high=1.0, log=True), value, trials=10) == expected


@pytest.mark.parametrize(
    ("trials", "width"), [(1000, 0.1), (12, 0.1), (10, 0.1), (9, 1 / 9), (8, 0.125), (4, 0.25), (3, 1 / 3)]
)
def test_with_fewer_than_ten_trials_the_edges_are_as_wide_as_the_place_of_one(trials: int, width: float) -> None:
    extent = RangeConfig(low=1e-3, high=1.0, log=True)
    shares = {width - 1e-6: "low", width + 1e-6: None, 1 - width - 1e-6: None, 1 - width + 1e-6: "high"}
    assert {share: edge_of(extent, value_at(extent, share), trials=trials) for share in shares} == shares


@pytest.mark.parametrize("trials", [1, 2])
@pytest.mark.parametrize(("value", "expected"), [(0.02, "low"), (0.05, "high")])
def test_one_or_two_trials_lie_at_the_nearer_edge(trials: int, value: float, expected: str) -> None:
    assert edge_of(RangeConfig(low=1e-3, high=1.0, log=True), value, trials=trials) == expected


def test_a_cell_of_four_trials_is_extended_beyond_its_outermost() -> None:
    grid: dict[str, Any] = {"batch_sizes": (64,), "schedules": {"constant": {}}, "trials": 4, "refine": 0, "seed": 5}
    study = Study(space(**grid, extend=True, learning_rate=ONE_TO_NINE))
    while (trial := study.ask()) is not None:
        study.tell(trial, result_of(trial, bowl(trial, best=1e-9)))
    *explored, extended = study.trials()
    (extent,) = (cell.cell.ranges["learning_rate"] for cell in study.cells.values())
    lowest = min(trial.params["learning_rate"] for trial in explored)
    # Too far from the bound to count among ten trials.
    assert edge_of(extent, lowest, trials=10) is None
    assert [trial.phase for trial in explored] == ["explore"] * 4
    assert extended.phase == "extend" and extended.params["learning_rate"] < 1e-3


def test_choices_have_no_edge() -> None:
    assert edge_of(RangeConfig(values=[1, 2]), 1, trials=4) is None


def test_an_extension_reaches_a_quarter_further_and_touches_the_range() -> None:
    extent = RangeConfig(low=1e-4, high=1.0, log=True)
    low, high = beyond(extent, "low"), beyond(extent, "high")
    assert low.log and low.high == 1e-4 and low.low == pytest.approx(1e-5)
    assert high.log and high.low == 1.0 and high.high == pytest.approx(10.0)


def test_the_grid_is_every_combination_smallest_batch_first() -> None:
    grid = space(batch_sizes=(256, 16), optimizers={"sgd": {}, "adamw": {}}, schedules={"cosine": {}}).cells()
    assert [cell.name for cell in grid] == [
        "b16-sgd-cosine",
        "b16-adamw-cosine",
        "b256-sgd-cosine",
        "b256-adamw-cosine",
    ]
    assert grid[0].axes == {"batch_size": 16, "optimizer": "sgd", "schedule": "cosine"}


def test_parameters_belong_to_the_cells_whose_optimizer_or_schedule_has_them() -> None:
    grid = space(
        batch_sizes=(16,),
        optimizers={"sgd": {"momentum": {"low": 0.0, "high": 0.99}}, "own": {}},
        schedules={"constant": {}, "cosine": {"final": {"values": [0.0, 0.1]}}},
        parameters={"model.init_args.width": {"low": 8, "high": 32}},
    ).cells()
    assert {cell.name: set(cell.ranges) for cell in grid} == {
        "b16-sgd-constant": {"learning_rate", "optimizer.momentum", "model.init_args.width"},
        "b16-sgd-cosine": {"learning_rate", "optimizer.momentum", "schedule.final", "model.init_args.width"},
        "b16-own-constant": {"model.init_args.width"},
        "b16-own-cosine": {"schedule.final", "model.init_args.width"},
    }
    assert list(parameter_names(grid)) == [
        "learning_rate", "optimizer.momentum", "model.init_args.width", "schedule.final",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [({"low": 1, "high": 2}, True), ({"values": [1]}, True), ({}, False), ({"low": 1, "size": 2}, False), (3, False)],
)
def test_a_mapping_with_the_keys_of_a_range_is_one(value: Any, expected: bool) -> None:
    assert is_range(value) is expected


def test_what_is_sampled_reaches_the_training() -> None:
    made = space(
        init_args={"network": {"class_path": "x.Net", "init_args": {"hidden": [8], "width": 1}}},
        training={"warmup": 0.1, "weight_decay": 0.5, "evaluations": 7, "epochs": 3},
        optimizers={"sgd": {"momentum": {"low": 0.0, "high": 0.99}, "nesterov": True}},
        schedules={"cosine": {"final": 0.01}},
        parameters={
            "model.init_args.network.init_args.width": {"low": 8, "high": 32},
            "data.init_args.deep.new": {"values": [1]},
            "training.warmup": {"low": 0.0, "high": 0.5},
        },
    )
    sampled = {
        "learning_rate": 0.25,
        "optimizer.momentum": 0.75,
        "model.init_args.network.init_args.width": 16,
        "data.init_args.deep.new": 1,
        "training.warmup": 0.25,
    }
    train = made.train_config(made.cells()[0], sampled, index=3)
    assert train.model["init_args"] == {"network": {"class_path": "x.Net", "init_args": {"hidden": [8], "width": 16}}}
    assert train.data["init_args"] == {"deep": {"new": 1}}
    assert (train.learning_rate, train.batch_size, train.warmup, train.weight_decay) == (0.25, 64, 0.25, 0.5)
    assert (train.optimizer, train.optimizer_args) == ("sgd", {"momentum": 0.75, "nesterov": True})
    assert (train.schedule, train.schedule_args) == ("cosine", {"final": 0.01})
    assert (train.epochs, train.evaluations, train.objective, train.target_metric) == (3, 7, "val_loss", "val_loss")
    # The recipe is not written to.
    assert made.model.init_args["network"]["init_args"]["width"] == 1


def test_an_evaluation_an_epoch_is_the_default_and_own_optimizers_have_no_rate() -> None:
    made = space(training={"epochs": 4}, optimizers={"own": {}}, schedules={"constant": {}})
    train = made.train_config(made.cells()[0], {}, index=0)
    assert (train.evaluations, train.learning_rate, train.optimizer) == (4, None, "own")


SDE = [
    # batch size, reference, beta1, beta2 and epsilon there, those expected (Malladi et al. 2022)
    (64, 64, (0.9, 0.999, 1e-8), (0.9, 0.999, 1e-8)),
    (256, 64, (0.9, 0.999, 1e-8), (0.6, 0.996, 5e-9)),
    (16, 64, (0.9, 0.999, 1e-8), (0.975, 0.99975, 2e-8)),
    (576, 64, (0.9, 0.999, 1e-8), (0.1, 0.991, 1e-8 / 3)),
    (2048, 512, (0.8, 0.95, 1e-6), (0.2, 0.8, 5e-7)),
]


@pytest.mark.parametrize(("size", "reference", "before", "after"), SDE, ids=repr)
def test_adams_averages_are_as_long_in_examples_at_every_batch_size(
    size: int, reference: int, before: tuple[float, ...], after: tuple[float, ...]
) -> None:
    names = ("beta1", "beta2", "epsilon")
    moved = adam_sde(dict(zip(names, before, strict=True)), batch_size=size, reference=reference)
    assert moved == pytest.approx(dict(zip(names, after, strict=True)), rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("size", "settings", "sentence"),
    [
        (640, {}, r"less than 640 .* a `beta1` of 0.9 at batch size 64, but got 640, where `beta1` would be 0"),
        (1024, {}, r"less than 640 .* a `beta1` of 0.9 at batch size 64, but got 1024, where `beta1` would be -0.6"),
        (128, {"beta2": 0.5}, r"less than 128 .* a `beta2` of 0.5 at batch size 64, but got 128"),
        (64_000, {"beta1": 0.9999}, r"less than 64000 .* a `beta2` of 0.999 at batch size 64, but got 64000"),
    ],
)
def test_where_a_beta_would_be_used_up_there_is_no_such_adam(size: int, settings: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        adam_sde({**OPTIMIZERS["adam"].arguments, **settings}, batch_size=size, reference=64)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_what_the_batch_size_makes_of_adam_is_in_the_training_of_each_cell(optimizer: str) -> None:
    rate = LearningRateConfig(rule="adam_sde", reference_batch_size=128)
    made = space(batch_sizes=(64, 512), optimizers={optimizer: {"beta2": 0.99}}, learning_rate=rate)
    trains = [made.train_config(cell, {"learning_rate": 0.25}, index=0) for cell in made.cells()]
    assert [train.learning_rate for train in trains] == [0.25] * 4  # only the range follows the rule
    found = [trains[0].optimizer_args, trains[2].optimizer_args]
    assert found[0] == pytest.approx({"beta1": 0.95, "beta2": 0.995, "epsilon": 1e-8 * math.sqrt(2)})
    assert found[1] == pytest.approx({"beta1": 0.6, "beta2": 0.96, "epsilon": 5e-9})


def test_other_rules_leave_the_arguments_as_they_are_written() -> None:
    made = space(optimizers={"adam": {"beta2": 0.99}}, learning_rate=LearningRateConfig(rule="sqrt"))
    assert [made.train_config(cell, {}, index=0).optimizer_args for cell in made.cells()] == [{"beta2": 0.99}] * 4


def test_an_easier_target_changes_no_training() -> None:
    one, both = (space(metrics={"target": 0.1, **more}) for more in ({}, {"easier_target": 0.2}))
    for made in (one, both):
        assert made.cells() == one.cells()
    point = {"learning_rate": 0.1}
    assert one.train_config(one.cells()[0], point, index=0) == both.train_config(both.cells()[0], point, index=0)


def _seeds(index: int, *, cell: int = 0, rate: float = 0.1, **changes: Any) -> tuple[int, int, int]:
    made = space(**changes)
    train = made.train_config(made.cells()[cell], {"learning_rate": rate}, index=index)
    return train.seed_init, train.seed_order, train.seed_dropout


def test_seeds_come_from_the_study_the_cell_and_the_number_in_it_alone() -> None:
    assert _seeds(0) == _seeds(0, rate=0.7) == _seeds(0, trials=99, refine=0, training={"epochs": 9})
    different = [_seeds(0), _seeds(1), _seeds(0, cell=1), _seeds(0, seed=1), _seeds(0, training={"seed": 1})]
    every = [seed for seeds in different for seed in seeds]
    assert len(set(every)) == len(every) == 15
