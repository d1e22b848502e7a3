"""A disk that is full, or that nobody may write to, costs what is being written and nothing that was."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from faulty_searches import FAULTS, ONCE, search, trials

from pipelines.cli import main

SMALL = {resource.RLIMIT_FSIZE: 100_000}
"""No file may grow beyond this: what a full disk looks like to a process."""


@pytest.mark.slow
def test_a_ledger_that_cannot_grow_ends_the_search_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ["--search.trials", "3", "--training.evaluations", "60"]
    code, _, err = search(tmp_path, *words, limits=SMALL)
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("regatta: the ledger ")
    assert line.endswith("What was committed is safe: see to the disk, then run the same command again.")
    before = trials(tmp_path)
    code, out, err = search(tmp_path, *words)
    assert (code, err) == (0, ""), out
    after = trials(tmp_path)
    assert [row["status"] for row in after] == ["COMPLETE"] * 3
    assert [row["config"] for row in after][: len(before)] == [row["config"] for row in before]


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_fails_its_trial_with_that_reason(tmp_path: Path) -> None:
    # From the first trial on, no file of the worker may grow; each trial is tried twice.
    words = [FAULTS, "{any: fill_disk}", ONCE, str(tmp_path / "full"), "--search.trials", "2"]
    _, _, err = search(tmp_path, *words)
    assert err == ""
    reasons = [row["result"]["reason"] for row in trials(tmp_path)]
    assert len(reasons) == 2
    assert all("cannot be written" in reason and reason.startswith("checkpoint: ") for reason in reasons)
    assert not any(path.is_file() for path in (tmp_path / "faulty" / "checkpoints").rglob("*"))


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_state_folder_that_cannot_be_is_a_sentence_before_anything_runs(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("REGATTA_HOME", str(tmp_path / place))
    assert main(["search", "--config", "smoke"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("regatta: the state folder must be writable, but ")
    assert captured.err.endswith("Set REGATTA_HOME.\n") and len(captured.err.splitlines()) == 1
