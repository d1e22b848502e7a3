"""The report of a study: one self-contained page and pictures: what to use, and how sure that is."""

from __future__ import annotations

import dataclasses
import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import vl_convert

from tracking.analysis.data import StudyData, load
from tracking.analysis.study import Analysis, analyse
from tracking.report.drawing import Figure, Panel
from tracking.report.page import VEGA_LITE, render
from tracking.report.panels_budget import budget_panel
from tracking.report.panels_cost import pareto_panel, seconds_panel
from tracking.report.panels_finalists import finalists_panel
from tracking.report.panels_front import front_panel
from tracking.report.panels_generalization import generalization_panel
from tracking.report.panels_importance import importance_panel
from tracking.report.panels_law import law_panel
from tracking.report.panels_promotion import promotion_panel, ranks_panel
from tracking.report.panels_rates import axis_panel
from tracking.report.panels_rungs import rungs_panel
from tracking.report.panels_schedules import schedules_panel
from tracking.report.panels_slices import contour_panel, slices_panel
from tracking.report.panels_steps import steps_panel
from tracking.report.panels_timeline import timeline_panel
from tracking.report.panels_training import curves_panel, noise_panel
from tracking.report.verdict import facts, headline

PANELS = (
    steps_panel,
    pareto_panel,
    seconds_panel,
    axis_panel,
    law_panel,
    schedules_panel,
    curves_panel,
    noise_panel,
    generalization_panel,
    budget_panel,
    finalists_panel,
    timeline_panel,
    front_panel,
    rungs_panel,
    promotion_panel,
    ranks_panel,
    importance_panel,
    slices_panel,
    contour_panel,
)
"""In the order of the page."""
SCALE = 1.5
"""Pixels of a PNG per pixel of its figure."""


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What was written."""

    page: Path
    pictures: tuple[Path, ...]
    analysis: Analysis


def write(folder: Path, data: StudyData | None = None) -> ReportFiles:
    """Write `report.html` and `report/<figure>.png` into a study's folder; a picture of an earlier report is replaced.

    Args:
        data: what to report on, if not what the folder's ledger holds.

    Raises:
        ValueError: if the folder holds no ledger.
    """
    folder = Path(folder)
    analysis = analyse(data or load(folder))
    panels = panels_of(analysis)
    page = folder / "report.html"
    text = render(
        title=f"{analysis.data.name}: which batch size, learning rate and schedule?",
        verdict=headline(analysis),
        facts=facts(analysis),
        checks=analysis.checks,
        panels=panels,
    )
    _replace(page, text.encode("utf-8"))
    return ReportFiles(page=page, pictures=_pictures(panels, folder / "report"), analysis=analysis)


def panels_of(analysis: Analysis) -> list[Panel]:
    """All panels that apply, each with the warnings that concern it."""
    panels = [panel for build in PANELS if (panel := build(analysis)) is not None]
    return [
        dataclasses.replace(panel, warnings=[check for check in analysis.checks if check.name in panel.concerns])
        for panel in panels
    ]


def key_figures(analysis: Analysis) -> dict[str, float]:
    """The quantities of the study as a whole, by name: only those that can be given, all finite."""
    method = analysis.overall
    if method is None:
        return {}
    found: dict[str, float] = {}
    fit, best = method.hyperbola, method.time_optimal
    if fit is not None and fit.reason is None and fit.bracketed:
        found |= {"critical_batch_size": fit.critical, "critical_batch_size_low": fit.low}
        found |= {"critical_batch_size_high": fit.high, "fewest_steps": fit.s_min, "fewest_examples": fit.e_min}
    easier = None if analysis.easier is None else analysis.easier.hyperbola
    if easier is not None and easier.reason is None and easier.bracketed:
        found["critical_batch_size_easier_target"] = easier.critical
    if method.economical is not None:
        found["economical_batch_size"] = method.economical
    if best is not None and best.reason is None:
        found |= {"time_optimal_batch_size": best.batch_size, "time_optimal_seconds": best.seconds}
    laws = {m.name: m.law for m in analysis.methods if m.law is not None and m.law.reason is None}
    alone = len(analysis.methods) == 1
    found |= {"lr_batch_exponent" + ("" if alone else f"/{name}"): law.exponent for name, law in laws.items()}
    if analysis.fastest is not None:
        found["steps_to_target"] = analysis.fastest.steps
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _pictures(panels: Sequence[Panel], folder: Path) -> tuple[Path, ...]:
    folder.mkdir(exist_ok=True)
    written = [_picture(panel, figure, folder) for panel in panels for figure in panel.figures]
    for stale in set(folder.glob("*.png")) - set(written):
        stale.unlink()
    return tuple(written)


def _picture(panel: Panel, figure: Figure, folder: Path) -> Path:
    path = folder / f"{figure.name}.png"
    # On the page the question stands above the figure; a picture goes alone.
    spec = figure.spec | {"title": {"text": panel.question, "anchor": "start", "fontSize": 15, "offset": 12}}
    _replace(path, vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=SCALE))
    return path


def _replace(path: Path, content: bytes) -> None:
    """The whole file or the one that was there: somebody may be looking at it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
