"""Two processes run every test once, at the same time as far as tests bear company; `JOBS` of the Makefile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = """
import os, time
from pathlib import Path

import pytest

LOG = Path(__file__).with_name("log")


def note(name):
    with LOG.open("a") as file:
        print(name, os.getpid(), file=file)


def meet(name, other):
    note(name)
    end = time.monotonic() + 60
    while other not in LOG.read_text():
        assert time.monotonic() < end, "nobody runs beside this test"
        time.sleep(0.02)
"""
FILES = {
    "test_alone.py": "@pytest.mark.alone\ndef test_alone():\n    note('alone')\n",
    "test_first.py": "def test_meets():\n    meet('first', 'second')\n\n\n"
    "def test_more():\n    time.sleep(0.5)\n    note('more')\n",
    "test_second.py": "def test_meets():\n    meet('second', 'first')\n",
    "test_wrong.py": "def test_wrong():\n    note('wrong')\n    assert False\n",
}


def test_every_test_runs_once_two_files_at_a_time_and_some_without_company(tmp_path: Path) -> None:
    shutil.copy(HERE / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone: no company\n")
    for name, text in FILES.items():
        (tmp_path / name).write_text(PARTS + text)
    command = [sys.executable, str(HERE / "side_by_side.py"), "2", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    ran = dict(line.split() for line in (tmp_path / "log").read_text().splitlines())
    assert len((tmp_path / "log").read_text().splitlines()) == len(ran) == 5
    assert list(ran)[-1] == "alone"
    assert ran["first"] == ran["more"] != ran["second"]
    assert done.stdout.count("FAILED test_wrong.py::test_wrong") == 1
