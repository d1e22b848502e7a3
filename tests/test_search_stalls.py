"""What makes no progress is found out, and what is slow, stopped or starved is not taken for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from models import pulse
from search import stalls
from search.cluster import HEARTBEAT_LEAST, heartbeat_limit
from search.stalls import FACTOR, TICK, Silence, Stall, watched

LEAST = 20.0
LOOKS = int(LEAST / TICK)
"""Looks in a silence that any training may take."""
SILENCES = [
    # looks at each number of signs of life, seconds from look to look, whether it hangs in the end
    ("a training that never took a step", [LOOKS + 2], TICK, True),
    ("as long a silence as any may take", [LOOKS], TICK, False),
    ("a training that stopped", [3, 3, 3, LOOKS + 2], TICK, True),
    ("steps as long as the longest so far", [LOOKS, LOOKS, LOOKS], TICK, False),
    ("a step nine times as long as the longest", [LOOKS, 9 * LOOKS], TICK, False),
    ("a step eleven times as long as the longest", [LOOKS, int((FACTOR + 1) * LOOKS)], TICK, True),
    ("a process that was stopped for an hour", [3, 3], 3600.0, False),
    ("a machine twice as slow, of which all counts", [LOOKS // 2 + 2], 2 * TICK, True),
]


@pytest.mark.parametrize(("looks", "elapsed", "hangs"), [row[1:] for row in SILENCES], ids=[row[0] for row in SILENCES])
def test_a_silence_is_measured_by_what_was_longest_before(looks: Sequence[int], elapsed: float, hangs: bool) -> None:
    silence = Silence(LEAST)
    assert [silence.look(signs, elapsed) for signs, times in enumerate(looks) for _ in range(times)][-1] is hangs


def test_a_training_that_hangs_is_told_with_its_place_and_its_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "TICK", 0.02)
    found: list[Stall] = []
    ended = threading.Event()

    def end(stall: Stall) -> None:
        found.append(stall)
        ended.set()

    with watched(0.2, folder=str(tmp_path / "checkpoints"), name="trial.txt", end=end):
        assert ended.wait(30)
    stall = found[0]
    assert stall.seconds > 0.2
    assert stall.where.startswith("wait, ") and "threading.py line " in stall.where
    assert Path(stall.stacks) == tmp_path / "stacks" / "trial.txt"
    assert "assert ended.wait(30)" in Path(stall.stacks).read_text()


@pytest.mark.parametrize("least", [None, 30.0])
def test_a_training_that_takes_its_steps_is_left_alone(
    least: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "TICK", 0.01)
    with watched(least, folder=str(tmp_path), name="trial.txt", end=lambda stall: pytest.fail(str(stall))):
        for _ in range(10):
            pulse.beat()
            time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_stacks_that_cannot_be_written_keep_nothing_from_ending(tmp_path: Path) -> None:
    (tmp_path / "stacks").touch()
    assert stalls._write_stacks(str(tmp_path / "checkpoints"), "trial.txt") == ""


LIMITS = [(600.0, 300.0), (10.0, HEARTBEAT_LEAST), (None, None)]


@pytest.mark.parametrize(("stall_seconds", "expected"), LIMITS)
def test_heartbeats_may_lack_for_a_minute_at_least(stall_seconds: float | None, expected: float | None) -> None:
    assert heartbeat_limit(stall_seconds) == expected
