"""What training side by side brings: measured before the race, for each batch size and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from search.executors import Executor
from search.study import Study
from search.trial import TrialConfig, TrialResult

LEAST = 1.2
"""An array is chosen where a trial in it takes its share of the time at least this many times faster than alone."""
FEWEST = 8
"""With fewer trials of a shape than this, an array gains less than its measurement takes."""
PACKS_PER_SLOT = 4
"""Packs for each worker at least, if they need not be thinner than that: few wide ones would end far apart."""
PROBE = "models.probes.array_gain"

Kind = tuple[int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gains:
    """Widths of arrays and step times by batch size and optimizer."""

    widths: Mapping[Kind, int] = field(default_factory=dict)
    step_seconds: Mapping[Kind, float] = field(default_factory=dict)
    """Seconds of an optimizer step of a trial alone."""
    reasons: Mapping[Kind, str] = field(default_factory=dict)
    """Why trials of a kind train alone."""

    def width(self, kind: Kind) -> int:
        """How many trials of a kind train side by side; 1: they train alone."""
        return self.widths.get(kind, 1)

    def timed(self, trial: TrialConfig, result: TrialResult) -> TrialResult:
        """A result with the seconds that it would have taken alone: those of an array say nothing of one trial.

        Steps times the step time measured alone (methodology, trap 19); the tag `time_mode` says which they are.
        """
        step = self.step_seconds.get((trial.train.batch_size, trial.train.optimizer))
        if result.tags.get("tier") != "array" or step is None:
            reason = self.reasons.get((trial.train.batch_size, trial.train.optimizer))
            tags = {"time_mode": "measured", **({"fallback_reason": reason} if reason else {}), **result.tags}
            return replace(result, tags=tags)
        hit = None if result.hit is None else {**result.hit, "seconds": result.hit["step"] * step}
        tags = {**result.tags, "time_mode": "steps x step time alone"}
        return replace(result, seconds=result.steps * step, hit=hit, tags=tags)


def measure(executor: Executor, study: Study) -> Gains:
    """Measure every kind of trial once.

    Raises:
        ValueError: if arrays are required, and some kind cannot train side by side.
    """
    search = study.space.search
    if search.arrays == "off":
        return Gains()
    planned, first = study.planned_by_kind(), study.first_by_kind()
    required = search.arrays == "require"
    reasons = {kind: "too few trials share its shape" for kind in planned if planned[kind] < FEWEST and not required}
    cells = {cell.cell.kind: cell for cell in study.cells.values() if cell.cell.kind in planned.keys() - reasons.keys()}
    packs = -(-PACKS_PER_SLOT * executor.slots // max(1, len(planned)))
    most = {kind: max(FEWEST, -(-first[kind] // packs)) for kind in cells}
    configs = {kind: cell.train_config(cell.explorations()[0], index=0) for kind, cell in cells.items()}
    found = executor.calls(PROBE, [{"config": configs[kind].to_json(), "most": most[kind]} for kind in cells])
    measured = dict(zip(cells, found, strict=True))
    for kind, gain in measured.items():
        if gain["reason"] is not None:
            reasons[kind] = gain["reason"]
            if required:
                raise ValueError(
                    f"`search.arrays: require` needs trials that can train side by side, but at batch size {kind[0]} "
                    f"with {kind[1]} they cannot: {gain['reason']}. Set `search.arrays: auto`."
                )
        elif not required and gain["gain"] < LEAST:
            reasons[kind] = f"side by side is {gain['gain']:.2g} times as fast, less than {LEAST}"
    return Gains(
        widths={kind: even(first[kind], gain["width"]) for kind, gain in measured.items() if kind not in reasons},
        step_seconds={kind: gain["step_seconds"] for kind, gain in measured.items() if gain["step_seconds"]},
        reasons=reasons,
    )


def even(trials: int, width: int) -> int:
    """The width at which as few packs of at most `width` are about equally wide."""
    return -(-trials // -(-trials // width))
