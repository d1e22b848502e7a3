"""A study's rows read back from MLflow alone, for a machine that has no folder of it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tracking.analysis.convergence import FIGURES
from tracking.analysis.objectives import marked
from tracking.client import connected, tracking_uri
from tracking.files import MEASURED
from tracking.projection import AXES, metric_key
from tracking.rows import EXPECTED, POINT_FIRST, TAGS, TO_TARGET, TOTALS, Row, with_expected
from tracking.runs import KEY, PARENT
from tracking.spans import Span, from_tags

PARALLEL = 8
"""Requests under way at once: every metric of every trial is one of its own, and a server is some way off."""
PAGE = 1000
"""Runs in one answer."""
GRID = ("batch_size", "optimizer", "schedule", "learning_rate")
"""What every trial was asked; the other searched parameters are named by the ranges of the search."""
WORDS = ("optimizer", "schedule")
"""Parameters that are text, whatever they look like."""
WHOLE = ("steps", "examples", "steps_to_target", "examples_to_target")
"""Integers, which MLflow keeps as floats."""
RESULT = "result/"
UNMETRIC = {key: name for name, key in AXES.items()}
USUAL = {"validation/": "val_", "train/": "train_"}
SEARCH_FIRST = "Run `regatta search` first."


@dataclass(frozen=True, kw_only=True, slots=True)
class Remote:
    """What MLflow holds of a study."""

    name: str
    trials: list[Row]
    """As `tracking.rows.trials` gives them, but for what MLflow is never sent: `index` and `wall_seconds` are None.

    Times of day are exact to a millisecond. A trial without any evaluation yet is not there.
    """
    curves: list[Row]
    """As `tracking.rows.curves` gives them, but for infinities, which MLflow has as NaN."""
    spans: Mapping[int, list[Span]]
    """As `tracking.rows.spans` gives them; of runs by an earlier version, one from start to end."""
    metrics: Mapping[str, Any]
    """objective, direction, select, target, ..., as the recipe says them; what it leaves out is absent."""
    space: Mapping[str, Any]
    """model, data, training, metrics and search, as the recipe says them, names with dots taken apart."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was measured besides the trials (`tracking.files.NOTED`); empty before the first report."""


def fetch(study: str | None, *, uri: str | None, home: Path) -> Remote:
    """Read a study, the newest of its name, or the newest of all if none is named; it may still be running.

    Args:
        study: its name.
        uri: MLflow's tracking URI; None: as `tracking.client.tracking_uri` finds it.
        home: the state folder.

    Raises:
        ValueError: if there is no such study.
        ConnectionError: if MLflow cannot be reached, or does not answer.
    """
    with connected(tracking_uri(uri, home), what="results", remedy=SEARCH_FIRST) as client:
        parent = search_run(client, study)
        found = runs_of(client, [parent.info.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'")
        runs = sorted((run for run in found if "trial" in run.data.tags), key=_number)
        with ThreadPoolExecutor(PARALLEL) as pool:
            histories = list(pool.map(partial(history_of, client), runs))
        notes = _notes(client, parent.info.run_id)
    flat = parent.data.params
    space = _tree(flat)
    metrics = space.get("metrics") or {"objective": "val_loss", "direction": "min"}
    names = _metric_names(runs, metrics)
    trials, curves = [], []
    for run, history in zip(runs, histories, strict=True):
        points = _points(run, history, names)
        trials.append(_trial(run, points, flat, metrics) | _on_training_examples(run, names))
        curves += [{"trial": _number(run), **dict.fromkeys(POINT_FIRST), **point} for point in points]
    return Remote(
        name=parent.data.tags["study"],
        trials=with_expected(marked(trials, space, metrics), notes.get(EXPECTED)),
        curves=curves,
        spans={number: found for number, found in map(_spans, runs) if found},
        metrics=metrics,
        space=space,
        notes=notes,
    )


# -- requests


def pages(search: Callable[..., Any]) -> Iterator[Any]:
    """All that one of MLflow's searches finds, whose answers come in pages."""
    token = None
    while True:
        answer = search(page_token=token)
        yield from answer
        token = answer.token
        if not token:
            return


def runs_of(client: Any, experiments: list[str], query: str) -> list[Any]:
    """Every run of these experiments that MLflow's query finds."""
    return list(pages(partial(client.search_runs, experiments, query, max_results=PAGE)))


def search_run(client: Any, study: str | None) -> Any:
    """The newest search of that name: the run that is parent of its trials' runs."""
    experiments = [found.experiment_id for found in pages(client.search_experiments)]
    searches = [
        run for run in runs_of(client, experiments, f"tags.`{KEY}` LIKE '%:search'") if "study" in run.data.tags
    ]
    names = sorted({run.data.tags["study"] for run in searches})
    if not names:
        raise ValueError("there must be a study in MLflow, but there is none. Run `regatta search` or `regatta sync`.")
    if study is not None and study not in names:
        raise ValueError(f"`study` must be one of {', '.join(names)}, which MLflow has, but got {study!r}.")
    wanted = [run for run in searches if study in (None, run.data.tags["study"])]
    return max(wanted, key=lambda run: run.info.start_time)


def history_of(client: Any, run: Any) -> dict[str, list[Any]]:
    """Every value of each metric of a run, but for what the whole trial came to."""
    keys = [key for key in run.data.metrics if not key.startswith(RESULT)]
    return {key: client.get_metric_history(run.info.run_id, key) for key in keys}


def _notes(client: Any, run: str) -> dict[str, Any]:
    """The file of notes; nothing where there is none, or where its place is out of reach from here."""
    try:
        if MEASURED not in [file.path for file in client.list_artifacts(run)]:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(client.download_artifacts(run, MEASURED, folder))
            notes: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return notes
    except OSError:
        return {}


# -- from MLflow's words to ours


def _number(run: Any) -> int:
    return int(run.data.tags["trial"])


def _metric_names(runs: Iterable[Any], metrics: Mapping[str, Any]) -> dict[str, str]:
    """What the module calls a metric, by MLflow's key for it."""
    best = f"{RESULT}best_"
    logged = {key.removeprefix(best) for run in runs for key in run.data.metrics if key.startswith(best)}
    # Last what the recipe says: there a name still has what MLflow would not take.
    asked = [str(metrics[key]) for key in ("objective", "target_metric", "train_loss") if metrics.get(key)]
    return {metric_key(name): name for name in [*sorted(logged), *asked]}


def _metric_name(key: str) -> str:
    """The usual name behind a key that no ended trial explains."""
    group, slash, rest = key.partition("/")
    return USUAL.get(group + slash, group + slash) + rest


def _points(run: Any, history: Mapping[str, list[Any]], names: Mapping[str, str]) -> list[Row]:
    """The evaluations of one trial by step."""
    points: dict[int, Row] = {}
    size = _value(run.data.params["batch_size"]) if "batch_size" in run.data.params else None
    for key, values in history.items():
        name = UNMETRIC.get(key) or names.get(key) or _metric_name(key)
        # In the order of their times: of a trial that had to start again, the second try.
        for metric in values:
            known = points.setdefault(metric.step, {"step": metric.step, "batch_size": size})
            known[name] = _whole(metric.value) if name == "examples" else metric.value
    return [points[step] for step in sorted(points)]


def _trial(run: Any, points: list[Row], flat: Mapping[str, str], metrics: Mapping[str, Any]) -> Row:
    tags, params = run.data.tags, run.data.params
    result = {key.removeprefix(RESULT): value for key, value in run.data.metrics.items() if key.startswith(RESULT)}
    ended = "steps" in result
    known: Row = {
        "number": _number(run),
        "cell": tags["cell"],
        "index": None,
        "phase": tags["phase"],
        "status": tags["status"],
        "reason": tags.get("reason"),
    }
    known |= {name: _result(name, result.get(name)) for name in (*TOTALS, *TO_TARGET, "hit_after", *FIGURES)}
    known["censoring"] = tags.get("censoring")
    known["started"] = run.info.start_time / 1000
    known["ended"] = run.info.end_time / 1000 if ended else None
    known |= {name: tags.get(name) for name in ("worker", *TAGS)}
    known |= {"seed_init": int(tags["seed"]), "accumulate": int(params["accumulate"])}
    if ended:
        known |= _chosen(points, result.get("best_step"), metrics["objective"])
    return {**{name: _parameter(name, params[name]) for name in _asked(flat, params)}, **known}


def _spans(run: Any) -> tuple[int, list[Span]]:
    info, tags = run.info, run.data.tags
    found = from_tags(tags)
    if not found and info.end_time and tags.get("worker"):
        found = [Span(info.start_time / 1000, info.end_time / 1000, tags["worker"])]
    return _number(run), found


def _on_training_examples(run: Any, names: Mapping[str, str]) -> Row:
    """What validation says of training examples, and the generalization gaps."""
    found: Row = {}
    for key, value in run.data.metrics.items():
        part, underscore, name = key.removeprefix(RESULT).partition("_")
        if key.startswith(RESULT) and part in ("fit", "gap"):
            found[part + underscore + names.get(metric_key(name), name)] = value
    return found


def _chosen(points: list[Row], best_step: float | None, objective: str) -> Row:
    """The best and the last evaluation of a trial, as its result has them."""
    best = next((point for point in points if point["step"] == best_step), {})
    measured = [point for point in points if math.isfinite(point.get(objective, math.nan))]
    final = measured[-1] if measured else {}
    return {f"best_{name}": value for name, value in best.items()} | {
        f"final_{name}": value for name, value in final.items()
    }


def _asked(flat: Mapping[str, str], params: Mapping[str, str]) -> Iterator[str]:
    """Which params of a trial were asked: the grid's, and those that have a range in the search."""
    for name in params:
        head, _, argument = name.partition(".")
        places = [f"search.parameters.{name}"]
        if head in WORDS and head in params:
            places.append(f"search.{head}s.{params[head]}.{argument}")
        if name in GRID or any(f"{place}.{end}" in flat for place in places for end in ("low", "values")):
            yield name


def _result(name: str, value: float | None) -> float | None:
    return _whole(value) if value is not None and name in WHOLE else value


def _whole(value: float) -> float:
    return int(value) if value.is_integer() else value


def _parameter(name: str, text: str) -> Any:
    return text if name in WORDS else _value(text)


def _value(text: str) -> Any:
    """A param's value: JSON, or text as it stands."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _tree(flat: Mapping[str, str]) -> dict[str, Any]:
    """The nest of mappings behind dotted names."""
    tree: dict[str, Any] = {}
    for name, text in flat.items():
        *path, leaf = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = _value(text)
    return tree
