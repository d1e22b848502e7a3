"""The report of a search for the best alone: what its rungs let through, and which parameters mattered."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from typing import Any

import pytest
import vl_convert

from tracking.analysis.data import StudyData
from tracking.analysis.importance import coordinates, importances
from tracking.analysis.rungs import agreements, lengths_of, rung_results, shares_trained
from tracking.analysis.study import Analysis, analyse
from tracking.report import panels_of
from tracking.report.drawing import Panel
from tracking.report.page import VEGA_LITE
from tracking.report.panels_finalists import finalists_panel
from tracking.report.panels_generalization import generalization_panel
from tracking.report.panels_importance import importance_panel
from tracking.report.panels_promotion import promotion_panel, ranks_panel
from tracking.report.panels_slices import contour_panel, slices_panel
from tracking.report.verdict import headline

BUILDERS = (promotion_panel, ranks_panel, importance_panel, slices_panel, contour_panel)
NEW = ["promotion", "ranks", "importance", "slices", "contour"]
STEPS = 90
SEARCH = {
    "strategy": "tune",
    "promotion": {"rule": "halving", "eta": 3, "rungs": 2, "within": ["schedule"]},
    "parameters": {"model": {"init_args": {"width": {"low": 8, "high": 64}}}},
    "schedules": {"constant": {}, "cosine": {"final": {"low": 0.0, "high": 0.5}}},
    "optimizers": {"sgd": {"momentum": 0.9}},
}


def trial(number: int, *, until: int = STEPS, value: float, **params: Any) -> tuple[dict[str, Any], list[Any]]:
    """Evaluated every ten steps; its loss falls by a hundredth each time, down to its value."""
    size = params.setdefault("batch_size", 32)
    curve = [
        {"step": at, "epoch": at / 10, "examples": at * size, "val_loss": value + (until - at) / 1000, "trial": number}
        for at in range(10, until + 1, 10)
    ]
    row = {
        "number": number,
        "cell": f"b{size}-sgd-{params.setdefault('schedule', 'constant')}",
        "index": number,
        "phase": "propose",
        "status": "COMPLETE" if until == STEPS else "PRUNED",
        "value": value,
        "steps": until,
        "examples": until * size,
        "epochs": until / 10,
        "seconds": until / 10,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "best_step": until,
        "best_val_loss": value,
        "final_val_loss": value,
        **params,
    }
    return row, curve


def study(*trials: tuple[dict[str, Any], list[Any]], **search: Any) -> StudyData:
    return StudyData(
        name="tuned",
        metrics={"objective": "val_loss", "direction": "min", "select": "best"},
        trials=[row for row, _ in trials],
        curves={row["number"]: curve for row, curve in trials},
        examples=320,
        space={"training": {"epochs": 9, "min_steps": 0}, "search": {**SEARCH, **search}},
    )


def searched(count: int = 120, **search: Any) -> StudyData:
    """The rate decides, the width does not; a third goes on from each rung, by chance."""
    drawn = random.Random(3)
    found = []
    for number in range(count):
        rate = 10 ** drawn.uniform(-3, 0)
        value = 0.1 + math.log10(rate / 0.03) ** 2 + drawn.uniform(0, 0.02)
        params = {
            "learning_rate": rate,
            "model.init_args.width": drawn.randint(8, 64),
            "batch_size": drawn.choice([16, 32, 64]),
            "schedule": drawn.choice(["constant", "cosine"]),
        }
        if params["schedule"] == "cosine":
            params["schedule.final"] = drawn.uniform(0, 0.5)
        found.append(trial(number, until=drawn.choice([10, 30, STEPS]), value=value, **params))
    return study(*found, **search)


TUNED = searched()


def expecting(values: dict[int, float]) -> StudyData:
    """Three cells with one complete trial each, and what is expected of them."""
    sizes = ((0, 16, 0.10), (1, 32, 0.20), (2, 64, 0.15))
    found = study(*(trial(number, value=value, batch_size=size) for number, size, value in sizes))
    rows = [
        row | {"expected": values.get(row["number"]), "expected_bound": 1.1 * values.get(row["number"], math.nan)}
        for row in found.trials
    ]
    return dataclasses.replace(found, trials=rows)


def test_what_is_expected_on_fresh_seeds_decides_before_the_best_value() -> None:
    analysis = analyse(expecting({0: 0.25, 1: 0.21, 2: 0.22}))
    assert [cell.batch_size for cell in analysis.ranked] == [32, 64, 16]
    said = " ".join(headline(analysis))
    assert "Use batch size 32" in said
    assert "val_loss 0.21 expected on a fresh seed (trial 1 came to 0.2), 0.01 better than the next" in said
    assert "the best single value, 0.1 of trial 0, is partly luck, as 0.25 is expected there" in said
    table = finalists_panel(analysis).table
    assert table is not None and "expected on a fresh seed" in table.columns
    behind = table.columns.index("behind by")
    assert [row[behind] for row in table.rows] == ["–", "0.01", "0.04"]
    assert "Not known yet: what all trials together say is no run on a fresh seed" in finalists_panel(analysis).sentence


def test_figures_that_read_the_same_are_level() -> None:
    said = " ".join(headline(analyse(expecting({0: 0.25, 1: 0.210001, 2: 0.210004}))))
    assert "val_loss 0.21 expected on a fresh seed (trial 1 came to 0.2), level with the next (batch size 64" in said


def test_a_cell_without_a_complete_trial_comes_after_those_of_which_something_is_expected() -> None:
    found = expecting({0: 0.25, 1: 0.21, 2: 0.22})
    stopped, curve = trial(3, until=30, value=0.05, batch_size=128)
    both = dataclasses.replace(found, trials=[*found.trials, stopped], curves={**found.curves, 3: curve})
    analysis = analyse(both)
    assert [cell.batch_size for cell in analysis.ranked] == [32, 64, 16, 128]
    table = finalists_panel(analysis).table
    assert table is not None
    assert table.rows[-1][table.columns.index("behind by")] == "–"
    alone = dataclasses.replace(both, trials=[found.trials[0], stopped])
    assert "Of no other cell is anything expected" in " ".join(headline(analyse(alone)))


def test_without_expectations_the_best_value_decides() -> None:
    plain = study(trial(0, value=0.1, batch_size=16), trial(1, value=0.2, batch_size=32))
    analysis = analyse(plain)
    assert [cell.batch_size for cell in analysis.ranked] == [16, 32]
    assert "one seed per trial" in " ".join(headline(analysis))
    table = finalists_panel(analysis).table
    assert table is not None and "expected on a fresh seed" not in table.columns


def test_what_is_better_in_the_middle_but_less_sure_is_not_called_worse() -> None:
    found = expecting({0: 0.25, 1: 0.21, 2: 0.22})
    rows = [row | ({"expected_bound": 0.5} if row["number"] == 1 else {}) for row in found.trials]
    analysis = analyse(dataclasses.replace(found, trials=rows))
    assert [cell.batch_size for cell in analysis.ranked] == [64, 16, 32]
    rows = [row | ({"expected": 0.2} if row["number"] == 0 else {}) for row in rows]
    said = " ".join(headline(analyse(dataclasses.replace(found, trials=rows))))
    assert "more surely good than the next" in said


def panels(analysis: Analysis) -> list[Panel]:
    return [panel for build in BUILDERS if (panel := build(analysis)) is not None]


def test_trials_are_counted_at_every_rung_that_they_came_to() -> None:
    untils = [10, 10, 10, 30, 30, STEPS]
    found = study(*(trial(number, until=until, value=0.5) for number, until in enumerate(untils)))
    assert [(one.came, one.on, one.passed_over, one.waiting) for one in rung_results(found)] == [
        (6, 3, 3, 0),
        (3, 1, 2, 0),
    ]
    running = [row | ({"status": "RUNNING", "steps": None} if row["number"] == 0 else {}) for row in found.trials]
    first, _ = rung_results(dataclasses.replace(found, trials=running))
    assert (first.came, first.on, first.passed_over, first.waiting) == (6, 3, 2, 1)


def test_the_length_of_a_training_is_known_before_one_has_ended() -> None:
    found = study(trial(0, until=10, value=0.5), trial(1, until=30, value=0.5))
    assert lengths_of(found) == {0: STEPS, 1: STEPS}
    assert shares_trained(found) == {0: pytest.approx(1 / 9), 1: pytest.approx(1 / 3)}
    assert lengths_of(dataclasses.replace(found, curves={})) == {}


@pytest.mark.parametrize(("sign", "rho"), [(1.0, 1.0), (-1.0, -1.0)])
def test_a_rung_that_orders_as_the_end_does_has_a_rho_of_one(sign: float, rho: float) -> None:
    trials = []
    for number in range(6):
        row, curve = trial(number, value=0.1 + number / 100)
        # Up to the last evaluation, either the same order or the opposite one.
        early = [point | {"val_loss": 1.0 + sign * number / 100} for point in curve[:-1]]
        trials.append((row, [*early, curve[-1]]))
    for one in agreements(study(*trials)):
        assert [one.rho, one.within] == pytest.approx([rho, rho])
        assert one.pairs == 6


def test_what_decides_is_found_and_what_does_not_is_left_to_chance() -> None:
    found = {one.name: one for one in importances(TUNED).found}
    assert max(found.values(), key=lambda one: one.value).name == "learning_rate"
    assert found["learning_rate"].more_than_chance and found["learning_rate"].low > 0
    assert not found["model.init_args.width"].more_than_chance
    assert found["model.init_args.width"].low <= 0 <= found["model.init_args.width"].high


def test_chance_alone_is_seldom_taken_for_importance() -> None:
    drawn = random.Random(0)
    told = 0
    for _ in range(20):
        values = [drawn.random() for _ in TUNED.trials]
        rows = [row | {"value": value} for row, value in zip(TUNED.trials, values, strict=True)]
        told += sum(one.more_than_chance for one in importances(dataclasses.replace(TUNED, trials=rows)).found)
    # Five parameters twenty times: five are expected at 5 %.
    assert told <= 12


def test_coordinates_are_what_was_searched_however_their_names_are_nested() -> None:
    names = ["batch_size", "schedule", "learning_rate", "model.init_args.width", "schedule.final"]
    assert coordinates(TUNED) == names
    flat = {"model.init_args.width": {"low": 8, "high": 64}}
    assert coordinates(searched(parameters=flat)) == names


def test_a_handful_of_trials_gives_no_importance_but_a_reason() -> None:
    found = importances(searched(8))
    assert not found.found and found.reason.startswith("This needs at least 24 trials")


CASES = {
    "tuned": TUNED,
    "more is better": dataclasses.replace(
        searched(), metrics={"objective": "val_loss", "direction": "max", "select": "last"}
    ),
    "no promotion": searched(promotion={"rule": "none"}),
    "few": searched(4),
    "empty": study(),
    "nothing ended": dataclasses.replace(
        TUNED, trials=[row | {"status": "RUNNING", "value": None, "steps": None} for row in TUNED.trials]
    ),
    "all diverged": dataclasses.replace(TUNED, trials=[row | {"status": "DIVERGED"} for row in TUNED.trials]),
    "no curves": dataclasses.replace(TUNED, curves={}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_tuned_study_has_its_panels_in_whole_sentences(case: str) -> None:
    analysis = analyse(CASES[case])
    shown = panels(analysis)
    assert [panel.name for panel in shown] == (NEW[1:] if case == "no promotion" else NEW)
    said = [*headline(analysis), *(panel.sentence for panel in shown), *(note for one in shown for note in one.notes)]
    for sentence in said:
        assert sentence.endswith("."), sentence
        assert not re.search(r"\b(nan|inf|None)\b", sentence), sentence
    for figure in (figure for panel in shown for figure in panel.figures):
        json.dumps(figure.spec, allow_nan=False)


def test_every_figure_of_a_tuned_study_is_drawn_with_legends_that_answer() -> None:
    for panel in panels(analyse(TUNED)):
        for figure in panel.figures:
            drawn = json.dumps(vl_convert.vegalite_to_vega(figure.spec, vl_version=VEGA_LITE))
            if '"bind": "legend"' in json.dumps(figure.spec):
                assert re.search(r'_legend_symbols", "interactive": true', drawn), figure.name


def test_the_head_says_how_far_trials_came_and_what_mattered() -> None:
    said = " ".join(headline(analyse(TUNED)))
    complete = sum(row["status"] == "COMPLETE" for row in TUNED.trials)
    later = rung_results(TUNED)[1].came
    assert f"Of 120 trials came 120 to 11% and {later} to 33% of the training, and {complete} to its end." in said
    assert "What mattered most for being among the best 12 of 120 trials is learning rate" in said


def test_the_page_of_a_search_for_the_best_has_them_and_that_of_a_comparison_has_not() -> None:
    assert {panel.name for panel in panels_of(analyse(TUNED))} > set(NEW)
    assert panels(analyse(searched(strategy="compare"))) == []


def test_what_was_not_trained_to_its_end_is_no_verdict_on_its_batch_size() -> None:
    whole = [trial(0, value=0.3, batch_size=16), trial(1, value=0.2, batch_size=32)]
    paused, until = trial(2, until=30, value=0.1, batch_size=64)
    paused |= {"status": "RUNNING", "steps": None, "examples": None}
    panel = generalization_panel(analyse(study(*whole, (paused, until))))
    assert panel.sentence.startswith("After the whole training batch size 32 comes to val_loss 0.2, no worse than")
    assert panel.notes[0].startswith("Equal steps are the first 30, equal examples the first 1,440 of each training")
    nobody = generalization_panel(analyse(study((paused, until))))
    assert nobody.sentence == "No trial has been trained to its end yet."
    alone = generalization_panel(analyse(study(whole[0], (paused, until))))
    assert alone.sentence.startswith("Only of batch size 16 a trial was trained to its end")
