"""A made-up study whose laws are known: steps to the target are a hyperbola, the best rate follows the batch."""

from __future__ import annotations

import math
from typing import Any

from tracking.analysis.data import StudyData
from tracking.spans import Span

S_MIN, E_MIN = 100.0, 12800.0
"""The critical batch size is 128."""
OVERHEAD, PER_EXAMPLE = 0.002, 1e-5
EXAMPLES = 4000
RATES = (0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 5.0, 10.0)
"""Rates tried, as multiples of the best one; the largest diverges."""
BEGAN, LASTED, WAITED = 1_800_000_000.0, 90.0, 10.0
"""When the first array began, in Unix seconds, how long each trained, and how long its worker waited for the next."""
SIZES = (16, 32, 64, 128, 256, 512, 1024)


def study(
    *, sizes: tuple[int, ...] = SIZES, schedules: tuple[str, ...] = ("constant", "cosine"), **metrics: Any
) -> StudyData:
    """A study of all sizes and schedules. The best rate is 0.1 at batch size 64 and proportional to the batch."""
    known = {"objective": "val_loss", "direction": "min", "select": "best", "target": 0.5, **metrics}
    trials: list[dict[str, Any]] = []
    curves: dict[int, list[dict[str, Any]]] = {}
    for size in sizes:
        for schedule in schedules:
            for index, factor in enumerate(RATES):
                row, curve = trial(
                    len(trials), size, schedule, index=index, factor=factor, direction=known["direction"]
                )
                trials.append(row)
                curves[row["number"]] = [point | {"trial": row["number"]} for point in curve]
    space = {
        "training": {"epochs": 10, "min_steps": 300, "weight_decay": 0.0, "seed": 0},
        "search": {"optimizers": {"sgd": {"momentum": 0.9}}, "trials": len(RATES), "seed": 0},
    }
    return StudyData(
        name="made up",
        metrics=known,
        trials=trials,
        curves=curves,
        spans={row["number"]: [trained(row["number"] // len(RATES))] for row in trials},
        examples=EXAMPLES,
        space=space,
    )


def trial(
    number: int, size: int, schedule: str, *, index: int, factor: float, direction: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One trial: its loss falls as exp(-step), slower the further its rate is from the best."""
    worse = 1 + math.log(factor) ** 2 / 4 + (0.3 if schedule == "constant" else 0.0)
    scale = (S_MIN + E_MIN / size) * worse
    lost = factor >= 10
    steps = round(6 * scale)
    sign = 1 if direction == "min" else -1
    curve = [
        {
            "step": step,
            "examples": step * size,
            "epoch": step * size / EXAMPLES,
            "seconds": step / 10,
            "learning_rate": 0.1 * size / 64 * factor,
            "train_loss": 0.9 * math.exp(-step / scale * math.log(2)),
            "val_loss": sign * (math.exp(-step / scale * math.log(2)) + 0.002 * worse),
        }
        for step in range(round(scale / 25), steps + 1, max(1, round(scale / 25)))
    ]
    values = [point["val_loss"] for point in curve]
    best = min(range(len(values)), key=lambda at: sign * values[at])
    row = {
        "number": number,
        "cell": f"b{size}-sgd-{schedule}",
        "index": index,
        "phase": "explore",
        "status": "DIVERGED" if lost else "COMPLETE",
        "value": None if lost else values[best],
        "steps": steps,
        "examples": steps * size,
        "epochs": steps * size / EXAMPLES,
        "seconds": steps * (OVERHEAD + PER_EXAMPLE * size),
        "time_mode": "steps x step time alone",
        "batch_size": size,
        "optimizer": "sgd",
        "schedule": schedule,
        "learning_rate": 0.1 * size / 64 * factor,
        "final_val_loss": values[-1],
        "best_step": curve[best]["step"],
        "best_examples": curve[best]["examples"],
        "best_val_loss": values[best],
    }
    return row, [] if lost else curve


def trained(array: int) -> Span:
    """Two workers train the arrays, one of all rates for each size and schedule, in turns."""
    began = BEGAN + (LASTED + WAITED) * (array // 2)
    return Span(began, began + LASTED, f"host:{array % 2}")
