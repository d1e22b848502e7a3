"""A study is found by its name, by its folder, or as the last one; nothing is made by looking."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracking.ledger import Ledger
from tracking.place import existing_study, home, study_folder, write


@pytest.fixture
def studies(regatta_home: Path) -> Path:
    """The state folder with two studies, `old` and `new`."""
    for age, name in enumerate(("new", "old")):
        Ledger.open(regatta_home / name, create=True).close()
        os.utime(regatta_home / name / "study.db", (1e9 - age, 1e9 - age))
    return regatta_home


def test_without_a_name_the_study_searched_last_is_meant(studies: Path) -> None:
    assert existing_study(None) == studies / "new"


def test_a_study_is_found_by_its_name_or_its_folder(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert existing_study("old") == existing_study(studies / "old") == existing_study(str(studies / "old"))
    monkeypatch.chdir(studies)
    assert existing_study("old") == studies / "old"
    monkeypatch.setenv("REGATTA_HOME", str(studies / "elsewhere"))
    assert existing_study(Path("old")) == studies / "old"


def test_a_name_goes_before_a_folder_of_that_name(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger.open(tmp_path / "here" / "old", create=True).close()
    monkeypatch.chdir(tmp_path / "here")
    assert existing_study("old") == studies / "old"


def test_a_study_that_does_not_exist_names_those_that_do(studies: Path) -> None:
    with pytest.raises(ValueError, match="`study` must be one of new, old, but got 'olf'"):
        existing_study("olf")


def test_without_any_study_the_remedy_is_a_search(regatta_home: Path) -> None:
    for study in (None, "old"):
        with pytest.raises(ValueError, match=r"there must be a study in .* Run `regatta search` first"):
            existing_study(study)
    assert not regatta_home.exists()


def test_the_state_folder_is_runs_unless_said_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGATTA_HOME", "")
    assert (home(), study_folder("a")) == (tmp_path / "runs", tmp_path / "runs" / "a")


def test_a_file_is_written_in_place_of_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    for text in ("ä", "b"):
        write(tmp_path / "file", text)
        assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("file", text)]
