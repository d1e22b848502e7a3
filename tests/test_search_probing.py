"""What is measured on the best configurations once a race is over, with real trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from search_parts import space

from search.executors import SerialExecutor
from search.failure import DeadlyCall
from search.gains import Gains
from search.probing import probe
from search.race import Race
from search.study import Study
from tracking.ledger import Ledger

GAINS = Gains(step_seconds={(64, "sgd"): 0.001})


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Race:
    """A race of four cells that is over."""
    folder = tmp_path_factory.mktemp("study")
    with Ledger.open(folder, create=True) as ledger:
        made = Race(Study(space(trials=2, refine=0, keep_checkpoints=1)), ledger, str(folder / "checkpoints"))
        made.run(SerialExecutor(), stopping=lambda: False, watch=lambda _: None)
    return made


def checkpoints(race: Race) -> set[str]:
    return {str(path) for path in Path(race.folder).iterdir()}


def test_every_cells_best_keeps_its_checkpoint_until_the_end_of_the_search(race: Race) -> None:
    best = {str(result.checkpoint) for _, result in race.study.ranking()}
    assert len(best) == 4 and checkpoints(race) == best


def test_the_best_are_measured_where_segments_run(race: Race) -> None:
    found = probe(race.study, SerialExecutor(), GAINS)
    (best, _), *_ = race.study.ranking()
    assert found["steps"] == {"64-sgd": 0.001}
    assert found["noise"]["trial"] == best.number and found["noise"]["reason"] is None
    assert [window["progress"] for window in found["noise"]["windows"]][0::3] == [0.0, 1.0]
    assert [one["trial"] for one in found["sharpness"]] == [trial.number for trial, _ in race.study.ranking()]
    assert all(one["reason"] is None and one["ascent"] > 0 for one in found["sharpness"])
    assert "memory" not in found and "largest" not in found


def test_nothing_is_measured_that_was_not_asked_for() -> None:
    assert probe(Study(space(probes=())), SerialExecutor(), Gains()) == {"steps": {}}


class Deadly(SerialExecutor):
    """One whose worker dies of what it is asked."""

    def call(self, function: str, payload: Any) -> Any:
        """Not without its worker's death."""
        raise DeadlyCall(f"`{function}` must leave its worker alive")


def test_a_measurement_that_ends_its_workers_costs_its_own_result_only(race: Race) -> None:
    found = probe(race.study, Deadly(), GAINS)
    assert found["steps"] == {"64-sgd": 0.001} and found.keys() == {"steps", "deadly"}
    assert found["deadly"]["noise"] == "`models.noise.noise_scale` must leave its worker alive"
    assert found["deadly"].keys() == {"noise", "sharpness"}


def test_afterwards_only_the_best_of_all_keep_theirs(race: Race) -> None:
    race.tidy()
    assert checkpoints(race) == {str(race.study.top(1)[0].checkpoint)}
