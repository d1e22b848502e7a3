"""The code of the user's classes in a few values: enough to notice later that it has changed."""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from models.build import ConfigError, find_class

Sources = dict[str, dict[str, str]]
"""Import path of a class to what it is made of: file (as seen from the working folder) to digest of its code, or
distribution to version where the class comes with an installed package."""

OURS = Path(__file__).parent
INSTALLED = {"site-packages", "dist-packages"}
ABSENT = "not there"


def sources(trees: Iterable[Any]) -> Sources:
    """What the classes in nests of `class_path` and `init_args` are made of; Regatta's own are left out.

    A class's own file counts, and those of its ancestors, unless they come with a package. What these files import does
    not: a digest of everything would change with every version of everything.

    Classes that are named but cannot be imported are left out too: what is built has been imported before.
    """
    found = Sources()
    for path in dict.fromkeys(path for tree in trees for path in class_paths(tree)):
        with suppress(ConfigError):
            found[path] = _made_of(find_class(path, where="class_path"))
    return {path: made_of for path, made_of in found.items() if made_of}


def class_paths(tree: Any) -> Iterator[str]:
    """Every import path in a nest of `class_path` and `init_args`."""
    if isinstance(tree, Mapping):
        if isinstance(tree.get("class_path"), str):
            yield tree["class_path"]
        for item in tree.values():
            yield from class_paths(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from class_paths(item)


def _made_of(cls: type) -> dict[str, str]:
    """Files and digests, or one distribution and its version; empty for a class of ours."""
    first, *others = [(ancestor, _file(ancestor)) for ancestor in cls.__mro__]
    if first[1] is None or first[1].is_relative_to(OURS):
        return {}
    if _is_installed(first[1]):
        return _distribution(cls)
    own = [file for _, file in (first, *others) if file and not _is_installed(file) and not file.is_relative_to(OURS)]
    return {os.path.relpath(file): digest(file) for file in own}


def _file(cls: type) -> Path | None:
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (TypeError, OSError):  # built in, or made while the program runs
        return None


def _is_installed(file: Path) -> bool:
    # The standard library's classes change with Python, whose version is told anyway.
    return bool(INSTALLED & set(file.parts)) or file.is_relative_to(Path(os.__file__).resolve().parent)


def _distribution(cls: type) -> dict[str, str]:
    package = cls.__module__.partition(".")[0]
    return {name: metadata.version(name) for name in metadata.packages_distributions().get(package, ())}


def digest(file: Path) -> str:
    """Of a file's code, without what changes no training: comments, docstrings and layout."""
    content = file.read_bytes()
    if file.suffix == ".py":
        tree = ast.parse(content)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                _drop_docstring(node)
        # Written as code again, not dumped: a dump names the fields of the tree, which versions of Python add to.
        content = ast.unparse(tree).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]


def changes(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield a sentence for everything that differs in the classes that both have.

    A class found at another path with the same code is the same: the working folder may be another.
    """
    for path in before:
        old, new = before[path], now.get(path, before[path])
        if list(old.values()) == list(new.values()):
            continue
        for name in dict.fromkeys([*old, *new]):
            was, present = old.get(name, ABSENT), new.get(name, ABSENT)
            if was != present:
                told = f"`{name}` (class {path}) was {was}, and is {present} now."
                yield f"the code has changed since the search: {told}"


def as_they_are(before: Mapping[str, Mapping[str, str]]) -> Sources:
    """The same files as they are now, without importing anything; what is not found is taken to be the same."""
    return {
        path: {name: digest(Path(name)) if Path(name).is_file() else mark for name, mark in made_of.items()}
        for path, made_of in before.items()
    }
