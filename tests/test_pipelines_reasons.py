"""Why trials came to nothing: counts, the commonest reason, and when a search as a whole did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faulty_searches import FAULTS, search
from search_parts import result_of, space

from pipelines.reasons import came_to_nothing, told
from search.study import Study

KEY = {"status": "FAILED", "reason": "user_error: KeyError: 'label'\nTraceback ..."}
TYPE = {"status": "FAILED", "reason": "user_error: TypeError: no"}
NAN = {"status": "DIVERGED", "reason": "diverged: the loss is nan at step 3"}
OOM = {"status": "OOM", "reason": "oom_host: 9 GB"}


def study(*outcomes: dict[str, Any], left: int = 0) -> Study:
    new = Study(space())
    for outcome in outcomes:
        trial = new.ask()
        assert trial is not None
        new.tell(trial, result_of(trial, **outcome))
    for _ in range(left):
        new.ask()
    return new


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([], ""),
        ([{"value": 1.0}, {"status": "PRUNED"}], ""),
        ([KEY], "1 failed, of 1 trial that ended. For example: user_error: KeyError: 'label'"),
        (
            [TYPE, KEY, {"value": 1.0}, KEY, NAN],
            "3 failed, 1 diverged, of 5 trials that ended. "
            "Most often (2 of the 3 that failed): user_error: KeyError: 'label'",
        ),
        (
            [NAN, NAN, OOM],
            "1 ran out of memory, 2 diverged, of 3 trials that ended. For example: oom_host: 9 GB",
        ),
        ([{"status": "DIVERGED"}], "1 diverged, of 1 trial that ended."),
    ],
)
def test_trials_that_came_to_nothing_are_counted_with_the_commonest_reason(
    outcomes: list[dict[str, Any]], said: str
) -> None:
    assert told(study(*outcomes)) == said


def test_a_long_reason_is_cut() -> None:
    assert told(study({"status": "FAILED", "reason": "x" * 999})).endswith("x…")


@pytest.mark.parametrize(
    ("outcomes", "left", "nothing"),
    [
        ([], 0, False),
        ([], 1, False),
        ([NAN], 0, True),
        ([KEY, OOM], 0, True),
        ([KEY, {"value": 1.0}], 0, False),
        ([KEY], 1, False),  # One is paused: it may still complete.
    ],
)
def test_a_search_came_to_nothing_if_all_its_trials_did(
    outcomes: list[dict[str, Any]], left: int, nothing: bool
) -> None:
    assert came_to_nothing(study(*outcomes, left=left)) == nothing


@pytest.mark.slow
def test_a_search_without_a_complete_trial_ends_with_code_1_and_the_reason(tmp_path: Path) -> None:
    code, out, err = search(tmp_path, FAULTS, "{any: raise}", "--search.trials", "2")
    assert (code, err) == (1, "")
    assert "2 failed, of 2 trials that ended. Most often (2 of the 2 that failed): user_error: KeyError" in out
    assert "next:" not in out and "regatta train" not in out
