"""A trial's run in MLflow holds all that its training can be done again from, and says so where it does not."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from tracking_rows import point, result, segment, trial
from tracking_stores import QUIET, mlflow_home, open_mlflow

from tracking import projection
from tracking.ledger import Ledger
from tracking.mlflow_runs import MlflowWriter
from tracking.projection import CONFIG
from tracking.sending import push
from tracking.trial_run import TrialRun, fetch_trial

pytestmark = QUIET

FLOATS = [0.1 + 0.2, 1 / 3, 5e-324, 1e22, 0.023099409130557010, -0.0]
WORDS = ["größe", 'a "quoted" one', "line\nbreak", " "]
MACHINE = {"device": "cpu", "machine": "a processor", "threads": "1"}


def odd_trial(number: int, *, words: int = 1) -> dict[str, Any]:
    """A configuration with everything that a text might lose."""
    asked = trial(number)
    asked["train"]["model"]["init_args"] |= {
        "floats": FLOATS,
        "words": WORDS * words,
        "deep": {"none": None, "on": True},
    }
    return asked


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A study in MLflow: a short configuration, a long one, a trial that began again, one that moved, one that runs."""
    folder = tmp_path_factory.mktemp("trial_run") / "study"
    with Ledger.open(folder, create=True) as ledger:
        for key, value in {"study": "kept", "experiment": str(folder)}.items():
            ledger.set_meta(key, value)
        ledger.ask([odd_trial(0), odd_trial(1, words=500), *(trial(number) for number in (2, 3, 4))])
        for number in (0, 1):
            done = segment(number, curve=[point(20), point(60, val_loss=1 / 3)])
            ledger.record(done.to_json(), result([done]))
        ledger.record(segment(2, 0, 20, status="PAUSED", curve=[point(20, val_loss=0.7)]).to_json())
        parts = [segment(3, 0, 40, status="PAUSED"), segment(3, 40, 60)]
        moved = [dataclasses.replace(part, tags=MACHINE | {"threads": str(index)}) for index, part in enumerate(parts)]
        ledger.record(moved[0].to_json())
        ledger.record(moved[1].to_json(), result(moved))
        ledger.record(segment(4, 0, 20, status="PAUSED").to_json())
        writer = open_mlflow(tmp_path_factory)
        push(ledger, writer)
        ledger.restart(2)
        again = segment(2, curve=[point(20, val_loss=0.6), point(60)])
        ledger.record(dataclasses.replace(again, started=again.started + 500).to_json(), result([again]))
        # As after a stay in another store: everything is sent again.
        ledger.forget_runs()
        push(ledger, writer)
        yield ledger


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlflow_home(tmp_path_factory)


@pytest.fixture
def writer(tmp_path_factory: pytest.TempPathFactory) -> MlflowWriter:
    return open_mlflow(tmp_path_factory)


def run_id(ledger: Ledger, number: int) -> str:
    found = ledger.run(number).run_id
    assert found is not None
    return found


def fetched(ledger: Ledger, number: int, home: Path) -> TrialRun:
    return fetch_trial(run_id(ledger, number), study=None, uri=None, home=home)


@pytest.mark.parametrize("number", [0, 1], ids=["in one tag", "in several"])
def test_the_configuration_comes_back_to_the_last_bit(ledger: Ledger, home: Path, number: int) -> None:
    found, asked = fetched(ledger, number, home), ledger.trial(number)["config"]["train"]
    assert json.dumps(found.config) == json.dumps(asked)
    assert [value.hex() for value in found.config["model"]["init_args"]["floats"]] == [value.hex() for value in FLOATS]
    parts = [text for key, text in found.tags.items() if key.startswith(CONFIG)]
    assert (len(parts) > 1) == (number == 1) and all(len(text) <= 8000 for text in parts)


def test_what_is_known_of_a_trial_is_what_the_ledger_has(ledger: Ledger, home: Path) -> None:
    found = fetched(ledger, 0, home)
    assert (found.run_id, found.name, found.study) == (run_id(ledger, 0), "0000 b32-sgd-cosine", "kept")
    assert (found.number, found.status, found.steps) == (0, "COMPLETE", 60)
    assert list(found.curve) == [20, 60]
    assert found.curve[60]["validation/loss"] == 1 / 3
    assert (found.curve[20]["progress/examples"], found.curve[20]["optimizer/learning_rate"]) == (640, 0.1)
    assert not [key for values in found.curve.values() for key in values if key.startswith("result/")]


def test_of_a_trial_that_began_again_the_second_try_counts(ledger: Ledger, home: Path) -> None:
    found = fetched(ledger, 2, home)
    assert (found.curve[20]["validation/loss"], found.status) == (0.6, "COMPLETE")


def test_a_trial_that_moved_says_every_machine(ledger: Ledger, home: Path) -> None:
    tags = fetched(ledger, 3, home).tags
    assert (tags["device"], tags["machine"], tags["threads"]) == ("cpu", "a processor", "0, then 1")


def test_a_trial_that_still_runs_has_no_end(ledger: Ledger, home: Path) -> None:
    found = fetched(ledger, 4, home)
    assert (found.status, found.steps, list(found.curve)) == ("RUNNING", None, [20])


def test_the_beginning_of_an_id_or_the_number_in_a_study_will_do(ledger: Ledger, home: Path) -> None:
    whole = fetched(ledger, 3, home)
    assert fetch_trial(whole.run_id[:12], study=None, uri=None, home=home) == whole
    assert fetch_trial("3", study="kept", uri=None, home=home) == whole


def foreign(writer: MlflowWriter, ledger: Ledger, kind: str) -> str:
    """The id of a run that is no trial with a configuration."""
    client = mlflow.MlflowClient(writer.uri)
    writer.experiment("foreign")
    if kind == "search":
        return run_id(ledger, -1)
    if kind == "production":
        return writer.open_run("abc:production", name="train", tags={"trial": "0", "study": "kept"}, started_ms=0)
    made: str = client.create_run(writer.experiment_id, run_name="mine").info.run_id
    if kind in ("earlier", "edited"):
        client.set_tag(made, "regatta.key", "abc:7")
    if kind == "edited":
        client.set_tag(made, CONFIG, '{"model": ')
    return made


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            "search",
            r"`run` must be that of a trial, but .* \(kept\) is that of a whole search; its trials are the runs",
        ),
        ("production", r"`run` must be that of a trial, but .* \(train\) is a production training"),
        ("none", r"`run` must be that of a trial, but .* \(mine\) is none of Regatta's"),
        (
            "earlier",
            r"must have its configuration in the tag `regatta\.config`, but it was written by an earlier version",
        ),
        ("edited", r"the tag `regatta\.config` of the run .* must be JSON, but it has been changed: Expecting value"),
    ],
)
def test_a_run_without_a_configuration_says_what_it_is(
    kind: str, sentence: str, ledger: Ledger, writer: MlflowWriter, home: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        fetch_trial(foreign(writer, ledger, kind), study=None, uri=None, home=home)


@pytest.mark.parametrize(
    ("run", "study", "sentence"),
    [
        ("42", None, r"its first 6 characters or more, but got '42'\. .* `--study NAME NUMBER` finds a trial"),
        ("x" * 32, None, r"`run` must be a run's id in MLflow"),
        ("0" * 32, None, r"`run` must be the id of a run that MLflow has, but none is, or begins with, '0000"),
        ("99", "kept", r"`run` must be the number of a trial of kept that MLflow has, but got 99\."),
        ("abcdef", "kept", r"with `--study`, `run` must be a trial's number, but got 'abcdef'\."),
        ("0", "nope", r"`study` must be one of .*kept"),
    ],
)
def test_what_names_no_trial_is_refused_in_a_sentence(
    run: str, study: str | None, sentence: str, ledger: Ledger, home: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        fetch_trial(run, study=study, uri=None, home=home)


def test_runs_that_begin_alike_are_named(writer: MlflowWriter, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.experiment("alike")
    # Of 17 ids, two begin with the same of 16 characters.
    ids = [writer.open_run(f"alike:{index}", name=f"run {index}", tags={}, started_ms=0) for index in range(17)]
    begin = Counter(run[0] for run in ids).most_common(1)[0][0]
    monkeypatch.setattr("tracking.trial_run.SHORTEST", 1)
    with pytest.raises(
        ValueError, match=rf"but \d+ begin with '{begin}': {begin}\w{{31}} \(.*\), .* Give more of it\."
    ):
        fetch_trial(begin, study=None, uri=None, home=home)


def test_a_tag_of_every_configuration_is_one_that_mlflow_takes() -> None:
    config = odd_trial(0, words=2000)
    config["train"]["learning_rate"] = math.inf
    tags = projection.config_tags(config)
    assert list(tags)[:2] == [CONFIG, f"{CONFIG}.1"] and max(map(len, tags.values())) == 8000
    assert json.loads("".join(tags.values())) == config["train"]
