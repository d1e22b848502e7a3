"""The preflight: every mistake that only the user's classes can tell, none twice, before the first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import config_of, user_code

from models.preflight import check


def test_a_sound_configuration_tells_its_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    facts = check([config_of(code, batch_size=size).to_json() for size in (8, 32)])
    origin = facts.pop("origin")
    assert (origin["lightning"], origin["fingerprint"]["examples"]) == ("pytorch_lightning", 100)
    # 4 x 8 + 8 weights, 8 + 8 of the norm, 8 x 3 + 3 weights.
    assert facts == {
        "mistakes": [],
        "examples": 100,
        "order": "own",
        "parameters": 83,
        "steps": {"8": 39, "32": 12},
    }


def test_a_foreign_order_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = check([config_of(user_code(tmp_path, monkeypatch), data="Streamed").to_json()])
    assert (facts["mistakes"], facts["order"], facts["examples"]) == ([], "foreign", 96)


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"model": "Nett"}, ["`model.class_path` must name a class, but `CODE` has no class 'Nett'. Did you mean"]),
        ({"model": "NeedsWidth"}, ["`model.init_args.width` must be set: NeedsWidth needs it."]),
        (
            {"model_args": {"widht": 3, "drop": 1}},
            [
                "`model.init_args.widht` is not an argument of Net, which takes `width`, `dropout`. Did you mean",
                "`model.init_args.drop` is not an argument of Net, which takes `width`, `dropout`.",
            ],
        ),
        (
            {"model": "NoValidation", "optimizer": "own", "learning_rate": None},
            [
                "`model.class_path` must have a `validation_step`, but NoValidation does not.",
                "`model.class_path` must have a `configure_optimizers`, but NoValidation does not.",
            ],
        ),
        (
            {"batch_size_arg": "examples_per_step"},
            [
                "`data.batch_size_arg` must be an argument of Data, but got 'examples_per_step'; it takes "
                "`batch_size`, `count`, `shuffle`, `drop_last`."
            ],
        ),
        (
            {"batch_size": 128},
            [
                "`batch_size` must be at most 100 (the training set), but got 128. Lower it: "
                "100 is already the whole training set in one step."
            ],
        ),
        (
            {"model_args": {"width": "wide"}},
            ["`model` or `data` could not be built: TypeError: "],
        ),
    ],
    ids=str,
)
def test_mistakes_are_sentences_and_none_comes_twice(
    changes: dict[str, Any], sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch)
    mistakes = check([config_of(code, **changes).to_json()] * 2)["mistakes"]
    assert len(mistakes) == len(sentences)
    for mistake, sentence in zip(mistakes, sentences, strict=True):
        assert mistake.startswith(sentence.replace("CODE", code.__name__))
