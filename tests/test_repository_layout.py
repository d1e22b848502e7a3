"""The repository is laid out as its README, its lock and its Makefile say."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipelines", "models", "search", "tracking")
FOLDERS = (*PACKAGES, "benchmarks")
PYTHON_FILES = sorted(path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py"))


def project() -> dict[str, Any]:
    """The table `[project]` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def readme() -> str:
    """The README's text."""
    assert (ROOT / "README.md").exists(), "the repository must have a README.md"
    return (ROOT / "README.md").read_text(encoding="utf-8")


def house(text: str) -> str:
    """The fenced block under the heading `## The house`."""
    section = re.search(r"^## The house\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, "README.md must have a heading `## The house`"
    block = re.search(r"^```[^\n]*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert block, "README.md must have a fenced block with the file tree under `## The house`"
    return block[1]


def listed(tree: str) -> Iterator[str]:
    """Paths of the Python files and recipes in a tree: folders end in `/`, what is in them stands further right.

    A line may name several files, one after the other; the first word that is no such file begins its explanation.
    """
    inside: list[tuple[int, str]] = []
    for line in filter(str.strip, tree.splitlines()):
        indent = len(line) - len(line.lstrip())
        inside = [(depth, folder) for depth, folder in inside if depth < indent]
        prefix = "".join(folder for _, folder in inside)
        words = line.split()
        yield from (prefix + name for name in takewhile(lambda word: word.endswith((".py", ".yaml")), words))
        if words[0].endswith("/"):
            inside.append((indent, words[0]))


def on_disk() -> set[str]:
    """Paths of the Python files and recipes, without the packages' `__init__.py`."""
    found = (path for folder in FOLDERS for kind in ("*.py", "*.yaml") for path in (ROOT / folder).rglob(kind))
    return {path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py"}


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a text's code, fenced or inline, that calls make."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line for code in (*fenced, *inline) for line in re.split(r"\n|&&|;|\|", code)]
    for line in lines:
        if re.match(r"\s*(\$ )?make\b", line):
            yield shlex.split(line.strip().removeprefix("$ "), comments=True)


def make_targets(text: str) -> set[str]:
    """The targets that a text's code gives to make."""
    return {word for words in commands(text) for word in words[1:] if "=" not in word and not word.startswith("-")}


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    named = list(listed(house(readme())))
    assert not (missing := on_disk() - set(named)), f"README.md must list these files: {sorted(missing)}"
    assert not (extra := set(named) - on_disk()), f"README.md lists files that do not exist: {sorted(extra)}"
    assert len(named) == len(set(named)), "README.md must name every file once"


def test_a_tree_is_read_by_its_indentation() -> None:
    tree = """\
pyproject.toml  README.md
models/      what is trained
  config.py    the configuration, see train.py
  nets.py  task.py
tracking/
  analysis/    pure functions
    scaling.py   rules
  runs.py
  recipes/     digits.yaml is the first
    digits.yaml
"""
    assert list(listed(tree)) == [
        "models/config.py",
        "models/nets.py",
        "models/task.py",
        "tracking/analysis/scaling.py",
        "tracking/runs.py",
        "tracking/recipes/digits.yaml",
    ]


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    existing = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))
    assert make_targets(readme()) - existing == set()


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("to make sure", set()),
        ("run `make search`, then `make`", {"search"}),
        ('`make search RECIPE=my.yaml ARGS="--search.trials 24"`', {"search"}),
        ("```\n$ cd regatta && make -j test check   # both\nmake PYTHON=python3.12 ui\n```", {"test", "check", "ui"}),
    ],
)
def test_make_targets_are_read_from_code_only(text: str, targets: set[str]) -> None:
    assert make_targets(text) == targets


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_begins_by_saying_its_one_job(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} must begin with a docstring"


@pytest.mark.parametrize("folder", ["pipelines", "tests", "benchmarks"])
def test_nothing_that_is_run_from_its_folder_shadows_a_package(folder: str) -> None:
    # Python puts the folder of a script first on its path: `pipelines/search.py` would be found instead of `search`.
    names = {path.stem for path in (ROOT / folder).iterdir()}
    assert names & {*FOLDERS, *sys.stdlib_module_names} == set()


def test_the_lock_holds_every_dependency_within_its_range() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    locked = {canonicalize_name(pin.name): next(iter(pin.specifier)) for pin in pins}
    extras = [named for extra in project()["optional-dependencies"].values() for named in extra]
    for requirement in map(Requirement, [*project()["dependencies"], *extras]):
        pin = locked[canonicalize_name(requirement.name)]
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), f"{requirement} is locked at {pin}"


def test_the_lock_is_of_no_one_machine() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if re.search(r"^-|@|://|\+", line)] == []


@pytest.mark.slow
def test_a_built_wheel_holds_the_packages_and_the_recipes_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("regatta-*.whl")
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = ("*.py", "*.yaml", "*.css")
    packed = {path.relative_to(ROOT) for name in PACKAGES for kind in kinds for path in (ROOT / name).rglob(kind)}
    assert held == packed
