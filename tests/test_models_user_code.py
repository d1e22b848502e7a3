"""The code of the user's classes: what counts as a change, whose files count, and how a change is told."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import config_of, user_code

from models.fingerprint import fingerprint
from models.job import Job
from models.preflight import check
from models.prepared import prepare
from models.production import train as produce
from models.user_code import Sources, as_they_are, changes, class_paths, digest, sources

NET = '''"""A net."""

from {base} import Base


class Net(Base):
    """Wide."""

    def forward(self, x):
        """Twice."""
        return 2 * x  # twice
'''
BASE = "class Base:\n    pass\n"
BEFORE: Sources = {"net.Net": {"net.py": "aa", "base.py": "bb"}, "torchvision.Net": {"torchvision": "0.20"}}


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A class and its ancestor in two files of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("lone_net", "lone_base"):
        # Undone at the end: nothing of one test is left to the next.
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    (tmp_path / "lone_net.py").write_text(NET.format(base="lone_base"), encoding="utf-8")
    (tmp_path / "lone_base.py").write_text(BASE, encoding="utf-8")
    importlib.invalidate_caches()
    return tmp_path / "lone_net.py"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # twice", "", True),
        ('"""Wide."""', '"""Narrow."""', True),
        ('        """Twice."""\n', "", True),
        ('"""A net."""\n\n', "", True),
        ("2 * x", "(2\n            * x)", True),
        ("2 * x", "3 * x", False),
        ("2 * x", "x * 2", False),
        ("class Net(Base)", "class Net(Base, object)", False),
        ("return 2", "print()\n        return 2", False),
    ],
)
def test_only_what_runs_counts_as_a_change(old: str, new: str, same: bool, net: Path) -> None:
    before, text = digest(net), net.read_text()
    assert old in text
    net.write_text(text.replace(old, new))
    assert (digest(net) == before) is same


def test_a_file_that_is_no_python_counts_byte_by_byte(tmp_path: Path) -> None:
    (tmp_path / "net.so").write_bytes(b"# a")
    first = digest(tmp_path / "net.so")
    (tmp_path / "net.so").write_bytes(b"# b")
    assert digest(tmp_path / "net.so") != first


def test_a_class_is_made_of_its_file_and_those_of_its_ancestors(net: Path) -> None:
    base = net.with_name("lone_base.py")
    expected = {"lone_net.Net": {"lone_net.py": digest(net), "lone_base.py": digest(base)}}
    assert sources([{"class_path": "lone_net.Net", "init_args": {"width": 3}}]) == expected
    assert as_they_are(expected) == expected
    base.write_text(BASE.replace("pass", "width = 3"))
    (told,) = changes(expected, as_they_are(expected))
    assert "`lone_base.py` (class lone_net.Net) was" in told


def test_ours_count_for_nothing_and_a_package_counts_by_its_version() -> None:
    network = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}
    tree = {"class_path": "models.task.Classifier", "init_args": {"network": network}}
    torch: Any = importlib.import_module("torch")
    assert sources([tree]) == {"torch.nn.Linear": {"torch": str(torch.__version__)}}


def test_what_is_only_named_need_not_exist() -> None:
    assert sources([{"class_path": "nowhere.Net"}, {"class_path": "collections.Counter"}]) == {}


def test_every_import_path_is_found() -> None:
    tree = {"class_path": "a.B", "init_args": {"inner": [{"class_path": "c.D"}], "class_path": 3}}
    assert list(class_paths(tree)) == ["a.B", "c.D"]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (BEFORE, []),
        ({}, []),
        ({"net.Net": {"code/net.py": "aa", "code/base.py": "bb"}}, []),
        ({"net.Net": {"net.py": "cc", "base.py": "bb"}}, ["`net.py` (class net.Net) was aa, and is cc now."]),
        ({"net.Net": {"net.py": "aa"}}, ["`base.py` (class net.Net) was bb, and is not there now."]),
        (
            {"torchvision.Net": {"torchvision": "0.21"}},
            ["`torchvision` (class torchvision.Net) was 0.20, and is 0.21 now."],
        ),
        ({"other.Net": {"other.py": "zz"}}, []),
    ],
    ids=str,
)
def test_a_change_names_file_class_and_both_digests(now: Sources, told: list[str]) -> None:
    assert list(changes(BEFORE, now)) == [f"the code has changed since the search: {text}" for text in told]


def test_the_preflight_notes_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    found = check([config_of(code).to_json()])["origin"]["code"]
    file = f"{code.__name__}.py"
    expected = {file: digest(tmp_path / file)}
    assert found == {f"{code.__name__}.Net": expected, f"{code.__name__}.Data": expected}


def test_a_training_on_other_code_is_refused_unless_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, folder = user_code(tmp_path, monkeypatch), tmp_path / "production"
    folder.mkdir()
    config = config_of(code, epochs=1)
    data = prepare(config)
    job = Job(
        id="a",
        started=0.0,
        config=config,
        steps=data.plan(config).total_steps,
        fingerprint=fingerprint(data),
        code={f"{code.__name__}.Net": {f"{code.__name__}.py": "other"}},
        progress=False,
    )
    outcome = produce(job, folder)
    assert outcome.status == "MISTAKE" and "the code has changed since the search: `" in outcome.reason
    assert outcome.reason.endswith("Give `--force` to train all the same.") and not list(folder.iterdir())
    assert produce(replace(job, force=True), folder).status == "COMPLETE"
