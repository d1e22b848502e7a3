"""The file of a recipe, found by its path or as a ready one and read; and the error that tells all its mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.schema import nearest
from pipelines.yaml_source import Draft, Mistake, read_yaml

READY = Path(__file__).parent / "recipes"
"""The folder of the ready recipes."""
DEFAULT = "digits"
"""The ready recipe that runs where none is named."""


class RecipeError(ValueError):
    """What is wrong with a recipe, one sentence each."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


def ready_recipes() -> list[str]:
    """Names of the ready recipes."""
    return sorted(path.stem for path in READY.glob("*.yaml"))


def read_config(config: str) -> Draft:
    """The file that `--config` names, as a draft."""
    path = READY / f"{config}.yaml" if config in ready_recipes() else Path(config)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError([f"--config: `{config}` must be text in UTF-8, but byte {error.start} is none."]) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        ready = ready_recipes()
        hint = nearest(path.stem, ready)
        raise RecipeError(
            [f"--config: `{config}` is neither a file nor a ready recipe{hint} Ready: {', '.join(ready)}."]
        ) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RecipeError(
            [f"--config: `{config}` must be a readable file: {reason[0].lower()}{reason[1:]}."]
        ) from error
    return draft_of(text, _shown(path))


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    full = path.absolute()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(path)


def draft_of(text: str, source: str) -> Draft:
    """The text of a recipe as a draft; `source` names it in messages."""
    draft = read_yaml(text, lambda line: f"{source}:{line}")
    # The recipe as a whole is the file, not its first line.
    draft.places[""] = source
    if draft.values is None and not draft.mistakes:
        draft.report("", "the recipe must have at least `name`, `model` and `data`, but it is empty.")
    elif not isinstance(draft.values, dict) and not draft.mistakes:
        draft.report("", "the recipe must be a mapping such as `name: mine`, but it is no mapping.")
    if draft.mistakes and not isinstance(draft.values, dict):
        raise error_of(draft.mistakes)
    return draft


def error_of(mistakes: Sequence[Mistake]) -> RecipeError:
    """The mistakes with their places: the file's by line, then the command line's."""

    def order(mistake: Mistake) -> tuple[bool, int]:
        line = re.search(r":(\d+)$", mistake.place)
        return mistake.place.startswith(("--", "command line")), int(line[1]) if line else 0

    return RecipeError(str(mistake) for mistake in sorted(mistakes, key=order))
