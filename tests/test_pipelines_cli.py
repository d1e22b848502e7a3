"""The `regatta` command runs the pipeline asked for, answers at once, and tells a mistake in one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.options import names_of
from pipelines.recipe import Recipe, from_yaml_text, load_recipe, to_yaml

ROOT = Path(__file__).parent.parent


def regatta(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pipelines.cli", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_mistake_ends_with_code_2_and_nothing_but_sentences() -> None:
    done = regatta("search", "--config", "digits", "--search.trails", "3", "--training.epochs", "0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "regatta: --search.trails: there is no option `--search.trails`; did you mean `--search.trials`? "
        "`--help` lists them all.\n"
        "regatta: --training.epochs: `training.epochs` must be at least 1, but got 0.\n"
    )


def test_a_printed_recipe_is_a_recipe_and_prints_the_same_bytes(tmp_path: Path) -> None:
    first = regatta("search", "--config", "smoke", "--search.trials", "5", "--print_config")
    assert (first.returncode, first.stderr) == (0, "")
    (tmp_path / "printed.yaml").write_text(first.stdout, encoding="utf-8")
    again = regatta("search", "--print_config", "--config", str(tmp_path / "printed.yaml"))
    assert again.stdout == first.stdout
    assert from_yaml_text(first.stdout, "printed") == load_recipe(["--config", "smoke", "--search.trials", "5"])


@pytest.mark.parametrize("argv", [["--help"], ["search", "--help"], ["search", "--print_config"], ["ui", "--help"], []])
def test_what_only_prints_imports_nothing_heavy(argv: Sequence[str]) -> None:
    script = f"""
import sys
from pipelines.cli import main
try:
    main({argv!r})
except SystemExit:
    pass
heavy = {{"torch", "lightning", "pytorch_lightning", "optuna", "mlflow", "distributed", "dask", "sklearn", "scipy"}}
sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_lists_every_command_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, (_, about) in cli.COMMANDS.items():
        assert f"  {name:<8} {about}\n" in printed


def test_help_of_a_search_has_every_option_with_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "--search.trials TRIALS Quasi-random trials in each cell; with `tune`, all trials. (type: int, default: 12)"
        in printed
    )
    assert "--search.learning_rate.factor FACTOR The range reaches from centre / factor to centre x factor." in printed
    assert "A recipe's path, or a ready one: cnn, digits, regimes, smoke, text, tune. (default: digits)" in printed
    assert printed.startswith("usage: regatta search [--config RECIPE] [--print_config] [--KEY VALUE ...]")


def test_help_of_a_search_lists_nothing_that_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", "--help"]) == 0
    printed = set(re.findall(r"^  (?:-h, )?--([\w.]+)", capsys.readouterr().out, re.MULTILINE))
    assert printed == {name for name, _, _ in names_of(Recipe)} | {"help", "config", "print_config"}


def test_without_a_command_the_help_comes_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: regatta COMMAND")


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("regatta 0.")


MISTAKES = [
    (
        ["serch"],
        "there is no command `serch`; did you mean `search`? "
        "Commands: search, report, verify, train, predict, rerun, all, export, sync, ui, doctor",
    ),
    (["--serch"], "there is no command `--serch`"),
    (["search", "--config", "digit"], "--config: `digit` is neither a file nor a ready recipe; did you mean `digits`?"),
    (["search", "--config"], "--config: a value must follow"),
    (["search", "--config", "text"], "pipelines/recipes/text.yaml:15: `data.init_args.path` must be a UTF-8 text file"),
    (["search", "--config=smoke", "--study", "../x"], "--study: `study` must be 1 to 64 lower-case letters"),
    (["export", "a"], "there is no option `a`. `regatta export --help` lists them all."),
    (["sync", "--url", "x"], "there is no option `--url`; did you mean `--uri`? `regatta sync --help` lists them all."),
    (["ui", "--port", "x"], "argument --port: must be a whole number from 1 to 65535, but got 'x'."),
    (["ui", "--port", "70000"], "argument --port: must be a whole number from 1 to 65535, but got '70000'."),
    (["export"], "there must be a study in "),
    (["export", "--study", "digits"], "there must be a study in "),
    (["sync", "--stduy", "x"], "there is no option `--stduy`; did you mean `--study`?"),
]


@pytest.mark.parametrize(("argv", "sentence"), MISTAKES, ids=[" ".join(row[0]) for row in MISTAKES])
def test_a_mistake_is_a_sentence_and_code_2(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"regatta: {sentence}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def _interrupted(argv: Sequence[str]) -> int:
    raise KeyboardInterrupt


def _wrong_twice(argv: Sequence[str]) -> int:
    raise ValueError("`a` must be 1.\n`b` must be 2.")


def test_an_interrupt_ends_with_the_shells_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "wait", (_interrupted, "Waits."))
    assert cli.main(["wait"]) == 130


def test_every_line_of_a_pipelines_error_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "wrong", (_wrong_twice, "Is wrong."))
    assert cli.main(["wrong"]) == 2
    assert capsys.readouterr().err == "regatta: `a` must be 1.\nregatta: `b` must be 2.\n"


@pytest.mark.parametrize("word", ["off", "auto", "require"])
def test_arrays_are_switched_by_a_word_though_yaml_reads_off_as_false(word: str) -> None:
    recipe = load_recipe(["--config", "smoke", "--search.arrays", word])
    assert recipe.search.arrays == word
    assert from_yaml_text(to_yaml(recipe), "resolved").search.arrays == word
