"""What a search takes over from earlier studies: kept in its own ledger, so that it goes on without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Knowledge:
    """Plain JSON values; empty where no other study is named."""

    of: str = ""
    """The recipe for which it was gathered: that of another one is of no use."""
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Bounds of the learning rate where a law was measured, by batch size and optimizer (`64-sgd`)."""
    results: Sequence[Mapping[str, Any]] = ()
    """Trials of an earlier study that count here too: `point` in the joint space, and `value`."""
    best: Sequence[Mapping[str, Any]] = ()
    """Points that are asked first: the best of an earlier study whose results do not count here."""
    said: Sequence[str] = ()
    """What is to be said of it, a line each."""
