"""Everything that is worked out from a study, laws and comparisons over its cells: `analyse(load(folder))`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracking.analysis.cell_checks import Check
from tracking.analysis.cells import CellResult, cell_of, records_of
from tracking.analysis.checks import checks
from tracking.analysis.convergence import Convergence, cell_speed
from tracking.analysis.curves import loss
from tracking.analysis.data import StudyData
from tracking.analysis.judging import rank
from tracking.analysis.rate_laws import RateLaw, rate_law
from tracking.analysis.scaling import Hyperbola, Regime, economical_batch, fit_hyperbola, regimes
from tracking.analysis.timing import StepTime, TimeOptimal, fit_step_time, time_optimal
from tracking.analysis.verdicts import Verdict, compare

CONFIRM = "confirm"
"""The phase of trials that run a configuration again on fresh seeds: no part of the search (methodology 1.11)."""
OVERALL = "best of all"
"""Name of the method that takes the best cell of each batch size."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """All cells of one optimizer and schedule, and the laws fitted over their batch sizes."""

    name: str
    cells: Sequence[CellResult]
    """By batch size."""
    hyperbola: Hyperbola | None
    economical: float | None
    """Largest batch size that costs at most a fifth more examples than the cheapest."""
    law: RateLaw | None
    step_time: StepTime | None
    time_optimal: TimeOptimal | None

    @property
    def regimes(self) -> list[Regime]:
        """What each next larger batch size saves, over the cells whose rate was searched."""
        tuned = [cell for cell in self.cells if cell.searched]
        return regimes([cell.batch_size for cell in tuned], [cell.steps for cell in tuned])


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything that the report shows of a study."""

    data: StudyData
    cells: Sequence[CellResult]
    methods: Sequence[Method]
    overall: Method | None
    """The best cell of each batch size, whatever its schedule; the only method where there is but one."""
    easier: Method | None
    """The same as `overall`, but to the easier target; None without one."""
    checks: Sequence[Check]
    statuses: Mapping[str, int]
    verdicts: Sequence[Verdict]
    """The best configuration against each other one on fresh seeds; empty if nothing was run again."""

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes of the grid, ascending."""
        return sorted({cell.batch_size for cell in self.cells})

    @property
    def ranked(self) -> list[CellResult]:
        """Cells with a result, the best first."""
        judged = [(rank(cell.best, self.data.sign), cell) for cell in self.cells if cell.best is not None]
        return [cell for _, cell in sorted(judged, key=lambda pair: pair[0])]

    @property
    def fastest(self) -> CellResult | None:
        """The cell that reaches the target in the fewest steps; of several, on the fewest examples."""
        arrived = [cell for cell in self.cells if math.isfinite(cell.steps)]
        return min(arrived, key=lambda cell: (cell.steps, cell.batch_size), default=None)


def analyse(data: StudyData) -> Analysis:
    """Work out every quantity of the report."""
    verdicts = _verdicts(data)
    # What was run again is no part of the search: from here on, only that is looked at.
    searched = [row for row in data.trials if row["phase"] != CONFIRM]
    data = replace(data, trials=searched)
    records = records_of(data, searched)
    rows = defaultdict(list)
    for row in searched:
        rows[row["cell"]].append(row)
    cells = [cell_of(data, name, members, records) for name, members in rows.items()]
    cells.sort(key=lambda cell: cell.batch_size)
    methods = [_method(data, name, cells) for name in dict.fromkeys(cell.method for cell in cells)]
    return Analysis(
        data=data,
        cells=cells,
        methods=methods,
        overall=methods[0] if len(methods) == 1 else _overall(data, cells) if methods else None,
        easier=_easier(data, cells),
        checks=_checks(data, cells, records),
        statuses=Counter(row["status"] for row in data.trials),
        verdicts=verdicts,
    )


def _easier(data: StudyData, cells: Sequence[CellResult]) -> Method | None:
    """The best of each batch size once more, by its steps to the easier target."""
    if data.target is None or data.easier_target is None or not cells:
        return None
    nearer = replace(data, metrics={**data.metrics, "target": data.easier_target})
    records = records_of(nearer, [row for cell in cells for row in cell.trials])
    again = []
    for cell in cells:
        mine = [records[row["number"]] for row in cell.trials]
        again.append(replace(cell, records=mine, speed=cell_speed(cell.name, cell.batch_size, mine)))
    return _overall(nearer, again)


def _method(data: StudyData, name: str, cells: Sequence[CellResult]) -> Method:
    mine = [cell for cell in cells if cell.method == name]
    return _fitted(data, name, mine, law=_law(mine))


def _overall(data: StudyData, cells: Sequence[CellResult]) -> Method:
    """The fastest cell of each batch size; where none arrived, the one of the best value."""
    sizes = defaultdict(list)
    for cell in cells:
        sizes[cell.batch_size].append(cell)
    best = [
        min(mine, key=lambda cell: (cell.steps, loss(cell.best["value"], data.direction) if cell.best else math.inf))
        for mine in sizes.values()
    ]
    return _fitted(data, OVERALL, best, law=None)


def _fitted(data: StudyData, name: str, cells: Sequence[CellResult], *, law: RateLaw | None) -> Method:
    tuned = [cell for cell in cells if cell.searched]
    sizes, steps = [cell.batch_size for cell in tuned], [cell.steps for cell in tuned]
    timed = [(cell.batch_size, cell.step_seconds) for cell in cells if cell.step_seconds]
    hyperbola = fit_hyperbola(sizes, steps) if data.target is not None else None
    step_time = fit_step_time([size for size, _ in timed], [seconds for _, seconds in timed]) if timed else None
    return Method(
        name=name,
        cells=cells,
        hyperbola=hyperbola,
        economical=economical_batch(sizes, steps) if len(sizes) > 1 else None,
        law=law,
        step_time=step_time,
        time_optimal=time_optimal(hyperbola, step_time, largest=data.largest) if hyperbola and step_time else None,
    )


def _law(cells: Sequence[CellResult]) -> RateLaw | None:
    tuned = [(cell.batch_size, cell.optimum) for cell in cells if cell.optimum is not None and cell.searched]
    if not tuned:
        return None
    return rate_law([size for size, _ in tuned], [optimum for _, optimum in tuned], optimizer=cells[0].optimizer)


def _checks(data: StudyData, cells: Sequence[CellResult], records: Mapping[int, Convergence]) -> list[Check]:
    bounds = {cell.name: cell.bounds for cell in cells if cell.bounds is not None}
    searched = [row for cell in cells for row in cell.trials]
    strategy = str((data.space.get("search") or {}).get("strategy") or "compare")
    return checks(searched, data.curves, records, bounds, metrics=data.metrics, strategy=strategy)


def _verdicts(data: StudyData) -> list[Verdict]:
    runs = _verified(data) if data.verification is None else _noted(data.verification)
    return compare(runs, direction=data.direction)[1] if len(runs) > 1 else []


def _noted(verification: Mapping[str, Any]) -> dict[str, list[float]]:
    """The finalists' values as the ledger has them."""
    return {one["name"]: list(one["values"]) for one in verification["finalists"] if one["values"]}


def _verified(data: StudyData) -> dict[str, list[float]]:
    """The same from the rows alone: infinity where a training diverged, nothing where it failed."""
    runs: dict[str, list[float]] = defaultdict(list)
    for row in data.trials:
        if row["phase"] == CONFIRM and row["status"] in ("COMPLETE", "DIVERGED"):
            rate = row.get("learning_rate")
            name = row["cell"] if rate is None else f"{row['cell']} at {rate:.3g}"
            runs[name].append(float(row["value"]) if row["status"] == "COMPLETE" else math.inf)
    return runs
