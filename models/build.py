"""Classes by import path: find them, check their arguments, build them, and tell which Lightning they belong to."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any


class ConfigError(ValueError):
    """A mistake in the configuration that would break every trial alike: the search ends with this sentence."""


LIGHTNING_TREES = ("pytorch_lightning", "lightning.pytorch")
"""Two packages with the same classes twice; the Trainer of one refuses the modules of the other."""


def find_class(class_path: str, *, where: str) -> type:
    """The class at an import path. `where` is the recipe's key, for the error message.

    Raises:
        ConfigError: if the module cannot be imported or has no such class.
    """
    module_path, _, name = class_path.rpartition(".")
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`{where}` must be importable, but {class_path!r} is not: {error}. "
            "Install the package, or run from the folder that holds it."
        ) from error
    except Exception as error:
        raise ConfigError(
            f"`{where}` must be importable, but importing {module_path!r} raised {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        names = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(
            f"`{where}` must name a class, but `{module_path}` has no class {name!r}.{nearest(name, names)}"
        )
    return found


def nearest(name: str, known: list[str]) -> str:
    """` Did you mean ...?` where a known name is close, otherwise nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def named_parameters(cls: type) -> list[inspect.Parameter]:
    """The constructor's parameters that can be given by name."""
    return [p for p in _parameters(cls) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


@functools.cache
def _parameters(cls: type) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(cls).parameters.values())
    except ValueError:  # Classes written in C seldom tell: they check their arguments themselves.
        return (inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD),)


def takes(cls: type, name: str) -> bool:
    """Whether the constructor takes an argument of this name."""
    return any(p.kind is p.VAR_KEYWORD for p in _parameters(cls)) or name in [p.name for p in named_parameters(cls)]


def wrong_arguments(cls: type, arguments: Mapping[str, Any], *, where: str) -> Iterator[str]:
    """Yield one sentence for every argument that the constructor does not take, or needs and does not get."""
    names = [p.name for p in named_parameters(cls)]
    for name in arguments:
        if not takes(cls, name):
            known = ", ".join(f"`{n}`" for n in names) or "none"
            yield f"`{where}.{name}` is not an argument of {cls.__name__}, which takes {known}.{nearest(name, names)}"
    for parameter in named_parameters(cls):
        if parameter.default is parameter.empty and parameter.name not in arguments:
            yield f"`{where}.{parameter.name}` must be set: {cls.__name__} needs it."


def build(spec: Mapping[str, Any], *, where: str, **more: Any) -> Any:
    """An object from `{class_path, init_args}`, nested ones first; `more` are arguments on top.

    Raises:
        ConfigError: if a class cannot be found, or does not take its arguments.
    """
    cls = find_class(spec["class_path"], where=f"{where}.class_path")
    arguments = {**(spec.get("init_args") or {}), **more}
    mistakes = list(wrong_arguments(cls, arguments, where=f"{where}.init_args"))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return cls(**{name: _value(value, f"{where}.init_args.{name}") for name, value in arguments.items()})


def _value(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "class_path" in value and set(value) <= {"class_path", "init_args"}:
            return build(value, where=where)
        return {key: _value(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, where) for item in value]
    return value


def lightning_of(cls: type, *, base: str, where: str) -> ModuleType:
    """The Lightning package that a class derives from: `pytorch_lightning` or `lightning.pytorch`.

    Args:
        base: name of the class to derive from, `LightningModule` or `LightningDataModule`.

    Raises:
        ConfigError: if it derives from neither.
    """
    for ancestor in cls.__mro__:
        for tree in LIGHTNING_TREES:
            if ancestor.__module__.startswith(f"{tree}.") and ancestor.__name__ == base:
                return importlib.import_module(tree)
    raise ConfigError(f"`{where}` must derive from a {base}, but {cls.__module__}.{cls.__name__} does not.")
