"""The champion gate: a table of standings, and the alias that each version gets with its reason."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tracking.gate import Decision, Promote, Standing, decide

GOOD, EQUAL, BAD = [0.10, 0.12, 0.11], [0.11, 0.10, 0.13], [0.30, 0.32, 0.31]


def standing(*values: float, **changes: Any) -> Standing:
    known: dict[str, Any] = {"metric": "val_loss", "select": "best", "direction": "min", "values": values}
    return Standing(**{**known, "diverged": 0, "validation": "a1", "production": None, **changes})


@pytest.mark.parametrize(
    ("challenger", "champion", "promote", "alias", "reason"),
    [
        (standing(), None, "gate", "champion", "there was no champion yet; it is not verified"),
        (standing(*GOOD), None, "gate", "champion", "its mean val_loss on 3 fresh seeds is 0.11"),
        (standing(*GOOD, production=9.0), None, "gate", "champion", "but its production training came to val_loss 9"),
        (standing(), standing(*GOOD), "always", "champion", "`--registry.promote always`"),
        (standing(*GOOD), None, "never", None, "leaves the aliases as they are"),
        (standing(*GOOD, metric="val_bits"), standing(*GOOD), "gate", "challenger", "judged by best val_loss (min)"),
        (standing(*GOOD, direction="max"), standing(*GOOD), "gate", "challenger", "judged by best val_loss (min)"),
        (standing(*GOOD, select="final"), standing(*GOOD), "gate", "challenger", "and this by final val_loss (min)"),
        (standing(*GOOD, validation="b2"), standing(*GOOD), "gate", "challenger", "validated on other data"),
        (standing(*GOOD), Standing.of_tags({}), "gate", "challenger", "was not registered by Regatta"),
        (standing(), standing(*GOOD), "gate", "challenger", "not verified; run `regatta verify`"),
        (standing(0.1, diverged=4), standing(*GOOD), "gate", "challenger", "(4 fresh seeds diverged)"),
        (standing(*GOOD), standing(), "gate", "champion", "the champion was never verified"),
        (standing(*EQUAL), standing(*GOOD), "gate", "champion", "mean val_loss 0.1133 against 0.11 on 3 and 3 fresh"),
        (standing(*GOOD), standing(*BAD), "gate", "champion", "difference -0.2 (95 % interval -0.22 to -0.18)"),
        (standing(*BAD), standing(*GOOD), "gate", "challenger", "difference 0.2 (95 % interval 0.18 to 0.22)"),
        (standing(*GOOD, direction="max"), standing(*BAD, direction="max"), "gate", "challenger", "is worse than the"),
        (
            standing(*BAD, direction="max"),
            standing(*GOOD, direction="max"),
            "gate",
            "champion",
            "nothing shows that it is worse",
        ),
        (standing(0.1, 0.9, 0.2), standing(*GOOD), "gate", "challenger", "outside the champion's own 95 % interval"),
        (
            standing(0.9, 0.1, 0.9, direction="max"),
            standing(*BAD, 0.9, 0.9, direction="max"),
            "gate",
            "champion",
            "nothing shows that it is worse",
        ),
        (standing(0.1, 0.1), standing(0.1, 0.1), "gate", "champion", "difference 0 "),
        (standing(0.2, 0.2), standing(0.1, 0.1), "gate", "challenger", "difference 0.1 "),
        (standing(*GOOD, production=9.0), standing(*BAD), "gate", "challenger", "(-0.004602 to 0.2246 in 99 %"),
        (standing(*GOOD, production=math.nan), standing(*BAD), "gate", "challenger", "came to val_loss nan"),
        (standing(*GOOD, production=0.0), standing(*BAD), "gate", "champion", "nothing shows that it is worse"),
        (standing(*GOOD, production=0.22), standing(*BAD), "gate", "champion", "nothing shows that it is worse"),
        (
            standing(*GOOD, diverged=1),
            standing(*BAD),
            "gate",
            "challenger",
            "on 1 fresh seed, and the champion on none",
        ),
        (standing(*GOOD, diverged=1), standing(), "gate", "challenger", "on 1 fresh seed, and the champion on none"),
        (
            standing(*GOOD, diverged=2),
            standing(*GOOD, diverged=2),
            "gate",
            "champion",
            "nothing shows that it is worse",
        ),
    ],
)
def test_a_version_gets_the_alias_that_its_standing_earns(
    challenger: Standing, champion: Standing | None, promote: Promote, alias: str | None, reason: str
) -> None:
    decision = decide(challenger, champion, promote)
    assert decision.alias == alias
    assert reason in decision.reason
    assert "\n" not in decision.reason and not decision.reason.endswith(".")


@pytest.mark.parametrize("direction", ["min", "max"])
def test_a_production_training_that_equals_seeds_which_never_differ_is_as_promised(direction: str) -> None:
    # The mean of equal floats must not come out another float than they are.
    one = standing(0.1, 0.1, 0.1, direction=direction, production=0.1)
    assert decide(one, standing(0.1, 0.1, direction=direction), "gate").alias == "champion"


def test_more_seeds_find_the_difference_that_fewer_do_not() -> None:
    few, many = ([mean - 0.02, mean + 0.02] * count for mean, count in ((0.12, 1), (0.12, 10)))
    assert decide(standing(*few), standing(0.08, 0.12), "gate").alias == "champion"
    assert decide(standing(*many), standing(*([0.08, 0.12] * 10)), "gate").alias == "challenger"


@pytest.mark.parametrize("production", [None, 0.25, math.inf])
def test_a_standing_comes_back_from_its_tags_equal(production: float | None) -> None:
    one = standing(0.1 + 0.2, 1e-17, diverged=2, production=production)
    tags = one.tags()
    assert all(isinstance(text, str) for text in tags.values())
    again = Standing.of_tags(tags)
    assert (list(again.values), again.diverged, again.production) == (list(one.values), 2, production)
    assert decide(again, again, "gate") == decide(one, one, "gate")


def test_a_decision_is_plain_values() -> None:
    assert decide(standing(), None, "never") == Decision(
        None, "`--registry.promote never` leaves the aliases as they are"
    )
