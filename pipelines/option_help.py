"""The list of a recipe's options for `--help`: each with what its field's docstring says, its type and its default."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from pipelines.options import names_of
from pipelines.schema import default_of, is_required

ABOUT = """Keys are set in a recipe, or here: --search.trials 24, --search.batch_sizes [16,32],
--search.batch_sizes+ 64, --model.init_args.network.init_args.width 64. A default below is that of a recipe that leaves
the key out."""


def help_text(recipe: Any, *, command: str, about: str, ready: Sequence[str], default: str) -> str:
    """What `regatta COMMAND --help` prints, for the keys of the dataclass `recipe`."""
    usage = f"regatta {command} [--config RECIPE] [--print_config] [--KEY VALUE ...]"
    parser = ArgumentParser(prog=f"regatta {command}", usage=usage, description=f"{about} {ABOUT}")
    parser.add_argument(
        "--config", metavar="RECIPE", default=default, help=f"A recipe's path, or a ready one: {', '.join(ready)}."
    )
    parser.add_argument("--print_config", action="store_true", help="Print the resolved recipe, and do nothing.")
    groups: dict[str, Any] = {}
    for name, cls, field in names_of(recipe):
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section or "recipe", cls.__doc__)
        groups[section].add_argument(
            f"--{name}",
            type=_as_one_option(get_type_hints(cls)[field.name]),
            default=default_of(cls, field.name),
            required=is_required(field),
            help=dict(_docstrings(cls)).get(field.name, ""),
        )
    return parser.format_help()


def _as_one_option(annotation: Any) -> Any:
    """The annotation without the dataclasses in it: for each, jsonargparse would list an option of its own."""
    if dataclasses.is_dataclass(annotation):
        return dict[str, Any]
    inner = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return reduce(or_, map(_as_one_option, inner))
    if get_origin(annotation) in (Mapping, Sequence):
        return get_origin(annotation)[tuple(map(_as_one_option, inner))]
    return annotation


def _docstrings(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Fields of a class with the string under each, which Python itself does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef), "the source of a class is a class"
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield statement.target.id, " ".join(str(doc).split()).replace("%", "%%")
