"""The rules that arguments of the ready datamodules, networks and modules obey, each broken one a sentence."""

from __future__ import annotations

from collections.abc import Sequence


def check_count(name: str, value: int, *, least: int = 1) -> None:
    """Raise `ValueError` unless `value` is a whole number of at least `least`."""
    # A bool is an int for Python, and `batch_size: true` in YAML is a slip.
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, but got {value!r}.")


def check_share(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` lies in [0, 1); NaN does not."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` must be a share in [0, 1), but got {value}.")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, but got {value!r}.")
