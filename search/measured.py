"""The law of the best learning rate that an earlier `compare` has measured, as the ranges of a search."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config import OWN_OPTIMIZER
from search.earlier import differing
from search.knowledge import Knowledge
from search.space import SearchSpace
from tracking.analysis.data import load
from tracking.analysis.rate_laws import RateLaw
from tracking.analysis.study import Analysis, analyse

LEAST = 2.0
"""A range reaches at least this factor to both sides: a law is fitted to best rates that are themselves estimates."""


def measured(space: SearchSpace, folder: Path) -> Knowledge:
    """Ranges around the rates that the laws of a study expect, for every batch size and optimizer of this space.

    Each reaches as far as the law's prediction interval of 95 %, at least by `LEAST`, and no further than the recipe's
    own factor. With several schedules it covers the laws of all; those that this space has, if it has any.

    Raises:
        ValueError: if it is no `compare` of this model and data, or if it measured no law.
    """
    data = load(folder)
    theirs, search = data.space, data.space.get("search") or {}
    if search.get("strategy", "compare") != "compare":
        raise ValueError(f"`search.law` must be a study of the strategy compare, but {folder.name} is none.")
    parts = {name: dataclasses.asdict(getattr(space, name)) for name in ("model", "data")}
    ours = json.loads(json.dumps(parts))
    if found := [words for _, words in differing({name: theirs.get(name) for name in parts}, ours)]:
        raise ValueError(
            f"`search.law` must be a study of this recipe's model and data, but {folder.name} differs in {found[0]}."
        )
    analysis = analyse(data)
    rates: dict[str, list[float]] = {}
    said: list[str] = []
    reasons: list[str] = []
    for optimizer in (name for name in space.search.optimizers if name != OWN_OPTIMIZER):
        laws, reason = _laws(analysis, space, optimizer, (search.get("optimizers") or {}).get(optimizer))
        if not laws:
            reasons.append(f"{optimizer}: {reason}")
            continue
        ranges = {size: _range(laws, size, space.search.learning_rate.factor) for size in space.search.batch_sizes}
        rates |= {f"{size}-{optimizer}": bounds for size, bounds in ranges.items()}
        told = ", ".join(f"{low:.3g} to {high:.3g} at {size}" for size, (low, high) in sorted(ranges.items()))
        said.append(f"law of {folder.name}: learning rates of {optimizer} by batch size: {told}")
    if not rates:
        raise ValueError(
            f"`search.law` must be a study that measured a law, but {folder.name} has none ({'; '.join(reasons)})."
        )
    said += [f"law of {folder.name}: none of {reason}; its range follows the rule" for reason in reasons]
    return Knowledge(rates=rates, said=said)


def _laws(
    analysis: Analysis, space: SearchSpace, optimizer: str, arguments: Mapping[str, Any] | None
) -> tuple[list[RateLaw], str]:
    """The laws of an optimizer, or why there are none."""
    if arguments is None:
        return [], "it was not searched there"
    if dict(arguments) != dict(space.search.optimizers[optimizer]):
        return [], f"its arguments were {dict(arguments)} there"
    methods = [method for method in analysis.methods if method.cells[0].optimizer == optimizer]
    laws = [(method.cells[0].schedule, method.law) for method in methods if method.law is not None]
    sound = [(schedule, law) for schedule, law in laws if law.reason is None]
    here = [law for schedule, law in sound if schedule in space.search.schedules]
    return here or [law for _, law in sound], next((law.reason for _, law in laws if law.reason), "no rates to fit")


def _range(laws: list[RateLaw], batch_size: int, most: float) -> list[float]:
    """The learning rates that laws expect at a batch size: all their intervals, each of a factor from 2 to `most`."""
    reaches = [(law.rate(batch_size), min(max(law.factor(batch_size), LEAST), max(most, LEAST))) for law in laws]
    low, high = min(rate / factor for rate, factor in reaches), max(rate * factor for rate, factor in reaches)
    return [float(f"{bound:.3g}") for bound in (low, high)]
