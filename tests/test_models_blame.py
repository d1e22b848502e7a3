"""What a user sees first of an exception is the exception, then the line of theirs that it came from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from models.blame import told
from models.build import ConfigError, find_class

USERS = """
import json

def outer():
    inner()

def inner():
    json.loads("{")

def wrapped():
    try:
        outer()
    except ValueError as error:
        raise KeyError("label") from error
"""


@pytest.fixture
def users(tmp_path: Path) -> ModuleType:
    """A file of the user's."""
    path = tmp_path / "theirs.py"
    path.write_text(USERS)
    spec = importlib.util.spec_from_file_location("theirs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_exception_comes_first_and_then_its_lines_the_last_one_first(users: ModuleType) -> None:
    with pytest.raises(ValueError) as caught:
        users.outer()
    first, second, *lines = told(caught.value).splitlines()
    assert first.startswith("JSONDecodeError: Expecting property name")
    assert second == "Traceback (last lines first):"
    # The last line is this test's.
    assert [line.partition(": ")[0].rpartition(" in ")[2] for line in lines[-3:-1]] == ["inner", "outer"]
    # What the user's line has called is told, too.
    assert "json/decoder.py" in lines[0]


def test_a_cause_is_told_behind_what_came_of_it(users: ModuleType) -> None:
    with pytest.raises(KeyError) as caught:
        users.wrapped()
    before, cause = told(caught.value).split("\n\nwhich came of:\n\n")
    assert before.startswith("KeyError: 'label'\n")
    assert cause.startswith("JSONDecodeError: ")


def test_an_exception_without_a_line_of_the_users_is_told_with_all_its_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        find_class("nowhere.Net", where="model.class_path")
    error = caught.value
    assert error.__traceback__ is not None
    ours = told(error.with_traceback(error.__traceback__.tb_next)).split("\n\n")[0]
    assert "in find_class: " in ours
