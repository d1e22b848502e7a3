"""`regatta all`: which stages run and why, and how it stops and goes on."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, regatta, started
from rich.console import Console
from test_pipelines_bundle import bundle, one
from test_pipelines_train import LARGE, request

from models.job import BEST, JOB, LAST, OUTCOME
from pipelines import run_verify, stage_record
from pipelines.bundle import Bundle
from pipelines.bundle_file import NAME, to_yaml
from pipelines.recipe import Recipe, load_recipe
from pipelines.run_all import go_through
from pipelines.session import opened
from pipelines.stages import SEARCH, TRAIN, VERIFICATION, VERIFY, Stage, plain
from pipelines.training_job import MODEL, PRODUCTION, REGISTERED, SENT, job_of
from search.verification import SEEDS, TOP
from tracking.ledger import Ledger
from tracking.ledger_file import FILE
from tracking.place import existing_study

TINY = [
    "--config", "smoke", "--search.batch_sizes", "[64]", "--search.schedules", "[constant]", "--training.epochs", "1",
    "--search.arrays", "off", "--cluster.workers", "2", "--tracking.mlflow", "false",
]  # fmt: skip


# The record of what is done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    return tmp_path


def test_a_record_reads_back_and_names_every_file_that_is_not_as_it_was(folder: Path) -> None:
    stage_record.note(folder, "one", {"trials": 3}, ["a.txt", "b.txt", "never.txt"])
    stage_record.note(folder, "two", {}, [])
    done = stage_record.read(folder)
    assert list(done) == ["one", "two"] and done["one"].inputs == {"trials": 3}
    assert list(stage_record.altered(folder, done["one"])) == []
    os.utime(folder / "a.txt", (1e9, 1e9))
    assert list(stage_record.altered(folder, done["one"])) == []
    (folder / "a.txt").write_text("c")
    (folder / "b.txt").unlink()
    assert list(stage_record.altered(folder, done["one"])) == ["`a.txt` has changed", "`b.txt` is gone"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"one": {}}', '{"one": {"at": 1, "inputs": {}, "outputs": {"a": 1}}}']
)
def test_a_damaged_record_costs_a_look_at_every_stage_and_no_more(text: str, folder: Path) -> None:
    (folder / stage_record.FILE).write_text(text)
    assert stage_record.read(folder) == {}
    stage_record.note(folder, "one", {}, [])
    assert list(stage_record.read(folder)) == ["one"]


# One stage


def counting(calls: list[str], *, code: int = 0) -> Stage:
    """A stage that writes a file, and runs until it has ended well once."""

    def run(_: Recipe, here: Path) -> int:
        calls.append("ran")
        (here / "count.txt").write_text("1")
        return code

    return Stage(
        name="count",
        inputs=lambda _recipe, _folder: {"sizes": (1, 2)},
        files=("count.txt",),
        why=lambda _folder, now, done: None if done is not None and done.inputs == now else "it is new [1]",
        said=lambda _folder, _now: "counted",
        run=run,
    )


def said_by(stage: Stage, folder: Path) -> tuple[int, str]:
    said = io.StringIO()
    code = go_through(stage, load_recipe(TINY), folder, Console(file=said, width=200))
    return code, said.getvalue()


def test_a_stage_runs_once_and_says_why(folder: Path) -> None:
    calls: list[str] = []
    stage = counting(calls)
    assert said_by(stage, folder) == (0, "count: runs, it is new [1]\n")
    code, said = said_by(stage, folder)
    assert code == 0 and re.fullmatch(r"count: up to date \(counted \d\d:\d\d\)\n", said)
    assert calls == ["ran"]


@pytest.mark.parametrize(
    ("code", "words"), [(1, "ended with exit code 1"), (130, "interrupted"), (143, "interrupted"), (129, "interrupted")]
)
def test_a_stage_that_does_not_end_well_stops_the_whole_and_is_not_recorded(
    code: int, words: str, folder: Path
) -> None:
    found, said = said_by(counting([], code=code), folder)
    assert found == code and said.endswith(f"count: {words}; `regatta all` goes on here\n")
    assert stage_record.read(folder) == {}


def test_a_stage_that_is_refused_ends_the_whole_with_its_sentence(regatta_home: Path) -> None:
    recipe = load_recipe(TINY)
    with opened(recipe, regatta_home / "smoke"):
        pass  # A search that has asked nothing yet.
    said = io.StringIO()
    with pytest.raises(ValueError, match="there must be a complete trial to verify"):
        go_through(VERIFY, recipe, regatta_home / "smoke", Console(file=said))
    assert said.getvalue() == "verify: runs, it has not been done yet\n"
    assert stage_record.read(regatta_home / "smoke") == {}


def test_code_that_has_changed_since_is_told_though_no_trial_is_trained_again(
    regatta_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.py").write_text(LARGE)
    recipe, here = load_recipe(TINY), regatta_home / "smoke"
    with opened(recipe, here) as ledger:
        ledger.set_meta("origin", {"code": {"large.Large": {"large.py": "3f2a"}}})
    stage_record.note(here, "search", plain(SEARCH.inputs(recipe, here)), SEARCH.files)
    said = io.StringIO()
    assert go_through(SEARCH, recipe, here, Console(file=said, width=400)) == 0
    first, second = said.getvalue().splitlines()
    assert first.startswith("search: up to date (0 trials, ended ")
    assert second.startswith("the code has changed since the search: `large.py` (class large.Large) was 3f2a, and is ")
    assert second.endswith(" now. No trial is trained again; a new `--study` begins anew.")


def test_a_verification_has_the_same_settings_as_one_by_hand() -> None:
    assert VERIFICATION == {"top": TOP, "seeds": SEEDS}
    assert run_verify.main.__defaults__ == (TOP, SEEDS)


def test_the_study_searched_last_is_told_by_its_log_too(regatta_home: Path) -> None:
    for age, name in enumerate(("one", "other")):
        Ledger.open(regatta_home / name, create=True).close()
        os.utime(regatta_home / name / FILE, (1e9 - age, 1e9 - age))
    assert existing_study(None).name == "one"
    with closing(sqlite3.connect(regatta_home / "other" / FILE)) as reader:
        reader.execute("SELECT * FROM meta").fetchall()
        assert existing_study(None).name == "one"
        # The reader keeps the log from being folded into the file when the search ends.
        with Ledger.open(regatta_home / "other", create=False) as ledger:
            ledger.set_meta("status", "RUNNING")
        os.utime(regatta_home / "other" / FILE, (1e9 - 1, 1e9 - 1))
        assert existing_study(None).name == "other"


# Production: gone on with, set aside, or left alone


def trained(folder: Path, made: Bundle, *, noted: bool = True, **options: str) -> None:
    """A study's folder with a bundle and the training of it that has ended."""
    (folder / PRODUCTION).mkdir(exist_ok=True)
    (folder / NAME).write_text(to_yaml(made), encoding="utf-8")
    job_of(made, request(**options)).write(folder / PRODUCTION)
    for name in (LAST, BEST, OUTCOME, SENT, REGISTERED):
        (folder / PRODUCTION / name).write_text(name)
    (folder / PRODUCTION / MODEL).mkdir(exist_ok=True)
    if noted:
        stage_record.note(folder, "train", inputs(folder), TRAIN.files)


def inputs(folder: Path) -> dict[str, Any]:
    return plain(TRAIN.inputs(load_recipe(TINY), folder))


def why(folder: Path) -> str | None:
    return TRAIN.why(folder, inputs(folder), stage_record.read(folder).get("train"))


ANEW = ": trained anew, the earlier training is set aside"


def changed(**fields: Any) -> Bundle:
    return dataclasses.replace(bundle(one("cosine")), **fields)


def test_a_training_that_nothing_has_changed_for_is_left_alone(folder: Path) -> None:
    (folder / NAME).write_text(to_yaml(changed()), encoding="utf-8")
    assert why(folder) == "nothing is trained yet"
    trained(folder, changed())
    assert why(folder) is None
    # What is only told beside the configuration changes no training.
    (folder / NAME).write_text(to_yaml(changed(versions={"version.torch": "3"})), encoding="utf-8")
    assert why(folder) is None


@pytest.mark.parametrize("noted", [True, False])
def test_another_bundle_is_trained_anew(noted: bool, folder: Path) -> None:
    trained(folder, changed(), noted=noted)
    (folder / NAME).write_text(to_yaml(changed(gradient_clip=0.5)), encoding="utf-8")
    assert why(folder) == f"the bundle has changed{ANEW}"


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_training_that_was_damaged_is_trained_anew(name: str, folder: Path) -> None:
    trained(folder, changed())
    (folder / PRODUCTION / name).write_text("cut")
    assert why(folder) == f"`{PRODUCTION}/{name}` has changed{ANEW}"


def test_a_training_that_was_asked_for_by_hand_is_not_replaced(folder: Path) -> None:
    trained(folder, changed())
    trained(folder, changed(gradient_clip=0.5), noted=False, devices="2")
    assert why(folder) == "the bundle has changed"
    trained(folder, changed(), noted=False)
    assert why(folder) == f"`{PRODUCTION}/{JOB}` has changed"
    (folder / stage_record.FILE).unlink()
    assert why(folder) == "a training is there"


@pytest.mark.parametrize("name", [SENT, REGISTERED])
def test_what_mlflow_lacks_is_sent_again(name: str, folder: Path) -> None:
    trained(folder, changed())
    (folder / PRODUCTION / name).unlink()
    assert why(folder) == "MLflow has not got all of it"


def test_a_model_that_is_gone_is_made_again_without_another_training(folder: Path) -> None:
    trained(folder, changed())
    (folder / PRODUCTION / MODEL).rmdir()
    assert why(folder) == f"`{PRODUCTION}/{MODEL}` is gone"


def test_a_verification_since_is_news_for_the_registry_alone(folder: Path) -> None:
    trained(folder, changed())
    (folder / NAME).write_text(to_yaml(changed(verification={"chosen": "a", "finalists": []})), encoding="utf-8")
    assert why(folder) == "the bundle has changed"


# For real, in processes of its own


def ended(*words: str, home: Path, code: int = 0) -> tuple[str, str]:
    done = regatta(*words, home=home)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def lines(out: str) -> list[str]:
    """What is said of the stages, without times of day."""
    found = re.findall(r"^(?:search|report|verify|train): (?!/).*", out, re.MULTILINE)
    return [re.sub(r" \d\d:\d\d\)$", ")", line) for line in found]


UP_TO_DATE = [
    "search: up to date (2 trials, ended)",
    "report: up to date (7 trials, written)",
    "verify: up to date (5 fresh seeds, ended)",
    "train: up to date (23 steps, ended)",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The state folder that a first `regatta all` has left, and what it said; the last line: what it imported."""
    home = tmp_path_factory.mktemp("whole") / "home"
    script = f"""
import sys
from pipelines.cli import main
code = main(["all", *{TINY!r}, "--search.trials", "2"])
print(sorted({{"torch", "pytorch_lightning", "lightning"}} & set(sys.modules)))
sys.exit(code)
"""
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    yield home, done.stdout


@pytest.mark.slow
def test_all_stages_run_in_order_and_none_twice(whole: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    home, out = whole
    assert lines(out) == [
        "search: runs, the study is new",
        "report: up to date (2 trials, written)",
        "verify: runs, it has not been done yet",
        "train: runs, nothing is trained yet",
    ]
    assert out.splitlines()[-1] == "[]"
    monkeypatch.setenv("REGATTA_HOME", str(home))
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    script = f"""
import sys
from pipelines.cli import main
code = main(["all", *{TINY!r}, "--search.trials", "2"])
heavy = {{"torch", "lightning", "pytorch_lightning", "optuna", "mlflow", "distributed", "altair"}}
print(sorted(heavy & set(sys.modules)))
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, lines(done.stdout)) == (0, "", UP_TO_DATE)
    assert done.stdout.splitlines()[-1] == "[]"
    files = {path: path.stat().st_mtime_ns for path in home.rglob("*") if not path.name.startswith(FILE)}
    assert all(before[path] == changed_at for path, changed_at in files.items() if path.is_file())


@pytest.mark.slow
def test_what_has_changed_is_done_again_and_nothing_else(whole: tuple[Path, str]) -> None:
    home, folder = whole[0], whole[0] / "smoke"
    (folder / "report.html").unlink()
    (folder / "verify.csv").write_text("edited")
    (folder / PRODUCTION / BEST).unlink()
    out, _ = ended("all", *TINY, "--search.trials", "2", home=home)
    assert lines(out) == [
        UP_TO_DATE[0],
        "report: runs, `report.html` is gone",
        "verify: runs, `verify.csv` has changed",
        f"train: runs, `{PRODUCTION}/{BEST}` is gone{ANEW}",
    ]
    assert (folder / PRODUCTION / BEST).exists() and not (folder / PRODUCTION / "before").exists()
    out, _ = ended("all", *TINY, "--search.trials", "4", home=home)
    first, second, third, _ = lines(out)
    assert first == "search: runs, the recipe has changed: `search.trials` was 2, and is 4 now"
    assert second.startswith("report: up to date (9 trials") and third == "verify: runs, the study has 2 more trials"
    assert [line.split()[1] for line in lines(ended("all", *TINY, "--search.trials", "4", home=home)[0])] == ["up"] * 4


@pytest.mark.slow
def test_an_interrupt_ends_the_whole_and_the_same_command_goes_on(tmp_path: Path) -> None:
    home, which = tmp_path / "home", signal.SIGINT
    words = ["all", *TINY, "--tracking.report", "false", "--training.epochs", "150", "--search.trials", "2"]
    process = started(*words, home=home)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not _has_begun(home / "smoke"):
        time.sleep(0.05)
    os.killpg(process.pid, which)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + which, out + err
    assert out.count("to go on:") == 1 and out.endswith("search: interrupted; `regatta all` goes on here\n")
    process = started(*words, home=home)
    while time.monotonic() < end and not (home / "smoke" / PRODUCTION / "metrics.csv").exists():
        time.sleep(0.05)
    os.killpg(process.pid, which)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + which, out + err
    assert lines(out)[:2] == [
        "search: runs, with 2 trials of an earlier call",
        "report: left out, `tracking.report` is false",
    ]
    assert lines(out)[-1] == "train: interrupted; `regatta all` goes on here"
    out, _ = ended(*words, home=home)
    assert lines(out)[-1] == "train: runs, a training is there" and "going on from last.ckpt" in out


def _has_begun(folder: Path) -> bool:
    if not (folder / FILE).exists():
        return False
    with Ledger.open(folder, create=False) as ledger:
        return bool(ledger.trials())
