"""The ready modules under a plain Lightning trainer: what they log is right, and training lowers the loss."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from models.data import Digits, SplitData, TeacherStudent
from models.nets import MLP, ConvNet, ResNet, Transformer
from models.task import Classifier, LanguageModel
from models.text import Text

# The first depends on the machine's cores, the second on the installed torch; neither is about our modules.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:The '\w+_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]

SHAKESPEARE = Path(__file__).parent.parent.parent / "shared" / "data" / "tinyshakespeare.txt"


def trainer(epochs: int = 1, steps: int = -1) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def validated(module: pl.LightningModule, data: SplitData) -> dict[str, float]:
    (metrics,) = trainer().validate(module, datamodule=data, verbose=False)
    return dict(metrics)


@pytest.mark.parametrize(
    ("network", "make_data", "target"),
    [
        (lambda: MLP(), lambda: Digits(), 0.3),
        (lambda: ConvNet(width=4), lambda: Digits(image=True), 0.8),
        (lambda: ResNet(width=8, norm="group"), lambda: Digits(image=True), 0.8),
        (lambda: MLP(features=32, hidden=[64]), lambda: TeacherStudent(examples=2048), 1.5),
    ],
    ids=["mlp-digits", "conv-digits", "resnet-digits", "mlp-teacher"],
)
def test_a_classifier_learns_its_data_under_a_plain_trainer(
    network: Callable[[], nn.Module], make_data: Callable[[], SplitData], target: float
) -> None:
    torch.manual_seed(0)
    module, data = Classifier(network()), make_data()
    before = validated(module, data)
    run = trainer(epochs=3)
    run.fit(module, datamodule=data)
    after = validated(module, data)
    assert after["val_loss"] < target < before["val_loss"]
    assert after["val_accuracy"] > before["val_accuracy"]
    assert set(after) == {"val_loss", "val_accuracy"}


def test_a_language_model_learns_a_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 80)
    data = Text(str(tmp_path / "text.txt"), batch_size=8, context=16)
    data.setup()
    torch.manual_seed(0)
    module = LanguageModel(Transformer(data.vocabulary_size, context=16, width=32))
    before = validated(module, data)
    trainer(epochs=4).fit(module, datamodule=data)
    after = validated(module, data)
    assert before["val_loss"] == pytest.approx(math.log(data.vocabulary_size), abs=0.4)
    assert after["val_loss"] < 0.6 * before["val_loss"]
    assert after["val_bits"] == pytest.approx(after["val_loss"] / math.log(2))


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="tinyshakespeare.txt is not at ../shared/data")
def test_a_language_model_beats_letter_frequencies_on_tiny_shakespeare() -> None:
    data = Text(str(SHAKESPEARE), batch_size=32, context=32)
    torch.manual_seed(0)
    module = LanguageModel(Transformer(65, context=32, width=32, depth=1))
    trainer(steps=150).fit(module, datamodule=data)
    after = validated(module, data)
    assert after["val_loss"] < 3.0  # the entropy of the letters alone is 3.3 nats
    assert after["val_bits"] == pytest.approx(after["val_loss"] / math.log(2))


def uneven(*columns: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of 4, 4 and 1."""
    return DataLoader(TensorDataset(*columns), batch_size=4)


def test_metrics_are_means_over_examples_and_not_over_batches() -> None:
    torch.manual_seed(0)
    module = Classifier(MLP(features=3, classes=2))
    inputs, labels = 5.0 * torch.randn(9, 3), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1])
    loader = uneven(inputs, labels)
    (metrics,) = trainer().validate(module, loader, verbose=False)
    logits = module(inputs).detach()
    assert metrics["val_loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)
    assert metrics["val_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), rel=1e-5)
    (tested,) = trainer().test(module, loader, verbose=False)
    assert tested["test_loss"] == pytest.approx(metrics["val_loss"])
    assert tested["test_accuracy"] == pytest.approx(metrics["val_accuracy"])


def test_a_language_models_metrics_are_means_over_tokens_and_not_over_batches() -> None:
    torch.manual_seed(0)
    module = LanguageModel(Transformer(7, context=5, width=8, heads=2))
    nn.init.normal_(module.network.embedding.weight)  # type: ignore[arg-type, union-attr]
    tokens, targets = torch.randint(7, (9, 5)), torch.randint(7, (9, 5))
    (metrics,) = trainer().validate(module, uneven(tokens, targets), verbose=False)
    expected = float(functional.cross_entropy(module(tokens).detach().flatten(0, 1), targets.flatten()))
    assert metrics["val_loss"] == pytest.approx(expected, rel=1e-5)
    (tested,) = trainer().test(module, uneven(tokens, targets), verbose=False)
    assert tested["test_bits"] == pytest.approx(metrics["val_bits"])


def test_smoothing_changes_the_training_loss_and_leaves_the_validation_loss() -> None:
    torch.manual_seed(0)
    network = MLP(features=3, classes=2)
    batch = (torch.randn(9, 3), torch.arange(9) % 2)
    plain, smoothed = Classifier(network), Classifier(network, label_smoothing=0.2)
    assert not torch.equal(plain.training_step(batch, 0), smoothed.training_step(batch, 0))
    losses = [trainer().validate(module, uneven(*batch), verbose=False)[0] for module in (plain, smoothed)]
    assert losses[0] == losses[1]


def test_training_logs_nothing() -> None:
    module = Classifier(MLP())
    run = trainer(epochs=1)
    # Validation does log; with none of it, Lightning asks to be told so.
    run.limit_val_batches = 0
    run.fit(module, datamodule=Digits(validation=0.0))
    assert run.logged_metrics == {}


def test_predictions_are_probabilities() -> None:
    data = Digits()
    batches = trainer().predict(Classifier(MLP()), datamodule=data)
    assert batches is not None
    (probabilities,) = batches
    assert isinstance(probabilities, Tensor)
    assert probabilities.shape == (180, 10)
    assert torch.allclose(probabilities.sum(1), torch.ones(180), atol=1e-5)
    next_tokens = LanguageModel(Transformer(7, context=5, width=8, heads=2)).predict_step(
        (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64)), 0
    )
    assert torch.allclose(next_tokens.sum(-1), torch.ones(2, 5), atol=1e-5)


def test_a_module_keeps_no_hyperparameters_and_can_be_pickled() -> None:
    module = Classifier(MLP(), label_smoothing=0.1)
    assert not module.hparams
    again = pickle.loads(pickle.dumps(module))
    inputs = torch.randn(4, 64)
    assert torch.equal(again(inputs), module(inputs))


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_smoothing_must_be_a_share(value: float) -> None:
    with pytest.raises(ValueError, match=r"`label_smoothing` must be a share in \[0, 1\), but got"):
        Classifier(MLP(), label_smoothing=value)
