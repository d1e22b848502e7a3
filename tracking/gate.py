"""Which alias a new version of a registered model gets: pure, from what fresh seeds made of it and of the champion."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scipy import special

from tracking.analysis.statistics import paired_interval, welch_interval

Promote = Literal["always", "gate", "never"]
Alias = Literal["champion", "challenger"]

ENOUGH = 2
"""Finite values from which there is an interval."""
SURE = 0.99
"""Share of further trainings of a configuration that its prediction interval holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What is known of a version, as its tags keep it for the next comparison."""

    metric: str
    """Name of the validation metric; empty for a version that someone else has registered."""
    select: str
    """Which value of a training's curve counts: `best` or `final`."""
    direction: str
    values: Sequence[float]
    """Of its configuration on fresh seeds, where those did not diverge; empty: not verified."""
    diverged: int
    """Fresh seeds on which it diverged."""
    validation: str
    """Fingerprint of the validation data."""
    production: float | None
    """What the production training came to; None: it had no validation."""

    def tags(self) -> dict[str, str]:
        """As texts, from which `of_tags` makes the same standing."""
        return {
            "metric": self.metric,
            "select": self.select,
            "direction": self.direction,
            "values": json.dumps(list(self.values)),
            "diverged": str(self.diverged),
            "validation": self.validation,
            "production": "" if self.production is None else repr(self.production),
        }

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Standing:
        """The standing in a version's tags; nothing is known of one without them."""
        production = tags.get("production")
        return cls(
            metric=tags.get("metric", ""),
            select=tags.get("select", ""),
            direction=tags.get("direction", ""),
            values=json.loads(tags.get("values", "[]")),
            diverged=int(tags.get("diverged", "0")),
            validation=tags.get("validation", ""),
            production=float(production) if production else None,
        )

    @property
    def verified(self) -> bool:
        """Whether there are values enough for an interval."""
        return len(self.values) >= ENOUGH


class Decision(NamedTuple):
    """The alias that a version gets (None: aliases stay as they are), and why, without a full stop."""

    alias: Alias | None
    reason: str


def decide(challenger: Standing, champion: Standing | None, promote: Promote) -> Decision:
    """Whether a new version becomes champion: through the gate, if nothing shows that it is worse.

    Args:
        champion: the present one; None: there is none.
    """
    if promote == "never":
        return Decision(None, "`--registry.promote never` leaves the aliases as they are")
    if promote == "always":
        return Decision("champion", "`--registry.promote always` asks for no comparison")
    if champion is None:
        return Decision("champion", f"there was no champion yet; {_introduced(challenger)}")
    if obstacle := _incomparable(challenger, champion) or _unproven(challenger) or _unstable(challenger, champion):
        return Decision("challenger", obstacle)
    if not champion.verified:
        return Decision("champion", f"{_introduced(challenger)}, and the champion was never verified")
    return _compared(challenger, champion)


def kept(champion: Standing) -> Decision:
    """What is said of a version that is the champion when its training is registered again."""
    return Decision("champion", f"it is the champion already; {_introduced(champion)}")


def _incomparable(challenger: Standing, champion: Standing) -> str | None:
    """What forbids to set the values of two versions side by side."""
    if not champion.metric:
        return "it cannot be compared with the champion, which was not registered by Regatta"
    judged = [f"{one.select} {one.metric} ({one.direction})" for one in (challenger, champion)]
    if judged[0] != judged[1]:
        return f"it cannot be compared with the champion, which was judged by {judged[1]}, and this by {judged[0]}"
    if challenger.validation != champion.validation:
        return "it cannot be compared with the champion, which was validated on other data"
    return None


def _unproven(one: Standing) -> str | None:
    """What a challenger lacks in itself: verification, or a production training that keeps what that promised."""
    return _worse_than_promised(one) if one.verified else f"it is not verified; run `regatta verify`{_seeds_left(one)}"


def _seeds_left(one: Standing) -> str:
    return f" ({one.diverged} fresh seeds diverged)" if one.diverged else ""


def _unstable(challenger: Standing, champion: Standing) -> str | None:
    if challenger.diverged <= champion.diverged:
        return None
    seeds = "1 fresh seed" if challenger.diverged == 1 else f"{challenger.diverged} fresh seeds"
    return f"it diverged on {seeds}, and the champion on {champion.diverged or 'none'}"


def _worse_than_promised(one: Standing) -> str | None:
    """Whether the production training lies outside the 99 % prediction interval of the verified values, for worse."""
    if one.production is None or not one.verified:
        return None
    count, mean, sd = len(one.values), statistics.mean(one.values), statistics.stdev(one.values)
    reach = float(special.stdtrit(count - 1, 0.5 + SURE / 2.0)) * sd * math.sqrt(1.0 + 1.0 / count)
    sign = 1.0 if one.direction == "min" else -1.0
    # Written so that a value which is no number counts as worse.
    if sign * (one.production - mean) <= reach:
        return None
    return (
        f"its production training came to {one.metric} {one.production:.4g}, worse than verification lets expect "
        f"({mean - reach:.4g} to {mean + reach:.4g} in {100 * SURE:.0f} % of trainings)"
    )


def _introduced(one: Standing) -> str:
    if not one.verified:
        return f"it is not verified{_seeds_left(one)}"
    mean = statistics.mean(one.values)
    known = f"its mean {one.metric} on {len(one.values)} fresh seeds is {mean:.4g}"
    doubt = _worse_than_promised(one)
    return f"{known}, but {doubt}" if doubt else known


def _compared(challenger: Standing, champion: Standing) -> Decision:
    low, high = welch_interval(challenger.values, champion.values)
    means = statistics.mean(challenger.values), statistics.mean(champion.values)
    worse = low > 0.0 if challenger.direction == "min" else high < 0.0
    seeds = f"{len(challenger.values)} and {len(champion.values)} fresh seeds"
    numbers = (
        f"mean {challenger.metric} {means[0]:.4g} against {means[1]:.4g} on {seeds}, difference "
        f"{means[0] - means[1]:.2g} (95 % interval {low:.2g} to {high:.2g})"
    )
    if worse:
        return Decision("challenger", f"it is worse than the champion: {numbers}")
    # That nothing is shown is not enough where few or noisy seeds could show nothing.
    expected = paired_interval(champion.values, [0.0] * len(champion.values))
    if means[0] > expected[1] if challenger.direction == "min" else means[0] < expected[0]:
        return Decision(
            "challenger",
            f"its mean lies outside the champion's own 95 % interval ({expected[0]:.4g} to {expected[1]:.4g}), and its "
            f"seeds are too few or too noisy to tell: {numbers}",
        )
    return Decision("champion", f"nothing shows that it is worse than the champion before it: {numbers}")
