"""When a search no longer pays: not while it still improves, soon on a plateau, whatever the scale of the objective."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest

from search.config import SearchConfig, StopConfig
from search.paying import plateau
from search.trial import TrialResult

RULE = StopConfig(improvement=0.01, patience=10)


def results(values: list[float | None]) -> list[TrialResult]:
    """Trials that ended in this order; None: given up at a rung."""
    return [
        TrialResult(number=number, status="PRUNED" if value is None else "COMPLETE", value=value, ended=float(number))
        for number, value in enumerate(values)
    ]


def ended_after(values: Iterator[float], *, rule: StopConfig = RULE, maximize: bool = False) -> int:
    """How many trials the search has had when the rule ends it; 400 if it never does."""
    seen: list[float | None] = []
    while len(seen) < 400 and not plateau(results(seen), rule, maximize=maximize):
        seen.append(next(values))
    return len(seen)


def counted(function: Callable[[int], float]) -> Iterator[float]:
    return (function(n) for n in range(10**6))


@pytest.mark.parametrize(
    "function",
    [
        lambda n: 0.99**n,
        lambda n: 10.0 - 0.05 * n,
        lambda n: -1.0 - 0.1 * n,
        lambda n: 1.0 / (n + 1) if n % 9 == 0 else 2.0,  # An improvement now and then is one.
    ],
)
def test_what_still_improves_is_not_ended(function: Callable[[int], float]) -> None:
    assert ended_after(counted(lambda n: function(min(n, 100)))) > 100


@pytest.mark.parametrize("plateau_from", [0, 1, 7, 40])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, -30.0)])
def test_a_plateau_ends_it_after_as_many_trials_as_its_patience(plateau_from: int, scale: float, shift: float) -> None:
    def value(n: int) -> float:
        return shift + scale * (2.0 ** -min(n, plateau_from) if not shift else 100.0 - 3 * min(n, plateau_from))

    assert ended_after(counted(value)) == plateau_from + 1 + RULE.patience


def test_improvements_that_are_too_small_together_are_a_plateau() -> None:
    assert ended_after(counted(lambda n: 1.0 - 0.0005 * n)) == 1 + RULE.patience
    assert ended_after(counted(lambda n: 1.0 - 0.0015 * n)) > 100


def test_a_metric_that_grows_is_judged_the_other_way_round() -> None:
    assert ended_after(counted(lambda n: 0.5 + 0.01 * min(n, 30)), maximize=True) == 31 + RULE.patience


def test_trials_given_up_at_a_rung_and_those_that_broke_do_not_count() -> None:
    broken = [TrialResult(number=99, status="DIVERGED", value=3.0, ended=0.5)] * 50
    assert not plateau([*results([1.0, *[None] * 100]), *broken], RULE, maximize=False)


def test_the_order_is_that_in_which_trials_ended_not_that_of_the_list() -> None:
    found = results([*[5.0] * 5, 1.0, *[2.0] * 10])
    assert plateau(found, RULE, maximize=False) == plateau(found[::-1], RULE, maximize=False)
    assert plateau(found, RULE, maximize=False) == "the last 10 complete trials have improved 1 by nothing"
    late = results([*[5.0] * 11, 1.0])
    assert not plateau(late, RULE, maximize=False)


def test_what_is_left_to_gain_when_a_random_search_ends_is_what_the_rule_allows() -> None:
    """On 1 + x^2, x uniform in (-1, 1), the chance that the next gains 1 % is known: below 3 / patience on average."""
    rule = StopConfig(improvement=0.01, patience=20)
    chances = []
    for seed in range(60):
        draw = random.Random(seed)
        seen: list[float | None] = []
        while not plateau(results(seen), rule, maximize=False):
            seen.append(1.0 + draw.uniform(-1.0, 1.0) ** 2)
        best = min(value for value in seen if value is not None)
        chances.append(math.sqrt(max(0.0, 0.99 * best - 1.0)))
    assert sum(chances) / len(chances) < 3 / rule.patience


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({"strategy": "tune", "stop": StopConfig(improvement=1.0)}, "`stop.improvement` must be a share in [0, 1)"),
        ({"strategy": "tune", "stop": StopConfig(patience=0)}, "`stop.patience` must be at least 1, but got 0."),
        ({"stop": StopConfig()}, "`stop` must be left out with `strategy: compare`"),
        ({"strategy": "tune", "stop": StopConfig(), "objectives": ["metric", "cost"]}, "`stop` must be left out with"),
        ({"device_seconds": 0.0}, "`device_seconds` must be greater than 0, but got 0.0."),
    ],
)
def test_a_limit_that_cannot_be_is_a_sentence(search: dict[str, object], sentence: str) -> None:
    (found,) = SearchConfig(**search).mistakes()  # type: ignore[arg-type]
    assert found.startswith(sentence)
