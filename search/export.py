"""The ledger's trials as Optuna studies in `optuna.db`, for `optuna.load_study` and optuna-dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import optuna

from search.cell_study import CellStudy
from search.objectives import study_of
from search.space import SearchSpace
from search.trial import recorded
from tracking.ledger import Ledger

FILE = "optuna.db"


def export(ledger: Ledger, space: SearchSpace, folder: Path) -> int:
    """Write what is not there yet, one Optuna study for each cell, named `<study>/<cell>`; returns the trials added.

    Incremental: trials already written are left as they are. A trial that has not ended is left out for now.
    """
    study = study_of(space)
    study.restore(recorded(ledger.trials()))
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
    try:
        return sum(_export_cell(storage, cell, f"{folder.name}/{cell.cell.name}") for cell in study.cells.values())
    finally:
        storage.engine.dispose()


def _export_cell(storage: Any, cell: CellStudy, name: str) -> int:
    direction: Literal["minimize", "maximize"] = "maximize" if cell.space.metrics.direction == "max" else "minimize"
    target = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    written = {trial.user_attrs["number"] for trial in target.get_trials(deepcopy=False)}
    new = [trial for trial in cell.frozen() if trial.user_attrs["number"] not in written]
    target.add_trials(new)
    return len(new)
