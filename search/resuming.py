"""A race put back to where an earlier run of its study left it, from the ledger."""

from __future__ import annotations

from models.segment import SegmentResult
from search.checkpoints import sweep
from search.race import MOST_EXAMPLES, TOO_LARGE, Race
from search.study import Study
from search.trial import TrialConfig, recorded
from tracking.ledger import Ledger


def restore(race: Race) -> None:
    """Take over what an earlier run of this study left in the ledger."""
    known = recorded(race.ledger.trials())
    race.trials = {trial.number: trial for trial, _ in known}
    race.study.most = race.ledger.meta(MOST_EXAMPLES)
    too_large = race.ledger.meta(TOO_LARGE)
    if too_large is not None and not race.study.space.search.accumulate:
        race.study.close(too_large)
    race.study.restore(known)
    for trial, result in known:
        if trial.cell in race.study.cells and (result is None or trial.point):
            _resume(race, trial, ended=result is not None)
    # A driver that was killed has left what it had not yet heard of, or not yet removed.
    ends = [segment.checkpoint for segment in race.waiting]
    ends += [segments[-1].checkpoint for segments in race.segments.values() if segments]
    sweep(race.folder, keep=[*ends, *(best.checkpoint for best in race.study.keepers(race.keep))])


def recall(study: Study, ledger: Ledger) -> None:
    """Tell a study that trains nothing more what became of its trials."""
    known = recorded(ledger.trials())
    study.restore(known)
    for trial, _ in known:
        if trial.cell in study.cells and (segments := _segments(ledger, trial.number)):
            study.reaches(trial, segments)


def _segments(ledger: Ledger, number: int) -> list[SegmentResult]:
    return [SegmentResult.from_json(segment) for segment in ledger.segments(number)]


def _resume(race: Race, trial: TrialConfig, *, ended: bool) -> None:
    """Put a trial that had not ended back in line, or to rest where it waited; of others, note how they went."""
    segments = _segments(race.ledger, trial.number)
    waits = bool(segments) and race.study.reaches(trial, segments)
    if ended:
        return
    race.segments[trial.number] = segments
    if not segments:
        race.waiting.append(race.fitted(race.first_segment(trial)))
    elif not waits:
        race.waiting.append(race.next_segment(trial, segments[-1]))
