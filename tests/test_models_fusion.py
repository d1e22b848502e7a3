"""What may train side by side is told apart from what may not, and the reason is told."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import array_modules
import pytest
from helpers import config_of, user_code

from models import rng
from models.comparison import attributes, same_values, unchanged
from models.config import TrainConfig, array_key
from models.fusion import fusable
from models.vmapped import Unfusable

TOGETHER: dict[str, dict[str, Any]] = {
    **{
        name: {"model": name}
        for name in (
            "Plain",
            "GivesDict",
            "NoIndex",
            "LogsMuch",
            "Norm",
            "GroupNorm",
            "Metrics",
            "Attention",
            "Tied",
            "KeepsMean",
            "Freezes",
            "Single",
        )
    },
    "adam": {"optimizer": "adam"},
    "adamw": {"optimizer": "adamw"},
    "rmsprop": {"optimizer": "rmsprop"},
    "accumulated": {"accumulate": 2},
    "float64": {"precision": "64-true"},
    "the whole set in one batch": {"batch_size": 60},
}

ALONE: dict[str, tuple[dict[str, Any], str]] = {
    # vmap refuses
    "Item": ({"model": "Item"}, "item"),
    "Branch": ({"model": "Branch"}, "data-dependent control flow"),
    "Lstm": ({"model": "Lstm"}, "vmap"),
    "Gru": ({"model": "Gru"}, "vmap"),
    "SpectralNorm": ({"model": "SpectralNorm"}, "vmap"),
    "MaskedRows": ({"model": "MaskedRows"}, "dynamic shape"),
    "UnregisteredTensor": ({"model": "UnregisteredTensor"}, "vmap"),
    "DrawsNoise": ({"model": "DrawsNoise"}, "random"),
    # only the comparison tells
    "DrawnAtStart": ({"model": "DrawnAtStart"}, "its loss is another one"),
    "MetricObject": ({"model": "MetricObject"}, "changes `self.accuracy"),
    "Counter": ({"model": "Counter"}, "changes `self.count`"),
    "CountsForAll": ({"model": "CountsForAll"}, "changes `self.seen`"),
    "NewBuffer": ({"model": "NewBuffer"}, "the buffer 'mean'"),
    "NumpyNoise": ({"model": "NumpyNoise"}, "another one side by side|random numbers of its own"),
    "AsksForEpoch": ({"model": "AsksForEpoch"}, "asks for `self.current_epoch`"),
    "AsksForTrainer": ({"model": "AsksForTrainer"}, "asks for `self.trainer`"),
    # rules
    "ByHand": ({"model": "ByHand"}, "by hand"),
    "LogsEpochs": ({"model": "LogsEpochs"}, "on_epoch=True"),
    "LogsLargest": ({"model": "LogsLargest"}, "reduce_fx"),
    "HasHook": ({"model": "HasHook"}, "`on_train_batch_end` of its own"),
    "OwnClipping": ({"model": "OwnClipping"}, "`configure_gradient_clipping` of its own"),
    "Nothing": ({"model": "Nothing"}, "no loss"),
    "Large": ({"model": "Large"}, "16,896,003 parameters"),
    "its own optimizer": ({"optimizer": "own", "learning_rate": None}, "optimizer 'own'"),
    "mixed precision": ({"precision": "bf16-mixed"}, "bf16-mixed"),
    "two validation sets": ({"data": "TwoValidations"}, "validation data"),
    "a datamodule with hooks": ({"data": "Hooked"}, "`on_after_batch_transfer` of its own"),
}


def config(**changes: Any) -> TrainConfig:
    """A trial of a module and a datamodule of `array_modules`."""
    return config_of(sys.modules["array_modules"], **{"model": "Plain", "data": "Sequences", **changes})


@pytest.mark.parametrize("name", TOGETHER)
def test_what_computes_the_same_side_by_side_is_fused(name: str) -> None:
    assert fusable([config(**TOGETHER[name])]) is None


def test_a_number_that_another_thread_has_drawn_meanwhile_is_not_taken_for_the_modules() -> None:
    array_modules.DRAWS_OF_OTHERS.append(1)
    assert fusable([config(model="Overheard")]) is None
    assert not array_modules.DRAWS_OF_OTHERS


@pytest.mark.parametrize("name", ALONE)
def test_what_would_not_compute_the_same_trains_alone_and_says_why(name: str) -> None:
    changes, reason = ALONE[name]
    found = fusable([config(**changes)])
    assert found is not None and "\n" not in found
    assert re.search(reason, found), found


@pytest.mark.parametrize("network", ["MLP", "ConvNet", "ResNet"])
@pytest.mark.parametrize("norm", ["batch", "other"])
def test_the_ready_networks_are_fused(network: str, norm: str) -> None:
    args: dict[str, Any] = {"norm": norm if norm == "batch" else "layer" if network == "MLP" else "group"}
    args |= {"dropout": 0.2} if network == "MLP" else {"width": 4}
    spec = {"class_path": f"models.nets.{network}", "init_args": args}
    data = {
        "class_path": "models.data.Digits",
        "init_args": {"image": network != "MLP"},
        "batch_size_arg": "batch_size",
    }
    model = {"class_path": "models.task.Classifier", "init_args": {"network": spec, "label_smoothing": 0.1}}
    assert fusable([dataclasses.replace(config(), model=model, data=data)]) is None


def test_members_may_differ_in_what_is_stacked_and_in_nothing_else() -> None:
    one = config()
    stacked: dict[str, Any] = {
        "learning_rate": 0.3,
        "optimizer_args": {"momentum": 0.5},
        "schedule": "step",
        "warmup": 0.3,
        "weight_decay": 0.1,
        "gradient_clip": 1.0,
        "seed_init": 7,
        "seed_order": 8,
        "seed_dropout": 9,
    }
    for name, value in stacked.items():
        other = dataclasses.replace(one, **{name: value})
        assert array_key(other) == array_key(one) and fusable([one, other]) is None
    fixed: dict[str, Any] = {"batch_size": 16, "optimizer": "adam", "epochs": 4, "schedule": "batch_growth"}
    for name, value in fixed.items():
        other = dataclasses.replace(one, **{name: value})
        assert array_key(other) != array_key(one)
        assert "differ" in (fusable([one, other]) or "")


def test_the_verdict_leaves_the_random_state_as_it_was() -> None:
    rng.seed_everything(5)
    before = rng.capture()
    assert fusable([config(model="Norm", batch_size=7)]) is None
    assert all(same_values(value, before[name]) for name, value in rng.capture().items())


def test_a_change_deep_in_a_modules_attributes_shows() -> None:
    module: Any = array_modules.Plain()
    module.notes = {"deep": [{"deeper": (1, [2])}]}
    before = attributes(module)
    module.notes["deep"][0]["deeper"][1].append(3)
    assert attributes(module) != before
    with pytest.raises(Unfusable, match="notes"), unchanged(module):
        module.notes["more"] = 1


def test_modules_of_the_other_lightning_are_judged_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch, "lightning.pytorch")
    assert fusable([config_of(code)]) is None
    assert "on_train_batch_end" in (fusable([config_of(code, model="Counts")]) or "")
