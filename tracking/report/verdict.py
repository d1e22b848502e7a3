"""The head of the page: what was studied, what to use, how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime

from tracking.analysis.data import StudyData, is_number
from tracking.analysis.importance import importances
from tracking.analysis.judging import behind, figure
from tracking.analysis.rungs import is_tune, promotion_of, rung_results
from tracking.analysis.study import Analysis
from tracking.report import words
from tracking.report.panels_importance import importance_sentence
from tracking.report.panels_promotion import promotion_sentence
from tracking.rows import Row


def headline(analysis: Analysis) -> list[str]:
    """The verdict in plain words: what to use, how much better than the next, how sure; and what is fastest."""
    if not analysis.ranked:
        return ["No trial has a result yet: there is nothing to recommend."]
    verified = analysis.data.verification
    if verified is not None:
        return [*verified["sentences"], *_stale(analysis), *_tuned(analysis), *_speed(analysis)]
    return [_recommended(analysis), *_sure(analysis), *_tuned(analysis), *_speed(analysis)]


def _tuned(analysis: Analysis) -> Iterator[str]:
    """Of a search for the best alone: how far trials came, and what mattered most."""
    if not is_tune(analysis.data):
        return
    if promotion_of(analysis.data)["rule"] != "none":
        yield promotion_sentence(analysis.data, rung_results(analysis.data))
    result = importances(analysis.data)
    if result.found:
        yield importance_sentence(result)


def _stale(analysis: Analysis) -> Iterator[str]:
    """Say if the search has gone on since."""
    verified = analysis.data.verification
    ended = sum(row["status"] != "RUNNING" for row in analysis.data.trials)
    if verified is not None and verified["searched"] != ended:
        yield (
            f"The search has gone on since these were chosen (from {verified['searched']} trials, now {ended}): "
            "`regatta verify` looks again."
        )


def _recommended(analysis: Analysis) -> str:
    first = analysis.ranked[0]
    assert first.best is not None, "a ranked cell has a best trial"
    rate = first.best.get("learning_rate")
    own = f"Use batch size {first.batch_size:,} with the schedule {first.schedule} and the optimizer {first.optimizer}"
    peak = f" at a peak learning rate of {words.number(rate)}" if is_number(rate) else ""
    best = _came_to(analysis.data, first.best)
    if len(analysis.ranked) < 2:
        return f"{own}{peak}: {best}. No other cell has a result to compare it with."
    second = analysis.ranked[1]
    assert second.best is not None, "a ranked cell has a best trial"
    lead = behind(second.best, first.best, analysis.data.sign)
    if math.isnan(lead):
        return f"{own}{peak}: {best}. Of no other cell is anything expected to compare it with."
    mine, theirs = words.number(figure(first.best)), words.number(figure(second.best))
    ahead = "level with" if mine == theirs else _ahead(lead)
    next_one = words.configuration(second, second.best.get("learning_rate"))
    return f"{own}{peak}: {best}, {ahead} the next ({next_one}: {theirs})."


def _ahead(lead: float) -> str:
    """Of what is ahead by its bound: in the middle it may be level or behind."""
    return f"{words.number(lead)} better than" if lead > 0 else "more surely good than"


def _came_to(data: StudyData, row: Row) -> str:
    came = words.number(row["value"])
    if not is_number(row.get("expected")):
        return f"{data.objective} {came}, trial {row['number']}"
    expected = words.number(row["expected"])
    return f"{data.objective} {expected} expected on a fresh seed (trial {row['number']} came to {came})"


def _sure(analysis: Analysis) -> Iterator[str]:
    if analysis.verdicts:
        for verdict in analysis.verdicts:
            yield f"On fresh seeds, against {verdict.against}: {verdict.outcome}."
        return
    first = analysis.ranked[0]
    assert first.best is not None, "a ranked cell has a best trial"
    if is_number(first.best.get("expected")):
        yield _expected(analysis.data)
        return
    yield (
        "This is one seed per trial, and the best of many trials is partly the luckiest: other seeds may rank them "
        "otherwise. Only runs on fresh seeds can tell."
    )
    record = next(record for record in first.records if record.number == first.best["number"])
    noise = record.last_sd
    if noise and noise > 0:
        beside = _beside(analysis, noise)
        yield (
            f"For scale: the last evaluations of this training scatter by {words.number(noise)}{beside}. That is the "
            "scatter within one training alone: another seed, or other validation examples, may move its best value by "
            "more."
        )


def _expected(data: StudyData) -> str:
    """Where that comes from, and what becomes of the best value of a complete trial."""
    said = "Expected is what all trials together say (a Gaussian process over the space of the search)"
    known = [row for row in data.trials if is_number(row.get("expected"))]
    lucky = min(known, key=lambda row: (data.sign * row["value"], row["number"]))
    if data.sign * (lucky["expected"] - lucky["value"]) > 0:
        said += (
            f": the best single value, {words.number(lucky['value'])} of trial {lucky['number']}, is partly luck, as "
            f"{words.number(lucky['expected'])} is expected there"
        )
    return f"{said}. Only runs on fresh seeds can tell for sure."


def _beside(analysis: Analysis, noise: float) -> str:
    """How many of the other cells come as close as that to the best; nothing where it is alone."""
    first, *others = (cell.best for cell in analysis.ranked)
    if not others or first is None:
        return ""
    near = sum(other is not None and abs(other["value"] - first["value"]) <= noise for other in others)
    if not near:
        return ", and the next best cell is further behind than that"
    return f", and {words.count(near, 'other cell')} {'lies' if near == 1 else 'lie'} within that of the best"


def _speed(analysis: Analysis) -> Iterator[str]:
    data, quick = analysis.data, analysis.fastest
    if data.target is None:
        return
    if quick is None:
        yield f"No trial reached {words.target(data.metrics)}."
        return
    winner = quick.winner or {}
    yield (
        f"Fewest steps to {words.target(data.metrics)}: {words.configuration(quick, winner.get('learning_rate'))}, "
        f"{words.number(quick.steps)} steps."
    )
    timed = [cell for cell in analysis.cells if math.isfinite(cell.seconds)]
    if timed:
        soon = min(timed, key=lambda cell: cell.seconds)
        winner = soon.winner or {}
        yield (
            f"Shortest time to it: {words.configuration(soon, winner.get('learning_rate'))}, "
            f"{words.seconds(soon.seconds)} of training alone."
        )


def facts(analysis: Analysis) -> list[tuple[str, str]]:
    """The strip under the title: name and value."""
    data, trials = analysis.data, len(analysis.data.trials)
    training, search = data.space.get("training") or {}, data.space.get("search") or {}
    model = (data.space.get("model") or {}).get("init_args") or {}
    network = (model.get("network") or {}).get("class_path") if isinstance(model.get("network"), dict) else None
    source = str((data.space.get("data") or {}).get("class_path") or "").rpartition(".")[2]
    running, state = analysis.statuses.get("RUNNING", 0), "paused" if data.ended else "still running"
    found = [
        ("study", data.name),
        ("task", " on ".join(part for part in (str(network or "").rpartition(".")[2], source) if part)),
        ("training set", f"{data.examples:,} examples" if data.examples else ""),
        ("objective", f"{data.objective}, {'smallest' if data.direction == 'min' else 'largest'} is best"),
        (
            "target",
            f"{words.target(data.metrics)} ({_origin(data)})" if data.target is not None else "none",
        ),
        (
            "easier target",
            words.target(data.metrics, "easier_target")
            if data.target is not None and data.easier_target is not None
            else "",
        ),
        ("budget", _budget(training)),
        ("trials", f"{trials:,}" + (f", {running} {state}" if running else "")),
        ("ended", data.ended),
        ("per cell", _per_cell(analysis)),
        ("diverged", words.share(analysis.statuses.get("DIVERGED", 0), trials)),
        ("out of memory", words.share(analysis.statuses.get("OOM", 0), trials)),
        ("left out", f"batch size {data.too_large} and larger: do not fit into memory" if data.too_large else ""),
        ("in parts", _in_parts(analysis)),
        ("pruned", words.share(analysis.statuses.get("PRUNED", 0), trials)),
        ("failed", words.share(analysis.statuses.get("FAILED", 0) + analysis.statuses.get("TIMEOUT", 0), trials)),
        ("seeds", f"one per trial, all from {training.get('seed', 0)} (training) and {search.get('seed', 0)} (search)"),
        ("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    return [(name, value) for name, value in found if value]


def _in_parts(analysis: Analysis) -> str:
    """Batch sizes that memory divided, and into how many forward passes; nothing where all trained as asked."""
    asked = (analysis.data.space.get("training") or {}).get("accumulate", 1)
    counts = {(row["batch_size"], row.get("accumulate") or asked) for row in analysis.data.trials}
    divided = sorted((size, count) for size, count in counts if count > asked)
    return ", ".join(f"batch size {size} in {count} of {size // count}" for size, count in divided)


def _origin(data: StudyData) -> str:
    """How the target was set."""
    found = data.calibration
    if found is None:
        return "set in the recipe, before the search"
    trainings = words.count(len(found["best"]), "training")
    return f"found before the search from {trainings} of {found['cell']}, in {words.seconds(found['seconds'])}"


def _budget(training: dict[str, object]) -> str:
    if not training.get("epochs"):
        return ""
    least = training.get("min_steps")
    return f"{training['epochs']} epochs" + (f", at least {least} steps" if least else "")


def _per_cell(analysis: Analysis) -> str:
    amounts = sorted({len(cell.trials) for cell in analysis.cells})
    if not amounts:
        return ""
    span = f"{amounts[0]}" if len(amounts) == 1 else f"{amounts[0]} to {amounts[-1]}"
    return f"{span} trials in each of {words.count(len(analysis.cells), 'cell')}"
