"""When a search no longer pays: a rule on what its complete trials have come to, in the order in which they ended."""

from __future__ import annotations

from collections.abc import Iterable

from search.config import StopConfig
from search.trial import TrialResult


def plateau(results: Iterable[TrialResult], rule: StopConfig, *, maximize: bool) -> str:
    """Why going on no longer pays, in words; empty while it does.

    It does not where the last `patience` complete trials have together improved the best value by less than the share
    `improvement` of it. Had trials no order, the next one would improve it by more with a chance below
    3 / `patience` (95 %, the rule of three, Hanley & Lippman-Hand 1983); trials that were passed over at a rung count
    nothing, so that a complete one stands for all those that it was chosen from. Optuna's terminator is not asked: its
    regret bound needs torch in the driver, and complete trials in one space without conditions.
    """
    complete = sorted(
        (result for result in results if result.status == "COMPLETE" and result.value is not None),
        key=lambda result: (result.ended, result.number),
    )
    if len(complete) <= rule.patience:
        return ""
    sign = -1.0 if maximize else 1.0
    losses = [sign * (result.value or 0.0) for result in complete]
    before, best = min(losses[: -rule.patience]), min(losses)
    if before - best > rule.improvement * abs(before):
        return ""
    return f"the last {rule.patience} complete trials have improved {sign * before:.4g} by {_percent(before, best)}"


def _percent(before: float, best: float) -> str:
    return "nothing" if best >= before else f"{(before - best) / abs(before):.2%}" if before else "nothing"
