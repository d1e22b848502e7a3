"""The bundle's file, `best.yaml`: written, and read back with every mistake in it named by its line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipelines.bundle import VERSION, Bundle
from pipelines.recipe_file import RecipeError, error_of
from pipelines.schema import build
from pipelines.yaml_source import BAD, read_yaml, write_yaml

NAME = "best.yaml"


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file.

    Raises:
        RecipeError: all that is wrong with it, with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            [f"--config: `{path}` must be a bundle, a file such as runs/STUDY/{NAME}: {error}."]
        ) from error
    draft = read_yaml(text, lambda line: f"{path}:{line}")
    values = draft.values if isinstance(draft.values, dict) else {}
    version = values.get("bundle")
    if not draft.mistakes and version != VERSION:
        rule = "is missing: this is no bundle" if version is None else f"must be {VERSION}, but got {version!r}"
        raise RecipeError([f"{draft.place_of('bundle')}: `bundle` {rule}. `regatta search` writes bundles."])

    def report(name: str, sentence: str) -> None:
        draft.report(name, sentence.replace("the recipe", "the bundle"))

    bundle = BAD if draft.values is BAD else build(Bundle, draft.values, "", report)
    if isinstance(bundle, Bundle) and not draft.mistakes:
        for sentence in bundle.mistakes():
            draft.report(sentence.split("`")[1], sentence)
    if draft.mistakes:
        raise error_of(draft.mistakes)
    assert isinstance(bundle, Bundle), "a draft without mistakes is a bundle"
    return bundle


def to_yaml(bundle: Bundle) -> str:
    """The file's text; read again, it is the same bundle."""
    return write_yaml(dataclasses.asdict(bundle))
