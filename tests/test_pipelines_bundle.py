"""The bundle: written from a trial, read back the same, and refused with a sentence wherever it has been broken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from search_parts import result_of, space

from models import optimizers, schedules
from models.config import MetricsConfig
from pipelines.best_files import write_best
from pipelines.bundle import Bundle, MlflowSection
from pipelines.bundle_file import read_bundle, to_yaml
from pipelines.bundling import Origin, bundle_of
from pipelines.recipe import Recipe
from pipelines.recipe_file import RecipeError
from search.space import SearchSpace
from search.study import Study
from tracking.ledger import Ledger

NOTED = {
    "fingerprint": {"examples": 1437, "items": ["float32[64]", "int64[]"], "digest": "a1", "validation": None},
    "drop_last": False,
    "lightning": "pytorch_lightning",
    "hardware": {"platform": "Linux", "machine": "x86_64", "cores": 2, "gpus": []},
}
FINALISTS = [
    {"name": "a", "trial": 0, "mean": 0.5, "sd": float("inf")},
    {"name": "b", "trial": 1, "mean": 0.6, "sd": 1.0},
]


def study(made: SearchSpace, *values: float) -> Study:
    new = Study(made)
    for value in values:
        trial = new.ask()
        assert trial is not None
        point = {"step": 23.0, "val_loss": value, "gradient_norm": float("nan")}
        new.tell(trial, result_of(trial, value, steps=23, examples=1437, seconds=0.5, best=point, final=point))
    return new


def bundle(made: SearchSpace | None = None, **origin: Any) -> Bundle:
    trial, result = study(made or space(), 0.5).ranking()[0]
    known: dict[str, Any] = {
        "name": "mine",
        "study": "mine",
        "metrics": MetricsConfig(),
        "noted": NOTED,
        "versions": {"version.torch": "2"},
        "verification": None,
        "mlflow": MlflowSection(experiment="mine", uri=None),
    }
    return bundle_of(trial, result, Origin(**{**known, **origin}), standalone_files="standalone")


def one(schedule: str, optimizer: str = "sgd", **training: Any) -> SearchSpace:
    return space(batch_sizes=(64,), schedules={schedule: {}}, optimizers={optimizer: {}}, training=training)


def recipe_of(made: SearchSpace) -> Recipe:
    parts = {name: getattr(made, name) for name in ("model", "data", "training", "metrics", "search")}
    return Recipe(name="mine", **parts)


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_bundle_read_back_is_the_same_and_trains_the_same(schedule: str, optimizer: str, tmp_path: Path) -> None:
    made = bundle(one(schedule, optimizer, warmup=0.1, gradient_clip=1.0))
    path = tmp_path / "best.yaml"
    path.write_text(to_yaml(made), encoding="utf-8")
    again = read_bundle(path)
    assert to_yaml(again) == to_yaml(made)
    config, trial = (
        again.train_config(),
        study(one(schedule, optimizer, warmup=0.1, gradient_clip=1.0), 0.5).trials()[0],
    )
    # Only the defaults of arguments are written out.
    full: dict[str, Any] = {
        "optimizer_args": {**optimizers.arguments(optimizer), **trial.train.optimizer_args},
        "schedule_args": config.schedule_args,
    }
    expected = dataclasses.replace(trial.train, **full)
    assert json.dumps(config.to_json(), sort_keys=True) == json.dumps(expected.to_json(), sort_keys=True)
    first = schedules.factors(schedule, trial.train.schedule_args, steps=23, warmup=0.1)[:3]
    assert list(again.schedule.first) == first.tolist()


def test_the_modules_own_optimizer_has_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(to_yaml(bundle(one("constant", "own"))), encoding="utf-8")
    assert read_bundle(path).train_config().learning_rate is None


def test_the_schedule_is_told_in_steps() -> None:
    assert bundle(one("wsd", warmup=0.1)).schedule.in_steps == {
        "total": 23,
        "warmup": 2,
        "decay_start": pytest.approx(18.4),
        "final": 0.0,
    }


def test_what_is_not_finite_is_left_out_or_null(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(to_yaml(bundle(verification={"chosen": "a", "finalists": FINALISTS})), encoding="utf-8")
    again = read_bundle(path)
    assert again.figures.best == {"step": 23.0, "val_loss": 0.5}
    assert again.verification is not None and again.verification["finalists"][0]["sd"] is None


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("learning_rate:", "learning_rat:", ["`optimizer.learning_rate` is missing.", "did you mean `learning_rate`?"]),
        ("per_device: 64", "per_device: 32", ["`batch.size` must be `per_device` x `devices` x `accumulate`"]),
        ("steps: 23", "steps: 24", ["`schedule.last` must be", "Set it to [] where you have changed the schedule"]),
        ("name: cosine", "name: cosin", ["`schedule.args` must be one of", "Did you mean `cosine`?"]),
        ("warmup: 0.0", "warmup: 1.5", ["`schedule.warmup` must be a share in [0, 1), but got 1.5."]),
        ("momentum: 0.9", "momentum: 9", ["`optimizer.args.momentum` must be a number in [0, 1), but got 9."]),
        ("epochs: 1", "epochs: 0", ["`budget.epochs` must be a whole number of at least 1, but got 0."]),
        ("bundle: 1", "bundle: 2", ["`bundle` must be 1, but got 2."]),
        ("bundle: 1", "bundel: 1", ["`bundle` is missing: this is no bundle."]),
        ("trial: 0", "trial: [", ["this is not YAML"]),
        ("precision: 32-true", "precision: 31", ["`precision` must be one of"]),
    ],
    ids=str,
)
def test_a_broken_bundle_is_refused_with_file_and_line(
    old: str, new: str, sentences: list[str], tmp_path: Path
) -> None:
    text = to_yaml(bundle(one("cosine")))
    assert old in text
    path = tmp_path / "best.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_bundle(path)
    told = str(caught.value)
    assert all(sentence in told for sentence in sentences), told
    assert all(line.startswith(f"{path}:") for line in told.splitlines())


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    text = to_yaml(bundle()).replace("momentum: 0.9", "momentum: 9").replace("epochs: 1", "epochs: 0")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_bundle(path)
    assert len(caught.value.mistakes) == 2


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(RecipeError, match=r"`nowhere.yaml` must be a bundle"):
        read_bundle(Path("nowhere.yaml"))


def written(folder: Path, made: SearchSpace, **notes: Any) -> Bundle:
    folder.mkdir(exist_ok=True)
    with Ledger.open(folder, create=True) as ledger:
        for key, value in notes.items():
            ledger.set_meta(key, value)
        write_best(ledger, study(made, 0.5, 0.25), recipe_of(made))
        assert ledger.meta("artifact:best.yaml")
    return read_bundle(folder / "best.yaml")


def test_the_best_trial_is_bundled_unless_verification_chose_another(tmp_path: Path) -> None:
    assert written(tmp_path / "a", one("cosine"), origin=NOTED).trial == 1
    verification = {"chosen": "a", "finalists": [{"name": "a", "trial": 0, "mean": 0.5}]}
    assert written(tmp_path / "b", one("cosine"), origin=NOTED, verification=verification).trial == 0
    # By another `search.choose` than the present one.
    stale = written(tmp_path / "c", one("cosine"), origin=NOTED, verification={**verification, "judged_by": "cost"})
    assert stale.trial == 1 and stale.verification is None


def test_ready_networks_take_their_package_along(tmp_path: Path) -> None:
    assert written(tmp_path, one("cosine"), origin=NOTED).standalone == "standalone"
    names = {path.name for path in (tmp_path / "standalone").iterdir()}
    assert names == {"lightning.yaml", "train.py", "models"}
    assert (tmp_path / "standalone" / "models" / "nets.py").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("schedule", "notes", "words"),
    [
        ("batch_growth", {"origin": NOTED}, "none: a loader of Lightning's cannot let the batch grow"),
        ("plateau", {"origin": NOTED}, "none: `plateau` follows the validation metric"),
        ("cosine", {}, "none: the study is one of an earlier version"),
    ],
)
def test_what_has_no_standalone_form_says_why_and_leaves_no_folder(
    schedule: str, notes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    written(tmp_path, one("cosine"), origin=NOTED)
    with Ledger.open(tmp_path, create=False) as ledger:
        ledger.set_meta("origin", None)
    made = written(tmp_path, one(schedule), **notes)
    assert made.standalone.startswith(words)
    assert not (tmp_path / "standalone").exists()
