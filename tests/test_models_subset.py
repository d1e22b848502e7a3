"""What validation says of a fixed part of the training set: right, the same for all, and no trace of it in training."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import array_modules
import pytest
import torch
import torchmetrics
from helpers import chain, config_of, curve_of, same_weights, train, user_code, weights_of
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.array import train_array
from models.config import TrainConfig
from models.prepared import prepare
from models.segment import Segment, SegmentResult
from models.subset import NoSubset, train_subset

Batch = list[Tensor]


class Normed(array_modules.Norm):
    """Batch norm and dropout; notes how often it was validated."""

    validations: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("validations", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss([batch["x"], batch["y"]] if isinstance(batch, dict) else batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        inputs, labels = batch
        self.validations.add_(1)
        loss = self.loss([inputs, labels])
        self.log_dict({"val_loss": loss, "val_error": (self.net(inputs).argmax(1) != labels).to(inputs.dtype).mean()})


class Built(array_modules.Plain):
    """Makes its layers in `setup`, whatever it is called for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Identity()

    def setup(self, stage: str) -> None:
        self.net = self.network()


class KeepsScore(array_modules.Norm):
    """Logs a metric object, which adds up until Lightning resets it."""

    def __init__(self) -> None:
        super().__init__()
        self.error = torchmetrics.MeanMetric()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.error(self.loss(batch), len(batch[1]))
        self.log("val_loss", self.error, on_epoch=True)


class Sequences(array_modules.Sequences):
    """Under this module's name."""


class Dicts(Sequences):
    """Training examples in another form than those for validation: `Normed` trains on them, but cannot validate."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(DictItems(), self.batch_size, shuffle=True)


class DictItems(Dataset[Any]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = array_modules.numbers(60, 0)[index]
        return {"x": x, "y": y}


def config(**changes: Any) -> TrainConfig:
    """Three epochs of 8 steps in float64; 60 examples to train on, 21 to validate on in batches of 8, 8 and 5."""
    return config_of(
        sys.modules[__name__], **{"model": "Normed", "data": "Sequences", "precision": "64-true", **changes}
    )


def segments(configs: list[TrainConfig], folder: Path, **fields: Any) -> list[Segment]:
    return [Segment(trial=n, config=c, folder=str(folder), **fields) for n, c in enumerate(configs)]


def pair(**changes: Any) -> list[TrainConfig]:
    """Two trials that differ in their seeds and rates."""
    first = config(**changes)
    return [first, dataclasses.replace(first, learning_rate=0.2, seed_init=5, seed_order=6, seed_dropout=7)]


def by_hand(module: Any, result: SegmentResult, config: TrainConfig) -> float:
    """The mean loss of the subset at the weights of the final checkpoint."""
    module.load_state_dict(weights_of(result))
    module.eval()
    batches = list(train_subset(prepare(config)))
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        losses = [float(module.loss([x.to(dtype), y])) for x, y in batches]
    sizes = [len(y) for _, y in batches]
    return sum(size * loss for size, loss in zip(sizes, losses, strict=True)) / sum(sizes)


# Which examples


def test_the_subset_is_the_same_for_every_trial_and_batch_size_and_as_large_as_validation() -> None:
    one, other = (
        list(train_subset(prepare(config(batch_size=size, seed_order=seed)))) for size, seed in ((8, 1), (4, 9))
    )
    assert [len(y) for _, y in one] == [8, 8, 5]
    for (x, y), (u, v) in zip(one, other, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)
    known = {tuple(x.flatten().tolist()) for x in array_modules.numbers(60, 0).tensors[0]}
    drawn = {tuple(x.flatten().tolist()) for batch, _ in one for x in batch}
    assert len(drawn) == 21 and drawn <= known


def test_a_small_training_set_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    batches = list(train_subset(prepare(config_of(code, data_args={"count": 10}))))
    assert [len(y) for _, y in batches] == [10]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("Streamed", "its train loader gives batches in an order of its own"),
        ("OwnSampler", "its train loader gives batches in an order of its own"),
        ("Augmented", "its training examples differ from one fetch to the next, as augmented ones do"),
    ],
)
def test_without_fixed_examples_a_trial_is_complete_and_says_why_there_is_no_gap(
    data: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train(config_of(user_code(tmp_path, monkeypatch), data=data), tmp_path)
    assert (result.status, result.fit) == ("COMPLETE", {})
    assert result.tags["gap_reason"].startswith(reason)


def test_several_validation_loaders_make_no_gap() -> None:
    with pytest.raises(NoSubset, match="it validates on several loaders"):
        train_subset(prepare(config_of(array_modules, model="Plain", data="TwoValidations")))


# What is said of them


@pytest.mark.parametrize("lightning", ["pytorch_lightning", "lightning.pytorch"])
def test_the_loss_is_that_of_the_final_weights_in_evaluation_mode(
    lightning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = user_code(tmp_path, monkeypatch, lightning)
    chosen = config_of(code, precision="64-true")
    result = train(chosen, tmp_path)
    assert result.fit.keys() == {"val_loss"} and "gap_reason" not in result.tags
    assert result.fit["val_loss"] == pytest.approx(by_hand(code.Net().double(), result, chosen), rel=1e-12)


@pytest.mark.parametrize(("model", "tolerance"), [("Built", 1e-12), ("Normed", 1e-12), ("KeepsScore", 1e-6)])
def test_modules_of_every_kind_are_measured_as_trained(model: str, tolerance: float, tmp_path: Path) -> None:
    chosen = config(model=model)
    result = train(chosen, tmp_path)
    module = getattr(sys.modules[__name__], model)()
    if model == "Built":
        module.setup("fit")
    # A metric object counts in 32 bits.
    assert result.fit["val_loss"] == pytest.approx(by_hand(module.double(), result, chosen), rel=tolerance)


def test_transfer_hooks_are_told_that_this_is_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    chosen = config_of(code, data="Transfers")
    result = train(chosen, tmp_path)
    assert result.fit["val_loss"] == pytest.approx(by_hand(code.Net(), result, chosen), rel=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("64-true", 1e-10), ("32-true", 1e-3)])
@pytest.mark.parametrize("model", ["Normed", "Attention", "LogsMuch"])
def test_a_member_of_an_array_has_the_figures_of_the_same_trial_alone(
    model: str, precision: str, tolerance: float, tmp_path: Path
) -> None:
    code = sys.modules[__name__] if model == "Normed" else array_modules
    first = config_of(code, model=model, data="Sequences", precision=precision, learning_rate=0.01)
    configs = [first, dataclasses.replace(first, learning_rate=0.02, seed_init=5, seed_order=6)]
    together = train_array(segments(configs, tmp_path / "array"))
    for one, alone in zip(together, segments(configs, tmp_path / "solo"), strict=True):
        assert one.tags["tier"] == "array" and one.fit
        assert one.fit == pytest.approx(train(alone.config, tmp_path / "solo").fit, rel=tolerance, abs=tolerance)


# No trace of it


def test_only_the_last_segment_measures_and_a_pause_changes_nothing(tmp_path: Path) -> None:
    whole = train(config(), tmp_path / "whole")
    parts = chain(config(), tmp_path / "parts", untils=(0.3, 0.6))
    assert [bool(part.fit) for part in parts] == [False, False, True]
    assert parts[-1].fit == whole.fit
    assert same_weights(parts[-1], whole) and curve_of(parts) == curve_of([whole])


@pytest.mark.parametrize("tier", ["solo", "array"])
def test_curve_and_checkpoint_are_those_of_a_training_without_it_to_the_bit(tier: str, tmp_path: Path) -> None:
    # The validation step of `Normed` takes no dicts: a training on such is the same, without what follows it.
    ends = []
    for data in ("Sequences", "Dicts"):
        parts = segments(pair(data=data, precision="32-true"), tmp_path / data)
        ends.append(train_array(parts) if tier == "array" else [train(p.config, tmp_path / data) for p in parts])
    for measured, plain in zip(*ends, strict=True):
        assert (measured.status, plain.status, measured.tags["tier"]) == ("COMPLETE", "COMPLETE", tier)
        assert measured.fit and not plain.fit and plain.tags["gap_reason"].startswith("AttributeError: ")
        assert same_weights(measured, plain) and curve_of([measured]) == curve_of([plain])
        assert float(weights_of(measured)["validations"]) == 9.0
        assert torch.equal(random_state(measured), random_state(plain))


def random_state(result: SegmentResult) -> Tensor:
    assert result.checkpoint is not None
    state: Tensor = torch.load(result.checkpoint, weights_only=True)["callbacks"]["Regatta"]["random"]["torch"]
    return state


def test_those_who_stay_in_an_array_do_not_notice_who_is_measured(tmp_path: Path) -> None:
    ends = []
    for data in ("Sequences", "Dicts"):
        early, late = segments(pair(data=data), tmp_path / data)
        begun = train(early.config, tmp_path / data, until=1 / 3)
        on = dataclasses.replace(early, from_step=begun.to_step, checkpoint=begun.checkpoint, sha256=begun.sha256)
        ends.append(train_array([on, late]))
    (measured, stayed), (plain, alone) = ends
    assert measured.fit and stayed.fit and not plain.fit and not alone.fit
    assert same_weights(stayed, alone) and curve_of([stayed]) == curve_of([alone])


def test_what_is_measured_takes_no_training_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = user_code(tmp_path, monkeypatch)
    result = train(config_of(code, model="Sleeps", epochs=1, evaluations=1), tmp_path)
    assert result.fit and result.wall_seconds > 6 * 0.05 and result.seconds < result.wall_seconds - 6 * 0.05


def test_a_diverged_training_is_not_measured(tmp_path: Path) -> None:
    result = train(config(learning_rate=1e300), tmp_path)
    assert (result.status, result.fit) == ("DIVERGED", {}) and "gap_reason" not in result.tags
