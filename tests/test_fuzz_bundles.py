"""Damaged bundles and files of a production training: refused in one sentence, or read; never a traceback."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import damaged, edited, examples, is_sentence
from hypothesis import given
from hypothesis import strategies as st
from test_pipelines_bundle import bundle

from models.job import JOB, METRICS, OUTCOME, Factors, Job, Outcome, read_curve, write_curve
from pipelines import stage_record
from pipelines.bundle_file import NAME, read_bundle, to_yaml

BUNDLE = bundle()
READERS: Mapping[str, Callable[[Path], Any]] = {
    NAME: lambda folder: to_yaml(read_bundle(folder / NAME)),
    JOB: lambda folder: Job.read(folder / JOB).settings(),
    OUTCOME: Outcome.read,
    METRICS: lambda folder: [point["step"] for point in read_curve(folder / METRICS)],
    stage_record.FILE: lambda folder: [list(stage_record.altered(folder, one)) for one in of_stages(folder)],
}


def of_stages(folder: Path) -> Iterable[stage_record.Done]:
    """What stages have noted."""
    return stage_record.read(folder).values()


def sound(folder: Path) -> None:
    """All files as a search and a production training leave them."""
    (folder / NAME).write_text(to_yaml(BUNDLE), encoding="utf-8")
    Job(id="a", started=1.5, config=BUNDLE.train_config(), steps=23, fingerprint=None).write(folder)
    made = Factors(per_device=64, devices=1, accumulate=1)
    Outcome(status="COMPLETE", step=23, factors=made, best={"val_loss": 0.5}, numbers={"seconds": 2.5}).write(folder)
    write_curve(folder / METRICS, [{"step": 10.0, "val_loss": 0.7}, {"step": 23.0, "val_loss": 0.5, "lr": 0.1}])
    stage_record.note(folder, "search", {"a": 1}, [JOB, OUTCOME])
    # Without the times of day, so that the same cases come at every call.
    record = json.loads((folder / stage_record.FILE).read_text())
    record["search"]["at"] = 1.5
    for state in record["search"]["outputs"].values():
        state["changed"] = 1
    (folder / stage_record.FILE).write_text(json.dumps(record, indent=1))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Their contents."""
    folder = tmp_path_factory.mktemp("sound")
    sound(folder)
    return {name: (folder / name).read_bytes() for name in READERS}


@st.composite
def wounds(draw: st.DrawFn) -> tuple[str, Callable[[bytes], bytes]]:
    """A file, and what happens to it: its bytes are damaged, or a value in it is another."""
    name, seed = draw(st.sampled_from(sorted(READERS))), draw(st.data())
    if name == METRICS or draw(st.booleans()):
        return name, lambda content: seed.draw(damaged(content))
    change = draw(edited())
    if name == NAME:
        return name, lambda content: yaml.safe_dump(change(yaml.safe_load(content))).encode()
    return name, lambda content: json.dumps(change(json.loads(content))).encode()


def check(originals: Mapping[str, bytes], wound: tuple[str, Callable[[bytes], bytes]], folder: Path) -> None:
    """Damage one file, and read it."""
    name, damage = wound
    with contextlib.suppress(yaml.YAMLError):
        (folder / name).write_bytes(damage(originals[name]))
    try:
        READERS[name](folder)
    except ValueError as error:
        assert all(is_sentence(f"regatta: {line}") for line in str(error).splitlines()), error


@examples(60)
@given(wound=wounds())
def test_a_damaged_file_is_refused_or_read(originals: Mapping[str, bytes], wound: Any, tmp_path: Path) -> None:
    check(originals, wound, tmp_path)


@pytest.mark.slow
@examples(500)
@given(wound=wounds())
def test_any_of_many_damaged_files_is_refused_or_read(
    originals: Mapping[str, bytes], wound: Any, tmp_path: Path
) -> None:
    check(originals, wound, tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_a_sound_file_is_read(name: str, tmp_path: Path) -> None:
    """Or else every damaged one could be refused for something that none has."""
    sound(tmp_path)
    READERS[name](tmp_path)
