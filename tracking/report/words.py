"""Numbers and quantities as the report writes them, for a person to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

UNITS = ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (0.1, 1.0, "s"), (1e-4, 1e-3, "ms"))
"""From how many seconds on a unit is used, its seconds, its name."""


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, thousands apart; infinity is `never`, what is not known a dash."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "never"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None or not math.isfinite(value):
        return number(value)
    for least, size, unit in UNITS:
        if value >= least:
            return f"{number(value / size)} {unit}"
    return f"{number(value * 1e6)} µs"


def interval(low: float, high: float) -> str:
    """`low to high`; an upper end that is not known is said."""
    return f"{number(low)} to {number(high)}" if math.isfinite(high) else f"{number(low)} or more"


def count(amount: int, noun: str) -> str:
    """`1 trial`, `3 trials`."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}{'es' if noun.endswith('h') else 's'}"


def share(part: int, whole: int) -> str:
    """A count and its percentage."""
    return f"{part} ({100 * part / whole:.0f} %)" if whole else "0"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def target(metrics: Mapping[str, Any], key: str = "target") -> str:
    """`val_loss ≤ 0.06`; `key` may be `easier_target`."""
    direction = metrics.get("target_direction") or metrics.get("direction") or "min"
    name = metrics.get("target_metric") or metrics["objective"]
    return f"{name} {'≤' if direction == 'min' else '≥'} {float(metrics[key]):.6g}"


def configuration(cell: Any, rate: float | None) -> str:
    """A cell and its rate in words."""
    own = f"batch size {cell.batch_size:,} with {cell.method}"
    return own if rate is None else f"{own} at learning rate {number(rate)}"
