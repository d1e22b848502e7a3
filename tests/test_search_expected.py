"""What configurations are expected to come to on fresh seeds: luck is told from a good place."""

from __future__ import annotations

import json
import math
import random

import pytest

from search.config import RangeConfig
from search.expected import FEWEST, MOST, Seen, expectations, noted
from tracking.rows import with_expected

EXTENTS = {
    "batch_size": RangeConfig(low=0, high=5),
    "rate": RangeConfig(low=0.001, high=1.0, log=True),
    "schedule": RangeConfig(values=["constant", "cosine"]),
    "cosine.final": RangeConfig(low=0.0, high=0.5),
}
Trials = dict[int, Seen]


def clean(point: dict[str, float | str]) -> float:
    """Least, 0.1, at a rate of 0.03 with cosine: what a configuration comes to in the middle of many seeds."""
    away = math.log10(float(point["rate"]) / 0.03)
    return 0.1 * math.exp(away**2 + (0.3 if point["schedule"] == "constant" else 0.0))


def trials(count: int, *, noise: float, seed: int = 0, complete: float = 1.0, doubt: float = 0.0) -> Trials:
    drawn = random.Random(seed)
    found = {}
    for number in range(count):
        point: dict[str, float | str] = {
            "batch_size": drawn.randint(0, 5),
            "rate": 10 ** drawn.uniform(-3, 0),
            "schedule": drawn.choice(["constant", "cosine"]),
        }
        if point["schedule"] == "cosine":
            point["cosine.final"] = drawn.uniform(0, 0.5)
        loss = clean(point) * math.exp(drawn.gauss(0, noise))
        found[number] = Seen(point, loss, doubt, complete=drawn.random() < complete)
    return found


def least(known: Trials) -> int:
    return min((number for number, one in known.items() if one.complete), key=lambda number: known[number].loss)


def choice(known: Trials) -> int:
    found = expectations(known, EXTENTS, logarithmic=True)
    return min(found, key=lambda number: found[number].bound)


def test_without_noise_the_best_value_is_the_choice() -> None:
    known = trials(60, noise=0.0)
    found = expectations(known, EXTENTS, logarithmic=True)
    assert known[choice(known)].loss == pytest.approx(known[least(known)].loss, rel=0.02)
    best = sorted(found, key=lambda number: found[number].bound)[:10]
    assert [found[number].value for number in best] == pytest.approx([known[n].loss for n in best], rel=0.1)


def test_with_noise_the_choice_is_better_than_the_best_value() -> None:
    gains = []
    for seed in range(12):
        known = trials(120, noise=0.3, seed=seed)
        lucky, chosen = (clean(dict(known[number].point)) for number in (least(known), choice(known)))
        gains.append(math.log(lucky / chosen))
    assert sum(gains) / len(gains) > 0.05
    assert min(gains) > -0.1


def test_a_lucky_training_is_expected_to_do_as_those_around_it() -> None:
    known = trials(80, noise=0.05)
    near = min(known, key=lambda number: abs(clean(dict(known[number].point)) - 0.2))
    known[near] = known[near]._replace(loss=0.07)
    assert least(known) == near != choice(known)
    assert expectations(known, EXTENTS, logarithmic=True)[near].value > 0.1


def test_trials_that_were_stopped_tell_too_but_are_no_choice() -> None:
    known = trials(150, noise=0.3, complete=0.1, doubt=0.05)
    found = expectations(known, EXTENTS, logarithmic=True)
    assert set(found) == {number for number, one in known.items() if one.complete}
    alone = expectations({n: one for n, one in known.items() if one.complete}, EXTENTS, logarithmic=True)
    missed = [
        [abs(math.log(some[number].value / clean(dict(known[number].point)))) for number in found]
        for some in (found, alone)
    ]
    assert sum(missed[0]) < sum(missed[1])


def test_with_hardly_any_complete_trials_nothing_is_expected() -> None:
    assert expectations(trials(FEWEST - 1, noise=0.1), EXTENTS, logarithmic=True) == {}
    assert len(expectations(trials(FEWEST, noise=0.1), EXTENTS, logarithmic=True)) == FEWEST


def test_a_bound_is_worse_than_what_is_expected_in_either_direction() -> None:
    for one in expectations(trials(30, noise=0.1), EXTENTS, logarithmic=True).values():
        assert one.value < one.bound
    lossy = {n: one._replace(loss=one.loss - 1.0) for n, one in trials(30, noise=0.1).items()}
    for one in expectations(lossy, EXTENTS, logarithmic=False, sign=-1.0).values():
        assert one.value > one.bound


@pytest.mark.parametrize("complete", [1.0, 0.5])
def test_of_many_trials_some_are_looked_at_and_something_is_expected_of_all(complete: float) -> None:
    known = trials(6 * MOST, noise=0.1, complete=complete, doubt=0.02)
    found = expectations(known, EXTENTS, logarithmic=True)
    assert len(found) == sum(one.complete for one in known.values())
    assert clean(dict(known[min(found, key=lambda number: found[number].bound)].point)) < 0.11


def test_rows_have_them_from_the_note_to_the_last_bit() -> None:
    found = expectations(trials(20, noise=0.1), EXTENTS, logarithmic=True)
    rows = with_expected([{"number": number} for number in found], json.loads(json.dumps(noted(found))))
    assert [(row["expected"], row["expected_bound"]) for row in rows] == [tuple(one) for one in found.values()]
