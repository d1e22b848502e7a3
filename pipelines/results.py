"""What a search came to: the ranked table, and two sentences that read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from models.config import MetricsConfig
from search.space import parameter_names
from search.study import Study
from search.trial import TrialConfig, TrialResult

Ranked = tuple[TrialConfig, TrialResult]
ROWS = 30
"""Cells listed at most; `trials.csv` has them all."""


def other_metrics(ranking: Sequence[Ranked], metrics: MetricsConfig) -> list[str]:
    """Validation metrics that the module logs besides the objective."""
    logged = dict.fromkeys(name for _, result in ranking for name in result.best)
    return [name for name in logged if name.startswith(("val", "valid")) and name != metrics.objective]


def columns(study: Study) -> dict[str, Callable[[TrialConfig, TrialResult], str]]:
    """Headings of the table, and what stands under each."""
    metrics = study.space.metrics
    several = len(study.space.search.optimizers) > 1
    found: dict[str, Callable[[TrialConfig, TrialResult], str]] = {
        "batch size": lambda trial, _: str(trial.params["batch_size"]),
        **({"optimizer": lambda trial, _: str(trial.params["optimizer"])} if several else {}),
        "schedule": lambda trial, _: str(trial.params["schedule"]),
    }
    found["learning rate"] = lambda trial, _: _rate(trial)
    for name in parameter_names([cell.cell for cell in study.cells.values()]):
        if name == "learning_rate":
            continue
        found[_heading(name)] = lambda trial, _, name=name: _short(trial.params.get(name, ""))  # type: ignore[misc]
    found[metrics.objective] = lambda _, result: _short(result.value)
    if study.expected:
        found["expected"] = lambda trial, _: _short(study.expected[trial.number].value)
    for name in other_metrics(study.ranking(), metrics)[:2]:
        found[name] = lambda _, result, name=name: _short(result.best.get(name, ""))  # type: ignore[misc]
    found["trial"] = lambda trial, _: str(trial.number)
    if metrics.target is not None:
        found[f"epochs to {target(metrics)}"] = lambda _, result: _short(result.hit["epoch"]) if result.hit else "never"
        found["seconds"] = lambda _, result: f"{result.hit['seconds']:.2f}" if result.hit else ""
    return found


def table(study: Study) -> Table:
    """The best trial of every cell, best first."""
    shown, title = columns(study), "best trial of each cell" + (", by what is expected" if study.expected else "")
    result = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in ["", *shown]:
        words = name in ("optimizer", "schedule")
        result.add_column(name, justify="left" if words else "right", no_wrap=not name.startswith("epochs"))
    for place, (trial, outcome) in enumerate(study.ranking()[:ROWS], start=1):
        cells = [value(trial, outcome) for value in shown.values()]
        result.add_row(str(place), *cells, style="bold" if place == 1 else None)
    return result


def _heading(name: str) -> str:
    """A sampled parameter without the path that leads to it: `model.init_args.network.class_path` is the network."""
    *path, last = name.split(".")
    return path[-1] if last == "class_path" else last


def _rate(trial: TrialConfig) -> str:
    rate = trial.params.get("learning_rate")
    return "own" if rate is None else f"{rate:.3g}"


def _short(value: Any) -> str:
    """Four significant digits; of an import path, the class."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).rpartition(".")[2] if isinstance(value, str) else str(value)


def target(metrics: MetricsConfig) -> str:
    """The target in words."""
    sign = "≤" if (metrics.target_direction or metrics.direction) == "min" else "≥"
    return f"{metrics.target_name} {sign} {metrics.target:g}"


def sentences(study: Study) -> list[str]:
    """What the table says: the best configuration and how far ahead it is, and which one converges fastest."""
    ranking = study.ranking()
    if not ranking:
        return ["No trial has completed, so there is nothing to compare; `trials.csv` has the reason of each."]
    return [_best(study, ranking), _fastest(study)]


def _best(study: Study, ranking: Sequence[Ranked]) -> str:
    trial, result = ranking[0]
    if study.expected:
        return _expected(study, ranking)
    text = f"Best: {_named(trial)} ({study.space.metrics.objective} {result.value:.4g}, trial {trial.number})"
    if len(ranking) < 2:
        return text + "."
    second, behind = ranking[1]
    gap = abs(_value(behind) - _value(result))
    return (
        f"{text}, {gap:.2g} ahead of {_named(second)}; each is a single run, and other seeds may rank them otherwise."
    )


def _expected(study: Study, ranking: Sequence[Ranked]) -> str:
    """The same by what all trials together say; and what the best single value is worth."""
    (trial, result), expected = ranking[0], study.expected
    figure = f"{study.space.metrics.objective} {expected[trial.number].value:.4g}"
    text = f"Best: {_named(trial)} ({figure} expected on a fresh seed; trial {trial.number} came to {result.value:.4g})"
    lucky, best = study.leaders()[0]
    there = expected[lucky.number].value if lucky.number in expected else _value(best)
    if lucky.number == trial.number or study.sign * (there - _value(best)) <= 0:
        return f"{text}. `regatta verify` tries it on fresh seeds."
    return (
        f"{text}. The best value, {best.value:.4g} of trial {lucky.number}, is partly luck: "
        f"{there:.4g} is expected there. `regatta verify` tries the best on fresh seeds."
    )


def _fastest(study: Study) -> str:
    metrics = study.space.metrics
    if metrics.target is None:
        return "No target was set (`metrics.target`), so speed of convergence is not compared."
    hits = [
        (result.hit["examples"], trial.number, trial, result.hit)
        for cell in study.cells.values()
        for trial in cell.ended()
        if (result := cell.results[trial.index]).hit is not None
    ]
    ended = sum(len(cell.results) for cell in study.cells.values())
    if not hits:
        return f"None of {ended} trials reached {target(metrics)}: set `metrics.target` within reach, or train longer."
    _, _, trial, hit = min(hits)
    # Of as many steps, those on fewer examples: as in the report.
    *_, largest, steps = min((entry[3]["step"], *entry) for entry in hits)
    text = (
        f"{len(hits)} of {ended} trials reached {target(metrics)}: on the fewest examples {_named(trial)} "
        f"({hit['epoch']:.3g} epoch{'' if hit['epoch'] == 1 else 's'})"
    )
    if largest is trial:
        return f"{text}, which also took the fewest steps ({steps['step']:.0f})."
    return f"{text}, in the fewest steps {_named(largest)} ({steps['step']:.0f} steps)."


def _named(trial: TrialConfig) -> str:
    rate = trial.params.get("learning_rate")
    at = "" if rate is None else f" at learning rate {rate:.3g}"
    return f"batch size {trial.params['batch_size']} with {trial.params['optimizer']}, {trial.params['schedule']}{at}"


def _value(result: TrialResult) -> float:
    assert result.value is not None, "only complete trials are ranked"
    return result.value


def description(study: Study, said: Sequence[str]) -> str:
    """The search in a few lines of Markdown, for its run in MLflow."""
    ranking, metrics, expected = study.ranking(), study.space.metrics, study.expected
    heads = ["batch size", "schedule", "learning rate", metrics.objective, *(["expected"] if expected else []), "trial"]
    lines = [*said, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for trial, result in ranking[:ROWS]:
        rate = trial.params.get("learning_rate")
        cells = [trial.params["batch_size"], f"{trial.params['optimizer']} {trial.params['schedule']}"]
        cells += ["own" if rate is None else f"{rate:.3g}", f"{result.value:.4g}"]
        cells += [*([f"{expected[trial.number].value:.4g}"] if expected else []), trial.number]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def figures(study: Study) -> dict[str, float]:
    """Key figures of a search, as metrics of its own run in MLflow.

    `result/value` is what the recommended trial came to: it may get worse when another is recommended.
    """
    ended = [result for cell in study.cells.values() for result in cell.results.values()]
    counts = {
        f"trials/{status.lower()}": float(sum(r.status == status for r in ended))
        for status in {r.status for r in ended}
    }
    best = {"result/value": _value(study.ranking()[0][1])} if study.ranking() else {}
    if study.expected:
        best["result/expected"] = study.expected[study.ranking()[0][0].number].value
    return {
        **counts,
        "trials/all": float(len(ended)),
        "progress/examples": float(sum(r.examples for r in ended)),
        **best,
    }
