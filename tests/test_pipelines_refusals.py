"""What `regatta train` refuses: one sentence each, and nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from test_pipelines_all import changed, ended, trained
from test_pipelines_bundle import bundle
from test_pipelines_train import LARGE, ready, request

from models.job import JOB, LAST, Job
from pipelines.bundle_file import NAME, read_bundle, to_yaml
from pipelines.cli import main
from pipelines.training_job import PRODUCTION, job_of
from tracking.ledger import Ledger


@pytest.mark.parametrize(
    ("words", "edit", "sentence"),
    [
        (["--study", "mien"], ("", ""), "`study` must be one of mine, but got 'mien'."),
        ([], ("learning_rate:", "learning_rat:"), "did you mean `learning_rate`?"),
        ([], ("steps: 23", "steps: many"), "`budget.steps` must be a whole number, but got 'many'."),
        (["--trainer.devics", "2"], ("", ""), "`--trainer.devics` is not an argument of Lightning's Trainer; did you"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_written(
    words: list[str], edit: tuple[str, str], sentence: str, regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger.open(regatta_home / "mine", create=True).close()
    path = regatta_home / "mine" / NAME
    path.write_text(to_yaml(changed()).replace(*edit) if edit[0] else to_yaml(changed()), encoding="utf-8")
    before = sorted(regatta_home.rglob("*"))
    assert main(["train", *words]) == 2
    told = capsys.readouterr()
    assert sentence in told.err and not told.out and sorted(regatta_home.rglob("*")) == before


def test_an_unknown_argument_is_told_before_an_earlier_training_is_looked_at(
    regatta_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger.open(regatta_home / "mine", create=True).close()
    trained(regatta_home / "mine", changed(), noted=False)
    assert main(["train", "--trainer.typo", "1"]) == 2
    assert capsys.readouterr().err == "regatta: `--trainer.typo` is not an argument of Lightning's Trainer.\n"


def test_a_bundle_of_before_says_nothing_of_code(tmp_path: Path) -> None:
    text = to_yaml(changed(code={"net.Net": {"net.py": "1234567890123456"}}))
    (tmp_path / NAME).write_text(text, encoding="utf-8")
    assert read_bundle(tmp_path / NAME).code == {"net.Net": {"net.py": "1234567890123456"}}
    old = re.sub(r"^code:\n(  .*\n)+", "", text, flags=re.MULTILINE)
    assert old != text
    (tmp_path / NAME).write_text(old, encoding="utf-8")
    assert read_bundle(tmp_path / NAME).code is None


# For real, in processes of its own


@pytest.mark.slow
def test_changed_code_is_refused_with_the_difference_and_leaves_nothing(tmp_path: Path) -> None:
    home, code = tmp_path / "home", tmp_path / "large.py"
    code.write_text(LARGE)
    model = dataclasses.replace(bundle().model, class_path="large.Large")
    ready(tmp_path, model=model, code={"large.Large": {"large.py": "3f2a"}})
    _, err = ended("train", "--config", NAME, home=home, code=2)
    assert re.search(r"changed since the search: `large.py` \(class large.Large\) was 3f2a, and is \w{16} now.", err)
    assert err.endswith("regatta: Give `--force` to train all the same.\n")
    assert [path.name for path in (home / "mine" / PRODUCTION).iterdir()] == ["driver.lock"]


class Touches:
    """What a malicious checkpoint would do when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("trap",)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"PK\x03\x04 cut", pickle.dumps(Touches())], ids=["truncated", "code"])
def test_a_checkpoint_that_is_no_plain_data_is_refused_and_everything_stays(content: bytes, tmp_path: Path) -> None:
    home = tmp_path / "home"
    production = home / "mine" / PRODUCTION
    path = ready(tmp_path)
    production.mkdir(parents=True)
    job_of(read_bundle(path), request()).write(production)
    (production / LAST).write_bytes(content)
    _, err = ended("train", "--config", str(path), home=home, code=2)
    assert "last.ckpt is not plain data" in err and "call again with --force" in err
    assert not (tmp_path / "trap").exists() and (production / LAST).read_bytes() == content
    assert sorted(file.name for file in production.iterdir()) == ["driver.lock", JOB, LAST]
    assert json.loads((production / JOB).read_text()) and Job.read(production / JOB).steps == 69
