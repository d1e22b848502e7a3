"""The ledger's trials as Optuna studies in `optuna.db`, for `optuna.load_study` and optuna-dashboard."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.cell_study import CellStudy
from search.objectives import ObjectiveStudy, study_of
from search.space import SearchSpace
from search.study import Study
from search.trial import recorded
from tracking.ledger import Ledger

FILE = "optuna.db"


def export(ledger: Ledger, space: SearchSpace, folder: Path) -> int:
    """Write what is not there yet, one Optuna study for each cell, named `<study>/<cell>`; returns the trials added.

    Incremental: trials already written are left as they are. A trial that has not ended is left out for now. A search
    with objectives of its own has them all as values, each in its own direction.
    """
    study = study_of(space)
    study.restore(recorded(ledger.trials()))
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
    try:
        return sum(_export_cell(storage, folder.name, study, cell) for cell in study.cells.values())
    finally:
        storage.engine.dispose()


def _export_cell(storage: Any, prefix: str, study: Study, cell: CellStudy) -> int:
    target = _target(storage, f"{prefix}/{cell.cell.name}", study)
    written = {trial.user_attrs["number"] for trial in target.get_trials(deepcopy=False)}
    new = [trial for trial in _trials(study, cell) if trial.user_attrs["number"] not in written]
    target.add_trials(new)
    return len(new)


def _target(storage: Any, name: str, study: Study) -> optuna.Study:
    """Optuna's study of that name; a new one in place of one that an earlier version wrote by the metric alone."""
    metrics = study.space.metrics
    ways = study.directions if isinstance(study, ObjectiveStudy) else {metrics.objective: metrics.direction}
    directions = [StudyDirection.MINIMIZE if way == "min" else StudyDirection.MAXIMIZE for way in ways.values()]
    target = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    if target.directions != directions:
        optuna.delete_study(study_name=name, storage=storage)
        target = optuna.create_study(storage=storage, study_name=name, directions=directions)
    if len(ways) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            target.set_metric_names(list(ways))
    return target


def _trials(study: Study, cell: CellStudy) -> list[FrozenTrial]:
    if not isinstance(study, ObjectiveStudy):
        return cell.frozen()
    results = (cell.results[trial.index] for trial in cell.ended())
    names = study.objectives
    return [
        _judged(trial, study.figures(result) if result.status == "COMPLETE" else {}, names)
        for trial, result in zip(cell.frozen(), results, strict=True)
    ]


def _judged(trial: FrozenTrial, figures: Mapping[str, float], names: Sequence[str]) -> FrozenTrial:
    """The trial by its objectives: PRUNED, with what is known of them, where it never came to one of them."""
    whole = len(figures) == len(names)
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if trial.state is TrialState.COMPLETE and not whole else trial.state,
        values=[figures[name] for name in names] if whole else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**trial.user_attrs, **({} if whole else figures)},
    )
