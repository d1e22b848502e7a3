"""The exported studies are Optuna's own: every trial with its state, value and parameters, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from search_parts import ONE_TO_NINE, bowl, changed, result_of, space

from search.export import FILE, export
from search.objectives import study_of
from search.space import SearchSpace
from search.study import Study
from search.trial import TrialConfig, TrialResult
from tracking.ledger import Ledger


def judge(trial: TrialConfig) -> TrialResult:
    """Results whose best lies beyond the lower edge; one trial of each cell diverged, and one failed."""
    if trial.index == 2:
        return result_of(trial, status="DIVERGED", value=None)
    if trial.index == 3:
        return result_of(trial, status="FAILED", value=None)
    return result_of(trial, bowl(trial, best=1e-6))


def searched(folder: Path, made: SearchSpace, *, most: int = 10**6) -> None:
    """A ledger with the trials of a study, as a search leaves it."""
    folder.mkdir(exist_ok=True)
    with Ledger.open(folder, create=True) as ledger:
        study = Study(made)
        study.restore(
            (TrialConfig.from_json(r["config"]), TrialResult.from_json(r["result"]) if r["result"] else None)
            for r in ledger.trials()
        )
        for _ in range(most):
            trial = study.ask()
            if trial is None:
                break
            result = judge(trial)
            ledger.ask([trial.to_json()])
            ledger.finish(result.to_json())
            study.tell(trial, result)


def exported(folder: Path, made: SearchSpace) -> int:
    with Ledger.open(folder, create=False) as ledger:
        return export(ledger, made, folder)


def loaded(folder: Path, cell: str) -> optuna.Study:
    return optuna.load_study(study_name=f"{folder.name}/{cell}", storage=f"sqlite:///{folder / FILE}")


MADE: dict[str, Any] = {
    "batch_sizes": (16, 64),
    "trials": 24,
    "refine": 2,
    "extend": True,
    "learning_rate": ONE_TO_NINE,
    "parameters": {
        "training.warmup": {"low": 0.1, "high": 0.7, "step": 0.1},
        "model.init_args.kind": {"values": ["a", 2]},
    },
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # `optuna.load_study` leaves closing to the garbage collector.
def test_optuna_opens_every_cells_study(tmp_path: Path) -> None:
    made = space(**MADE)
    searched(tmp_path, made)
    assert exported(tmp_path, made) == 4 * 32
    for cell in made.cells():
        study = loaded(tmp_path, cell.name)
        assert len(study.trials) == 32
        states = [trial.state for trial in study.trials]
        assert (states[2], states[3]) == (TrialState.PRUNED, TrialState.FAIL)
        assert states.count(TrialState.COMPLETE) == 30
        for trial in study.trials:
            rate = trial.distributions["learning_rate"]
            assert isinstance(rate, optuna.distributions.FloatDistribution)
            assert rate.low < 1e-3 and rate.high == 1.0 and rate.log
            assert rate.low <= trial.params["learning_rate"] <= rate.high
            assert set(trial.params) == {"learning_rate", "training.warmup", "model.init_args.kind"}
            assert trial.user_attrs["phase"] in ("explore", "extend", "refine")
        with Ledger.open(tmp_path, create=False) as ledger:
            rows = {row["number"]: row for row in ledger.trials()}
        for trial in study.get_trials(states=[TrialState.COMPLETE]):
            row = rows[trial.user_attrs["number"]]
            assert trial.value == row["result"]["value"]
            assert {name: row["config"]["params"][name] for name in trial.params} == trial.params
        assert study.best_value == min(t.value for t in study.trials if t.value is not None)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_second_export_adds_only_what_is_new(tmp_path: Path) -> None:
    made = space(trials=3, refine=1, extend=True, learning_rate=ONE_TO_NINE, metrics={"direction": "max"})
    searched(tmp_path, made, most=7)
    with Ledger.open(tmp_path, create=False) as ledger:
        study = Study(made)
        study.restore((TrialConfig.from_json(r["config"]), TrialResult.from_json(r["result"])) for r in ledger.trials())
        running = study.ask()
        assert running is not None
        ledger.ask([running.to_json()])
    assert exported(tmp_path, made) == 7
    assert exported(tmp_path, made) == 0
    with Ledger.open(tmp_path, create=False) as ledger:
        ledger.finish(judge(running).to_json())
    searched(tmp_path, made)
    total = len(_numbers(tmp_path))
    assert exported(tmp_path, made) == total - 7
    larger = changed(made, trials=6)
    searched(tmp_path, larger)
    assert exported(tmp_path, larger) == len(_numbers(tmp_path)) - total > 0
    studies = [loaded(tmp_path, cell.name) for cell in made.cells()]
    assert sorted(t.user_attrs["number"] for study in studies for t in study.trials) == _numbers(tmp_path)
    assert {study.direction.name for study in studies} == {"MAXIMIZE"}


def _numbers(folder: Path) -> list[int]:
    with Ledger.open(folder, create=False) as ledger:
        return [row["number"] for row in ledger.trials()]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("direction", ["min", "max"])
def test_several_objectives_are_all_values_each_in_its_own_direction(direction: str, tmp_path: Path) -> None:
    one: dict[str, Any] = {
        "strategy": "tune",
        "sampler": "qmc",
        "trials": 4,
        "batch_sizes": (64,),
        "schedules": {"constant": {}},
    }
    made = space(**one, metrics={"target": 0.5, "direction": direction})
    several = changed(made, objectives=("val_loss", "examples_to_target"))
    came: list[dict[str, Any]] = [
        {"value": 0.25, "hit": {"step": 2.0, "examples": 128.0, "seconds": 1.0}},
        {"value": 0.75},
        {"status": "DIVERGED", "value": None},
        {"value": 0.5, "hit": {"step": 1.0, "examples": 64.0, "seconds": 1.0}},
    ]
    with Ledger.open(tmp_path, create=True) as ledger:
        study = study_of(several)
        for fate in came:
            trial = study.ask()
            assert trial is not None
            ledger.ask([trial.to_json()])
            ledger.finish(result_of(trial, **fate).to_json())
            study.tell(trial, result_of(trial, **fate))
    # What an earlier version wrote of it went by the metric alone.
    assert exported(tmp_path, made) == exported(tmp_path, several) == 4 and exported(tmp_path, several) == 0
    found = loaded(tmp_path, "b64-sgd-constant")
    assert [way.name for way in found.directions] == [f"{direction}imize".upper(), "MINIMIZE"]
    assert found.metric_names == ["val_loss", "examples_to_target"]
    assert [trial.values for trial in found.trials] == [[0.25, 128.0], None, None, [0.5, 64.0]]
    assert [trial.state for trial in found.trials][1:3] == [TrialState.PRUNED] * 2
    assert found.trials[1].user_attrs["val_loss"] == 0.75
    best = [0, 3] if direction == "min" else [3]
    assert [trial.number for trial in found.best_trials] == best
