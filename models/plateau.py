"""The one schedule that is not known beforehand: the rate falls when the objective no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from models.config import Direction


@dataclass(kw_only=True, slots=True)
class Plateau:
    """The factor of `plateau`: lowered when the objective has not improved for a while (torch's ReduceLROnPlateau).

    Improvement is relative to the best value, as in torch's `rel` mode; `patience` and `cooldown` count evaluations.
    """

    factor: float = 0.1
    patience: int = 2
    """torch's default of 10 would never act in a training of 15 evaluations."""
    threshold: float = 1e-4
    cooldown: int = 0
    lowest: float = 0.0
    """The factor never falls below this share of the peak rate."""
    _present: float = field(default=1.0, init=False)
    _best: float | None = field(default=None, init=False)
    _bad: int = field(default=0, init=False)
    _cooling: int = field(default=0, init=False)

    def update(self, value: float, direction: Direction) -> float:
        """Take in one evaluation and return the factor from here on."""
        if direction == "min":
            best = math.inf if self._best is None else self._best
            better = value < best * (1 - self.threshold)
        else:
            best = -math.inf if self._best is None else self._best
            better = value > best * (1 + self.threshold)
        self._best = value if better else best
        self._bad = 0 if better else self._bad + 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad > self.patience:
            self._present = max(self._present * self.factor, self.lowest)
            self._cooling, self._bad = self.cooldown, 0
        return self._present

    def state(self) -> dict[str, float]:
        """What `load` needs to go on from here."""
        state: dict[str, float] = {"present": self._present, "bad": self._bad, "cooling": self._cooling}
        return state if self._best is None else {**state, "best": self._best}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on from where `state` was taken."""
        self._present, self._best = state["present"], state.get("best")
        self._bad, self._cooling = int(state["bad"]), int(state["cooling"])
