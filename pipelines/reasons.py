"""Why trials of a search came to nothing: how many of each kind, and the commonest reason in a line."""

from __future__ import annotations

from collections import Counter

from search.study import Study
from search.trial import TrialResult

KINDS = {"FAILED": "failed", "TIMEOUT": "ran out of time", "OOM": "ran out of memory", "DIVERGED": "diverged"}
"""Status to words, the most surprising first; a trial that was passed over at a rung has come to something."""
LONGEST = 160
"""Characters of a reason that are shown; `trials.csv` has all of it."""


def told(study: Study) -> str:
    """A sentence on the trials that came to nothing; empty if there are none."""
    results = _results(study)
    broken = [result for result in results if result.status in KINDS]
    if not broken:
        return ""
    counts: Counter[str] = Counter(result.status for result in broken)
    parts = [f"{counts[status]} {words}" for status, words in KINDS.items() if counts[status]]
    # A divergence is a finding; a failure is what somebody has to see to.
    loudest = next(status for status in KINDS if counts[status])
    reasons = Counter(_first_line(result.reason) for result in broken if result.status == loudest and result.reason)
    listed = f"{', '.join(parts)}, of {len(results)} trial{'' if len(results) == 1 else 's'} that ended"
    if not reasons:
        return f"{listed}."
    reason, times = reasons.most_common(1)[0]
    which = f"Most often ({times} of the {counts[loudest]} that {KINDS[loudest]})" if times > 1 else "For example"
    return f"{listed}. {which}: {reason}"


def came_to_nothing(study: Study) -> bool:
    """Whether trials have ended, none of them with a result, and none is left to end otherwise."""
    results = _results(study)
    return bool(results) and not study.ranking() and not any(cell.waiting for cell in study.cells.values())


def _results(study: Study) -> list[TrialResult]:
    return [result for cell in study.cells.values() for result in cell.results.values()]


def _first_line(reason: str) -> str:
    line = reason.strip().partition("\n")[0]
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
