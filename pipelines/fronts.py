"""What a search with objectives of its own came to: the front as a table, and which of it was chosen."""

from __future__ import annotations

import math

from rich.table import Table

from models.config import MetricsConfig
from pipelines import results
from search.objectives import ObjectiveStudy
from search.study import Study
from search.trial import TrialResult
from tracking.analysis.objectives import COST, TO_TARGET

ROWS = 20
"""Trials listed at most; `trials.csv` has them all."""


def sentences(study: Study) -> list[str]:
    """What is to be said of a search; by objectives of its own where it has them."""
    said = results.sentences(study)
    if not isinstance(study, ObjectiveStudy) or not study.ranking():
        return said
    return [chosen(study), *said[1:]]


def chosen(study: ObjectiveStudy) -> str:
    """The best configuration, and by which rule it is the best."""
    trial, result = study.ranking()[0]
    score, metrics = study.score(result), study.space.metrics
    came = zip(study.objectives, score.losses, strict=True)
    named = ", ".join(f"{name} {shown(name, loss, metrics)}" for name, loss in came)
    what = f"{trial.described} ({named}, trial {trial.number})"
    if not score.arrived:
        return (
            f"No complete trial reached {results.target(metrics)}; the best by {metrics.objective}: {what}. Set "
            "`metrics.target` within reach, or train longer."
        )
    if len(study.front()) < 2:
        by = "in every objective" if study.several else f"by {study.objectives[0]}"
        return f"Best {by}: {what}; it is a single run, and other seeds may rank it otherwise."
    rule = f"the best in {study.objectives[0]}" if study.space.search.choose == "first" else "nearest to the ideal"
    other = "knee" if study.space.search.choose == "first" else "first"
    return (
        f"Chosen of {len(study.front())} on the front, {rule}: {what}. `--search.choose {other}` chooses otherwise; "
        "each is a single run, and other seeds may rank them otherwise."
    )


def front_table(study: ObjectiveStudy) -> Table:
    """The trials of the front by their first objective, the chosen one bold."""
    title = f"the front: {len(study.front())} of {len(study.top(len(study.trials())))} complete trials"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    given = {name: show for name, show in results.columns(study).items() if name in _asked(study)}
    words = ("optimizer", "schedule")
    for name in (*given, *study.objectives, "trial"):
        table.add_column(name, justify="left" if name in words else "right")
    best = study.ranking()[0][0].number if study.ranking() else None
    for trial, result in study.front()[:ROWS]:
        cells = [*(show(trial, result) for show in given.values()), *values(study, result), str(trial.number)]
        table.add_row(*cells, style="bold" if trial.number == best else None)
    return table


def _asked(study: ObjectiveStudy) -> list[str]:
    """Headings of what was asked of a trial: those up to its results."""
    names = list(results.columns(study))
    return names[: names.index(study.space.metrics.objective)]


def values(study: ObjectiveStudy, result: TrialResult) -> list[str]:
    """What a trial came to in each objective."""
    losses = study.score(result).losses
    return [shown(name, loss, study.space.metrics) for name, loss in zip(study.objectives, losses, strict=True)]


def shown(name: str, loss: float, metrics: MetricsConfig) -> str:
    """A loss as the figure that it is of: the metric in its own direction, whole steps and examples, seconds."""
    if not math.isfinite(loss):
        return "never"
    if name not in (*TO_TARGET, COST):
        return f"{loss if metrics.direction == 'min' else -loss:.4g}"
    return f"{loss:.3g} s" if name in ("seconds_to_target", COST) else f"{loss:,.0f}"
