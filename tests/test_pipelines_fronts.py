"""A search with several objectives says what it came to: on the screen, in the table, in MLflow and in the report."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from search_parts import result_of
from study_rows import study as made_up
from test_pipelines_recipe import SOUND, refused
from test_search_objectives import BOTH, aimed
from tracking_rows import study as ledger_study

from pipelines import fronts
from pipelines.display import leader
from pipelines.recipe import from_yaml_text
from pipelines.run_verify import table
from pipelines.session import fingerprint
from search.objectives import ObjectiveStudy
from search.race import Race
from search.space import SearchSpace
from search.standings import Outcome, judge
from search.trial import TrialResult
from search.verification import Verification
from tracking import rows as study_rows
from tracking.analysis.data import StudyData
from tracking.analysis.objectives import COLUMNS, TO_TARGET, marked, score_of
from tracking.analysis.study import analyse
from tracking.fronts import note_front
from tracking.ledger import Ledger
from tracking.memory_runs import MemoryWriter
from tracking.projection import summary
from tracking.report import panels_of
from tracking.report.drawing import Panel
from tracking.sending import push


def told(made: SearchSpace, *outcomes: tuple[float, int | None]) -> ObjectiveStudy:
    """A study whose trials came to these losses, and to the target on so many examples."""
    study = ObjectiveStudy(made)
    for value, examples in outcomes:
        trial = study.ask()
        assert trial is not None
        hit = None if examples is None else {"step": 1, "epoch": 1.0, "examples": examples, "seconds": 1.5}
        study.tell(trial, result_of(trial, value=value, hit=hit, seconds=12.345))
    return study


# On the screen


def test_the_front_is_a_table_by_its_first_objective() -> None:
    study = told(aimed(sampler="qmc"), (0.5, 640), (0.25, 1280), (0.75, 1280), (0.125, None))
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(fronts.front_table(study))
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert " ".join(lines[0]) == "the front: 2 of 4 complete trials"
    assert lines[1][-3:] == ["val_loss", "examples_to_target", "trial"]
    assert [line[-3:] for line in lines[2:]] == [["0.25", "1,280", "1"], ["0.5", "640", "0"]]


@pytest.mark.parametrize(
    ("changes", "outcomes", "said"),
    [
        ({}, [(0.5, 640), (0.25, 1280)], ["Chosen of 2 on the front, the best in val_loss", "1,280, trial 1", "knee"]),
        ({"choose": "knee"}, [(0.5, 640), (0.25, 1280)], ["Chosen of 2 on the front, nearest to the ideal", "first"]),
        ({}, [(0.5, None)], ["No complete trial reached val_loss ≤ 0.5; the best by val_loss", "never, trial 0"]),
        ({"objectives": BOTH[1:]}, [(0.5, 640), (0.25, 1280)], ["Best by examples_to_target", "640, trial 0"]),
        (
            {"objectives": ("val_loss", "cost")},
            [(0.5, 640)],
            ["Best in every objective", "val_loss 0.5, cost 12.3 s, trial 0"],
        ),
        ({}, [], ["No trial has completed"]),
    ],
)
def test_what_was_chosen_is_said_with_the_rule(
    changes: dict[str, Any], outcomes: list[tuple[float, int | None]], said: list[str]
) -> None:
    sentence = fronts.sentences(told(aimed(**{"sampler": "qmc", **changes}), *outcomes))[0]
    assert all(part in sentence for part in said), sentence


def test_while_it_runs_the_leader_is_shown_by_its_objectives(tmp_path: Path) -> None:
    study = told(aimed(sampler="qmc"), (0.5, 640), (0.25, 1280), (0.75, 1280))
    with Ledger.open(tmp_path, create=True) as ledger:
        said = leader(Race(study, ledger, str(tmp_path / "checkpoints")))
    assert said.startswith(
        "best so far: val_loss 0.25, examples_to_target 1,280 (of 2 on the front), b64-sgd-constant at"
    )


def test_a_metric_that_is_to_be_large_is_shown_as_it_is() -> None:
    made = aimed(sampler="qmc", metrics={"target": 0.5, "direction": "max"})
    assert "val_loss 0.75, examples_to_target 640" in fronts.chosen(told(made, (0.75, 640), (0.5, 1280)))


# On fresh seeds


def confirmed(study: ObjectiveStudy, came: dict[int, list[tuple[float, int | None]]]) -> Outcome:
    """The verification of a search in which these trainings of each trial came to so much on fresh seeds."""
    verification = Verification(study, top=3, seeds=3)
    while (trial := verification.ask()) is not None:
        number = verification.cells[trial.cell].proposed.number  # type: ignore[attr-defined]
        value, examples = came[number][trial.index]
        hit = None if examples is None else {"step": 1, "epoch": 1.0, "examples": examples, "seconds": 1.5}
        verification.tell(trial, result_of(trial, value=value, hit=hit, seconds=12.0, steps=10, examples=640))
    return judge(verification, step_seconds={}, searched=2)


THREE: dict[str, Any] = {
    "sampler": "grid",
    "sampler_args": {"levels": 1},
    "schedules": {"constant": {}, "cosine": {}, "wsd": {}},
}
SEARCHED = ((0.1, 20000), (0.2, 10000), (0.15, 15000))
"""Three cells: the metric is best in the first, the way to the target shortest in the second."""
AGAIN: dict[int, list[tuple[float, int | None]]] = {
    0: [(0.1, 20000), (0.11, 21000), (0.12, 22000)],
    1: [(0.2, 10000), (0.21, 10400), (0.22, 10500)],
    2: [(0.15, 16000), (0.16, 16100), (0.151, 16400)],
}


@pytest.mark.parametrize(
    ("changes", "by", "best"),
    [
        ({}, "val_loss", 0),
        ({"objectives": BOTH[::-1]}, "examples_to_target", 1),
        ({"objectives": BOTH[1:]}, "examples_to_target", 1),
        ({"choose": "knee"}, "distance from the ideal", 2),
    ],
)
def test_finalists_are_compared_by_the_rule_that_chose_them(changes: dict[str, Any], by: str, best: int) -> None:
    study = told(aimed(**{**THREE, **changes}), *SEARCHED)
    assert study.ranking()[0][0].number == best
    found = confirmed(study, AGAIN)
    assert (found.judged_by, found.finalists[0].trial) == (by, best)
    first = found.finalists[0]
    assert first.values == [value for value, _ in AGAIN[best]]
    assert set(first.objectives) == set(study.objectives)
    assert f"mean {by}" in found.sentences[0]
    (means,) = (sentence for sentence in found.sentences if sentence.startswith("Means of "))
    assert f"examples_to_target {sum(examples or 0 for _, examples in AGAIN[best]) / 3:,.0f}" in means
    shown = io.StringIO()
    Console(file=shown, width=250, color_system=None).print(table(found, metric="val_loss"))
    assert "examples_to_target" in shown.getvalue()


def test_a_front_of_one_has_no_ranges_so_that_the_first_objective_decides() -> None:
    study = told(aimed(**THREE, choose="knee"), (0.1, 10000), (0.2, 20000), (0.3, 30000))
    assert study.ranking()[0][0].number == 0 and study.criterion.name == "val_loss"


def test_a_fresh_seed_better_than_the_ideal_is_no_further_from_it() -> None:
    study = told(aimed(**THREE, choose="knee"), *SEARCHED)
    hit = {"step": 1, "examples": 5000, "seconds": 1.0}
    assert study.criterion.of(TrialResult(number=0, status="COMPLETE", value=0.05, hit=hit)) == 0.0


def test_a_target_that_fresh_seeds_do_not_reach_is_lost_and_said_so() -> None:
    study = told(aimed(**THREE, objectives=BOTH[::-1]), *SEARCHED)
    found = confirmed(study, {**AGAIN, 1: [(0.2, 10000), (0.2, None), (0.2, None)]})
    assert found.choice.trial != 1
    shown = io.StringIO()
    Console(file=shown, width=250, color_system=None).print(table(found, metric="val_loss"))
    assert "3, 2 never arrived" in shown.getvalue()


# What a recipe may ask


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["[val_loss]", "--search.strategy", "compare"], "`search.objectives` must be left out with `search.strategy`"),
        (["[]"], "`search.objectives` must name one or several, each once, but got []"),
        (["[val_loss, val_loss]"], "`search.objectives` must name one or several, each once"),
        (["[val_accuracy]"], "`search.objectives` must be of val_loss, steps_to_target, examples_to_target"),
        (["[cost]", "--search.arrays", "off"], "`search.objectives` must have another one beside cost"),
        (["[steps_to_target]"], "`metrics.target` must be set with `search.objectives` steps_to_target"),
        (["[val_loss, cost]"], "`search.arrays` must be off with `search.objectives` cost"),
    ],
)
def test_objectives_that_cannot_be_are_told_in_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    found = refused(tmp_path, "--search.strategy", "tune", "--search.objectives", *words)
    assert len(found) == 1 and sentence in found[0]


def test_which_of_the_front_is_chosen_may_change_and_what_is_looked_for_may_not() -> None:
    text = SOUND + "metrics: {target: 0.5}\nsearch: {strategy: tune, objectives: [val_loss, steps_to_target]}\n"
    recipe = from_yaml_text(text, "r.yaml")
    knee = dataclasses.replace(recipe, search=dataclasses.replace(recipe.search, choose="knee"))
    other = dataclasses.replace(recipe, search=dataclasses.replace(recipe.search, objectives=["val_loss"]))
    assert fingerprint(knee) == fingerprint(recipe) != fingerprint(other)


# In the table and in MLflow


def test_rows_and_runs_say_whether_they_lie_on_the_front_and_when_they_have_left_it(tmp_path: Path) -> None:
    writer = MemoryWriter()
    with ledger_study(tmp_path, 3) as ledger:
        ledger.set_meta("space", {"search": {"objectives": list(BOTH)}})
        ledger.set_meta("metrics", {"objective": "val_loss", "direction": "min"})
        tags = []
        for numbers in ([], [0, 2], [1, 2]):
            note_front(ledger, numbers)
            push(ledger, writer)
            runs = {run.tags["trial"]: run.tags.get("front") for run in writer.runs.values() if "trial" in run.tags}
            tags.append([runs[str(number)] for number in range(3)])
    assert tags == [[None] * 3, ["true", None, "true"], ["false", "true", "true"]]
    assert [row["front"] for row in study_rows.trials(tmp_path)] == [True] * 3  # All alike: none is better.


def test_a_trials_run_has_every_objective_as_a_metric() -> None:
    known = {"value": 0.5, "seconds": 2.0, "hit": {"step": 10.0, "examples": 640.0, "epoch": 1.0, "seconds": 1.0}}
    made = TrialResult(number=0, status="COMPLETE", **known)  # type: ignore[arg-type]
    logged = {point.key: point.value for point in summary(made.to_json())}
    row = {"value": 0.5, "seconds": 2.0, **dict(zip(TO_TARGET, (10.0, 640.0, 1.0), strict=True))}
    names = ["val_loss", *COLUMNS]
    assert [logged[f"result/{COLUMNS.get(name, 'value')}"] for name in names] == list(
        score_of(row, names, "min").losses
    )


# In the report


def reported(**search: Any) -> list[Panel]:
    """The panels named `front` of a made-up study with these settings of its search."""
    data = made_up(sizes=(32, 64), schedules=("cosine",))
    trials = [
        row | {"steps_to_target": 100 + index % 7, "seconds_to_target": 0.5} for index, row in enumerate(data.trials)
    ]
    trials[0] |= {"steps_to_target": None}
    space = {**data.space, "search": {**data.space["search"], **search}}
    rows = marked(trials, space, data.metrics)
    changed: StudyData = dataclasses.replace(data, trials=rows, space=space)
    return [panel for panel in panels_of(analyse(changed)) if panel.name == "front"]


def test_the_report_draws_the_front_of_several_objectives_and_of_them_alone() -> None:
    assert reported() == reported(objectives=["steps_to_target"]) == []
    (panel,) = reported(objectives=["val_loss", "steps_to_target"])
    assert "lie on the front" in panel.sentence and "steps to the target" in panel.sentence
    assert any("1 complete trial that never reached the target" in note for note in panel.notes)
    (figure,) = panel.figures
    assert sum(row["front"] for row in figure.data["front"]) >= 1
    assert figure.spec["datasets"]["front"][0]["val_loss"] > 0


def test_three_objectives_are_two_pictures_and_seconds_are_warned_of() -> None:
    (panel,) = reported(objectives=["val_loss", "steps_to_target", "cost"])
    assert [figure.name for figure in panel.figures] == ["front-steps_to_target", "front-cost"]
    assert any(note.startswith("Seconds are those of this machine") for note in panel.notes)
