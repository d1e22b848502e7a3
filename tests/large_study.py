"""A study of very many trials whose trainings are made up: `python -m large_study STEP FOLDER COUNT` takes a step.

Each step is a process of its own, as the calls of a command are, and prints as JSON what it found and its memory.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from scale import STEPS, AtOnce, space

from search.objectives import study_of
from search.race import Race
from search.records import examine
from search.resuming import restore
from search.trial import TrialConfig, TrialResult
from tracking.ledger import Ledger


def searched(folder: Path, count: int) -> dict[str, Any]:
    """Go on until the ledger has so many trials; the first time, from the beginning."""
    with Ledger.open(folder, create=True) as ledger:
        examine(ledger)
        race = Race(study_of(space("compare", count)), ledger, str(folder / "checkpoints"))
        restore(race)
        before, over = len(race.trials), race.is_over
        race.run(AtOnce(), stopping=lambda: False, watch=lambda _: None)
        return {"before": before, "over": over, "asked": len(race.trials) - before, **counts(ledger)}


def counts(ledger: Ledger) -> dict[str, Any]:
    """What is in the ledger: how trials ended, of each cell how many, and how many differ from all others."""
    rows = ledger.trials()
    return {
        "status": Counter(row["status"] for row in rows),
        "cells": sorted(Counter(row["cell"] for row in rows).values()),
        "numbers": [row["number"] for row in rows] == list(range(len(rows))),
        "distinct": len({json.dumps(row["config"]["params"], sort_keys=True) for row in rows}),
    }


def proposed(folder: Path, count: int) -> dict[str, Any]:
    """Ask a sampler that learns, once it knows so many results."""
    sequence, known = study_of(space("qmc", count)), list[tuple[TrialConfig, TrialResult]]()
    while (trial := sequence.ask()) is not None:
        value = abs(trial.params["learning_rate"] - 0.1) + 1 / STEPS
        known.append((trial, TrialResult(number=trial.number, status="COMPLETE", value=value)))
    study = study_of(space("tpe", count + 1))
    study.restore(known)
    first = study.ask()
    assert first is not None and first.params not in [trial.params for trial, _ in known]
    return {"known": len(known), "asked": first.number, "over": study.ask() is None}


def peak() -> float:
    """Most memory that this process has had, in MB; `ru_maxrss` would count the one that started it."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(kilobytes) / 1024


if __name__ == "__main__":
    found = {"searched": searched, "proposed": proposed}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({**found, "megabytes": peak()}))
