"""Any recipe and any command line is taken, or refused in sentences: never a traceback, and never a file written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fuzzing import NAMES, TRICKS, answer, damaged, examples, junk, one_setting, trees, written
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipe import Recipe, load_recipe
from pipelines.recipe_file import READY
from pipelines.session import opened, space_of
from pipelines.stages import plain
from search.objectives import study_of
from search.trial import TrialConfig
from tracking.place import home, study_folder


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """The file of a recipe: made from the schema, a ready one, or neither, and damaged one time in three."""
    ready = st.sampled_from(sorted(READY.glob("*.yaml"))).map(Path.read_bytes)
    content = draw(st.one_of(trees().map(lambda tree: written(tree).encode()), ready, st.binary(max_size=60)))
    return draw(st.one_of(st.just(content), st.just(content), damaged(content)))


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """Overrides of a command line."""
    found: list[str] = []
    for name, value in draw(st.lists(one_setting(), max_size=2)):
        text = draw(st.one_of(st.just(str(value)), st.sampled_from([*TRICKS, *NAMES]), junk.map(repr)))
        found += draw(st.sampled_from([[f"--{name}", text], [f"--{name}={text}"], [f"--{name}+", text], [name, text]]))
    return found


def check(path: Path, content: bytes, overrides: list[str]) -> None:
    """Ask for a recipe; if it is taken, begin its search, up to where workers would start."""
    path.write_bytes(content)
    before = sorted(path.parent.rglob("*"))
    argv = ["--config", str(path), *overrides]
    code, printed = answer(["search", *argv, "--print_config"])
    if code == 0:
        path.write_text(printed, encoding="utf-8")
        assert answer(["search", "--config", str(path), "--print_config"]) == (0, printed), "it resolves to itself"
        begin(load_recipe(["--config", str(path)]))
    assert sorted(path.parent.rglob("*")) == before


def begin(recipe: Recipe) -> None:
    """Begin its study in the state folder, go on with it once, ask the first trials, and leave nothing."""
    folder = study_folder(recipe.study_name)
    assert folder.resolve().parent == home()
    study = study_of(space_of(recipe))
    for _ in range(2):
        with opened(recipe, folder) as ledger:
            trial = study.ask()
            if trial is not None:
                ledger.ask([trial.to_json()])
                assert TrialConfig.from_json(ledger.trial(trial.number)["config"]).to_json() == plain(trial.to_json())
    shutil.rmtree(home())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where every case of a test is written, one after the other."""
    return tmp_path / "r.yaml"


@examples(80)
@given(content=files(), overrides=words())
def test_any_recipe_is_taken_or_refused_in_sentences(path: Path, content: bytes, overrides: list[str]) -> None:
    check(path, content, overrides)


@pytest.mark.slow
@examples(900)
@given(content=files(), overrides=words())
def test_any_of_many_recipes_is_taken_or_refused_in_sentences(path: Path, content: bytes, overrides: list[str]) -> None:
    check(path, content, overrides)
