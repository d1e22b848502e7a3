"""`regatta verify`: what it trains, keeps and says; and the command as a user runs it, interrupted and gone on with."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import PATIENCE, regatta, started
from rich.console import Console

from pipelines import run_verify
from pipelines.cli import main
from pipelines.interrupts import Interrupts
from pipelines.recipe import load_recipe
from pipelines.session import Session, opened, space_of
from search.executors import SerialExecutor
from search.race import Race
from search.resuming import restore
from search.study import Study
from search.trial import recorded
from search.verification import Verification
from tracking.analysis.data import load
from tracking.analysis.study import analyse
from tracking.ledger import Ledger
from tracking.report.panels_finalists import finalists_panel
from tracking.report.verdict import facts, headline

TINY = [
    "--config", "smoke", "--search.batch_sizes", "[64, 256]", "--search.trials", "2", "--training.epochs", "1",
    "--search.arrays", "off",
]  # fmt: skip
ALONE = ["--tracking.mlflow", "false", "--tracking.report", "false"]
NOWHERE = ["--cluster.address", "tcp://127.0.0.1:9"]
"""Whoever starts workers fails."""


def searched(home: Path, *, trained: bool = True) -> Path:
    """The folder of a small study, its trainings real and over."""
    recipe, folder = load_recipe([*TINY, *ALONE, *NOWHERE]), home / "smoke"
    with opened(recipe, folder) as ledger:
        if trained:
            race = Race(Study(space_of(recipe)), ledger, str(folder / "checkpoints"))
            race.run(SerialExecutor(), stopping=lambda: False, watch=lambda _: None)
    return folder


def verified(folder: Path, *, seeds: int = 2, top: int = 3) -> str:
    """Go through all stages in this process; returns what was said."""
    said = io.StringIO()
    recipe = load_recipe([*TINY, *ALONE, *NOWHERE])
    with Ledger.open(folder, create=False) as ledger:
        study = Study(space_of(recipe))
        study.restore(recorded(ledger.trials()))
        session = Session(
            recipe=recipe,
            folder=folder,
            study=study,
            ledger=ledger,
            sync=None,
            console=Console(file=said, width=120),
            interrupts=Interrupts(),
        )
        race = Race(Verification(study, top=top, seeds=seeds), ledger, str(folder / "verification"))
        restore(race)
        run_verify.go_through(session, race, SerialExecutor())
    return said.getvalue()


def kept(folder: Path) -> dict[str, Any]:
    with Ledger.open(folder, create=False) as ledger:
        found: dict[str, Any] = ledger.meta("verification")
        return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a verified study, and what was said."""
    folder = searched(tmp_path_factory.mktemp("home"))
    return folder, verified(folder)


def test_the_ledger_holds_the_verdict_and_the_test_split(done: tuple[Path, str]) -> None:
    found = kept(done[0])
    assert found["seeds"] == 2 and found["searched"] == 8
    assert len(found["finalists"]) in (3, 4) and any(one["baseline"] for one in found["finalists"])
    names = [one["name"] for one in found["finalists"]]
    assert found["chosen"] in names and found["test"]["name"] == found["chosen"]
    assert found["test"]["metrics"].keys() == {"test_loss", "test_accuracy"}
    best, *others = found["finalists"]
    assert best["outcome"] == "best" and best["mean"] == min(one["mean"] for one in found["finalists"])
    for one in others:
        assert one["difference"] == pytest.approx(best["mean"] - one["mean"])
        assert one["low"] <= one["difference"] <= one["high"] and one["outcome"] in found["sentence"] + "better"
    with Ledger.open(done[0], create=False) as ledger:
        figures = ledger.meta("verified")
    choice = next(one for one in found["finalists"] if one["name"] == found["chosen"])
    assert figures["verified/value"] == choice["mean"] and figures["verified/seeds"] == 2
    assert figures["verified/test_loss"] == found["test"]["metrics"]["test_loss"]["mean"]


def test_verify_csv_has_a_row_for_every_finalist(done: tuple[Path, str]) -> None:
    found, rows = kept(done[0]), table(done[0] / "verify.csv")
    assert [row["name"] for row in rows] == [one["name"] for one in found["finalists"]]
    assert [float(row["mean"]) for row in rows] == [one["mean"] for one in found["finalists"]]
    (chosen,) = [row for row in rows if row["chosen"] == "True"]
    assert chosen["name"] == found["chosen"] and float(chosen["test_loss"]) > 0
    assert [row["test_loss"] for row in rows if row is not chosen] == [""] * (len(rows) - 1)


def test_it_says_what_it_found(done: tuple[Path, str]) -> None:
    said = " ".join(done[1].split())
    found = kept(done[0])
    assert all(one["name"] in said for one in found["finalists"])
    assert f"Use {found['chosen']}" in said
    assert f"Test split, {found['chosen']} at the end of 2 trainings: test_loss" in said
    assert "regatta train --study smoke" in said


def test_the_report_shows_it_and_keeps_it_apart_from_the_search(done: tuple[Path, str]) -> None:
    found, analysis = kept(done[0]), analyse(load(done[0]))
    assert headline(analysis)[: len(found["sentences"])] == found["sentences"]
    assert len(analysis.data.trials) == 8 and dict(facts(analysis))["trials"] == "8"
    assert [verdict.outcome for verdict in analysis.verdicts] == [one["outcome"] for one in found["finalists"][1:]]
    panel = finalists_panel(analysis)
    assert panel.sentence == found["sentence"] and panel.table is not None
    first, *others = panel.table.rows
    assert first[0] == f"{found['chosen']}, chosen" and [len(row) for row in others] == [len(first)] * len(others)
    assert panel.table.columns[-2:] == ["test_loss", "test_accuracy"]
    assert {row[-1] for row in others} == {"–"} and first[-1] != "–"
    assert not [said for said in headline(analysis) if "gone on since" in said]
    fewer = dataclasses.replace(analysis.data, trials=analysis.data.trials[:7])
    assert any("from 8 trials, now 7" in said for said in headline(analyse(fewer)))


def test_the_bundle_is_that_of_the_choice(done: tuple[Path, str]) -> None:
    found = kept(done[0])
    bundle = yaml.safe_load((done[0] / "best.yaml").read_text())
    choice = next(one for one in found["finalists"] if one["name"] == found["chosen"])
    assert bundle["trial"] == choice["trial"] and bundle["verification"]["chosen"] == found["chosen"]


def test_the_command_again_starts_no_worker_and_says_the_same(
    regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = searched(regatta_home)
    first = verified(folder)
    before = kept(folder)
    assert main(["verify", "--study", "smoke", "--seeds", "2"]) == 0
    again = capsys.readouterr().out
    assert "all done before" in again
    table_of = [line for line in first.splitlines() if "@" in line]
    assert [line for line in again.splitlines() if "@" in line and "val_loss on" not in line][: len(table_of)]
    assert kept(folder) == before
    with Ledger.open(folder, create=False) as ledger:
        assert ledger.meta("status") == "FINISHED"


def test_the_test_split_is_used_again_only_for_another_choice(regatta_home: Path) -> None:
    folder = searched(regatta_home)
    verified(folder)
    first = kept(folder)
    stored = {**first, "test": {**first["test"], "metrics": {"test_loss": {"mean": 7.0, "sd": None, "values": [7.0]}}}}
    other = next(one["name"] for one in first["finalists"] if one["name"] != first["chosen"])
    for name, before in ((first["chosen"], None), (other, [other])):
        with Ledger.open(folder, create=False) as ledger:
            ledger.set_meta("verification", {**stored, "test": {**stored["test"], "name": name}})
        said = " ".join(verified(folder).split())
        test = kept(folder)["test"]
        if before is None:
            assert test["metrics"]["test_loss"]["mean"] == 7.0 and "test_loss 7" in said
        else:
            assert test["before"] == before and test["metrics"]["test_loss"]["mean"] != 7.0
            assert f"The split was used before, for {other}: this is no first look." in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--top", "0"], "`top` must be at least 1, but got 0."),
        (["--seeds", "1"], "`seeds` must be at least 2 (one training has no spread), but got 1."),
        (["--study", "smok"], "`study` must be one of smoke, but got 'smok'."),
        ([], "there must be a complete trial to verify, but this study has none. Search first."),
        (
            ["--seed", "3"],
            "there is no option `--seed`; did you mean `--seeds`? `regatta verify --help` lists them all.",
        ),
    ],
)
def test_what_is_asked_wrongly_is_told_in_one_sentence(
    regatta_home: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    searched(regatta_home, trained=False)
    assert main(["verify", *words]) == 2
    assert capsys.readouterr().err == f"regatta: {sentence}\n"


def test_without_any_study_the_search_is_named(regatta_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 2
    assert capsys.readouterr().err.endswith("but there is none yet. Run `regatta search` first.\n")


def test_what_has_no_figure_is_left_out_of_mlflow() -> None:
    tested = {"name": "a", "metrics": {}, "reason": "Data has no `test_dataloader`", "before": []}
    assert run_verify.test_sentence(tested) == "The test split was not used: Data has no `test_dataloader`."


# As a user runs it


def succeeded(*words: str, home: Path) -> str:
    done = regatta(*words, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def confirmed(home: Path) -> list[dict[str, Any]]:
    with Ledger.open(home / "smoke", create=False) as ledger:
        return [row for row in ledger.trials() if row["config"]["phase"] == "confirm"]


@pytest.mark.slow
@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_verification_goes_on_with_exact_counts(
    which: signal.Signals, code: int, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    epochs = ["--training.epochs", "60", "--cluster.workers", "2"]
    succeeded("search", *TINY, *epochs, "--search.trials", "1", "--tracking.report", "false", home=home)
    process = started("verify", "--top", "2", "--seeds", "3", home=home)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not any(row["status"] == "COMPLETE" for row in confirmed(home)):
        time.sleep(0.05)
    os.killpg(process.pid, which)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    asked = confirmed(home)
    assert any(row["status"] == "RUNNING" for row in asked)
    again = (
        "verify --study smoke"
        if code < 0
        else next(line for line in out.splitlines() if line.startswith("to go on: regatta ")).removeprefix(
            "to go on: regatta "
        )
    )
    said = succeeded(*again.split(), "--top", "2", "--seeds", "3", home=home)
    after = confirmed(home)
    assert [row["config"] for row in after][: len(asked)] == [row["config"] for row in asked]
    assert set(Counter(row["cell"] for row in after).values()) == {3}
    assert {row["status"] for row in after} == {"COMPLETE"} and "on fresh seeds" in said
    _mlflow_has_it(home, len(after))


def _mlflow_has_it(home: Path, trials: int) -> None:
    connection = sqlite3.connect(home / "mlflow.db")
    try:
        phases = connection.execute("SELECT value FROM tags WHERE key = 'phase'").fetchall()
        metrics = dict(
            connection.execute("SELECT key, value FROM latest_metrics WHERE key LIKE 'verified/%'").fetchall()
        )
        statuses = connection.execute("SELECT DISTINCT status FROM runs").fetchall()
    finally:
        connection.close()
    assert Counter(phases)[("confirm",)] == trials and statuses == [("FINISHED",)]
    assert metrics["verified/seeds"] == 3 and math.isfinite(metrics["verified/test_loss"])
    assert list((home / "mlartifacts").rglob("verify.csv"))
    found = kept(home / "smoke")
    assert found["test"]["metrics"] and json.dumps(found)
