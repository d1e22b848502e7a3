"""What training side by side brings: measured before the race, for each batch size and optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models.config import TrainConfig
from search.executors import Executor
from search.space import variants
from search.study import Study
from search.trial import TrialConfig, TrialResult

LEAST = 1.2
"""Arrays are chosen where all trials of a kind take that many times less time in them than alone, at least."""
FEWEST = 8
"""With fewer trials of a shape than this, an array gains less than its measurement takes."""
PACKS_PER_SLOT = 4
"""Packs for each worker at least, if they need not be thinner than that: few wide ones would end far apart."""
UNACCOMPANIED = "it came before arrays were measured, or was tried again"
"""Why a trial trains alone that need not."""
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
    otherwise: str | None = None
    """Why a trial of another kind did, if it did; None where arrays are off."""
    variants: Mapping[Kind, int] = field(default_factory=dict)
    """Different models or data sets among trials of a kind: each of them fills arrays of its own."""

    @property
    def noted(self) -> dict[str, float]:
        """Step times in the form in which they are kept, by "batch size-optimizer"."""
        return {f"{size}-{name}": seconds for (size, name), seconds in self.step_seconds.items()}

    def width(self, kind: Kind) -> int:
        """How many trials of a kind train side by side; 1: they train alone."""
        return self.widths.get(kind, 1)

    def together(self, kind: Kind) -> int:
        """How many trials of a kind are asked at once, so that arrays of every variant fill."""
        return self.width(kind) * self.variants.get(kind, 1)

    def timed(self, trial: TrialConfig, result: TrialResult) -> TrialResult:
        """A result with the seconds that it would have taken alone: those of an array say nothing of one trial.

        Steps times the step time measured alone (methodology, trap 19); the tag `time_mode` says which they are.
        """
        kind = trial.train.batch_size, trial.train.optimizer
        step, alone = self.step_seconds.get(kind), result.tags.get("time_mode") != "array"
        if alone or step is None:
            reason = self.reasons.get(kind, self.otherwise) if alone else None
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
    if study.space.search.arrays == "off":
        return Gains()
    inquiry = Inquiry(study, slots=executor.slots)
    return inquiry.gains(executor.calls(PROBE, inquiry.questions))


class Inquiry:
    """What is asked of the probe, and what its answers mean."""

    def __init__(self, study: Study, *, slots: int) -> None:
        crowds = crowds_of(study)
        self._slots = slots
        self._required = study.space.search.arrays == "require"
        self._few = [kind for kind, crowd in crowds.items() if crowd.planned < FEWEST and not self._required]
        self._crowds = {kind: crowd for kind, crowd in crowds.items() if kind not in self._few}
        packs = math.ceil(PACKS_PER_SLOT * slots / max(1, sum(crowd.variants for crowd in crowds.values())))
        self.questions = [crowd.question(packs) for crowd in self._crowds.values()]

    def informed(self, answers: Sequence[Mapping[str, Any]], *, worth: float) -> list[dict[str, Any]]:
        """The questions with what answers to the first of them tell of the others of the same optimizer."""
        fixed: dict[str, float] = {}
        for (_, optimizer), answer in zip(self._crowds, answers, strict=False):
            if answer["width"] > 1:
                fixed[optimizer] = min(fixed.get(optimizer, math.inf), fixed_seconds(answer))
        return [
            {**question, "worth": worth, "fixed_seconds": fixed[optimizer]} if optimizer in fixed else question
            for (_, optimizer), question in zip(self._crowds, self.questions, strict=True)
        ]

    def gains(self, answers: Sequence[Mapping[str, Any]], *, noted: Mapping[str, float] | None = None) -> Gains:
        """What the answers come to, one for each question or for the first of them: the rest trains alone.

        `noted`: step times that an earlier run of the study has measured (`Gains.noted`); they count until they are
        measured anew.

        Raises:
            ValueError: if arrays are required, and some kind cannot train side by side.
        """
        probed = dict(zip(self._crowds, answers, strict=False))
        reasons = dict.fromkeys(self._few, "too few trials share its shape")
        reasons |= {kind: why for kind, probe in probed.items() if (why := self._why_not(kind, probe)) is not None}
        if self._required and reasons:
            kind, why = next(iter(reasons.items()))
            raise ValueError(
                f"`search.arrays: require` needs trials that can train side by side, but at batch size {kind[0]} "
                f"with {kind[1]} they cannot: {why}. Set `search.arrays: auto`."
            )
        wide = [kind for kind in probed if kind not in reasons]
        times = {kind_of(name): seconds for name, seconds in (noted or {}).items()}
        times |= {kind: probe["step_seconds"] for kind, probe in probed.items() if probe["step_seconds"]}
        return Gains(
            widths={kind: even(self._crowds[kind].first, probed[kind]["width"]) for kind in wide},
            variants={kind: self._crowds[kind].variants for kind in wide},
            step_seconds=times,
            reasons=reasons,
            otherwise=UNACCOMPANIED,
        )

    def _why_not(self, kind: Kind, probe: Mapping[str, Any]) -> str | None:
        """Why trials of a kind train alone; None: they train side by side."""
        reason: str | None = probe["reason"]
        if reason is not None or self._required:
            return reason
        gain = self._crowds[kind].gain(probe, slots=self._slots)
        if gain >= LEAST:
            return None
        return f"side by side is {math.floor(100 * gain) / 100} times as fast, less than {LEAST}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """Trials of one batch size and optimizer: how many there are that may train side by side."""

    config: TrainConfig
    """Of one of them."""
    variants: int
    """Different models or data sets among them: only trials of the same train side by side."""
    planned: float
    """Trials of each variant."""
    first: int
    """Those of them that can be asked at once, before any result."""

    def question(self, packs: int) -> dict[str, Any]:
        """What the probe is asked, if trials of a variant are to be at least so many packs."""
        return {"config": self.config.to_json(), "most": max(FEWEST, -(-self.first // packs))}

    def gain(self, probe: Mapping[str, Any], *, slots: int) -> float:
        """How many times as long all of these take alone as side by side, if each trains to its end.

        In every process, every variant is compared with itself alone, and prepared, before its first step: short
        trainings may not win that back. One process has done it for one variant, in the probe.
        """
        if not probe["step_seconds"] or not probe["share_seconds"]:
            return 1.0
        steps = self.planned * self.variants * probe["steps"]
        admissions = probe["admission_seconds"] * (self.variants * slots - 1)
        return float(steps * probe["step_seconds"] / (steps * probe["share_seconds"] + admissions))


def crowds_of(study: Study) -> dict[Kind, Crowd]:
    """The trials of a study by kind, as far as they are known."""
    planned, first = study.planned_by_kind(), study.first_by_kind()
    crowds = {}
    for cell in study.cells.values():
        kind = cell.cell.kind
        if kind in planned and kind not in crowds:
            many = variants(cell.cell.ranges)
            crowds[kind] = Crowd(
                config=cell.example(),
                # More there cannot be among so few trials; a continuous range has no end of them.
                variants=int(min(many, planned[kind])),
                planned=planned[kind] / many,
                first=max(1, math.ceil(first[kind] / many)),
            )
    return crowds


def fixed_seconds(answer: Mapping[str, Any]) -> float:
    """Of a step alone the part that an array shares, if its step takes that and as much again for every member."""
    width, alone = answer["width"], answer["step_seconds"]
    each = (width * answer["share_seconds"] - alone) / (width - 1)
    return float(max(0.0, alone - max(0.0, each)))


def kind_of(name: str) -> Kind:
    """The batch size and optimizer of "batch size-optimizer"."""
    size, _, optimizer = name.partition("-")
    return int(size), optimizer


def even(trials: int, width: int) -> int:
    """The width at which as few packs of at most `width` are about equally wide."""
    return -(-trials // -(-trials // width))
