"""What a network is trained for: classification and language modelling, as ordinary LightningModules."""

from __future__ import annotations

import math

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.arguments import check_share

Batch = tuple[Tensor, Tensor]
"""Inputs [N, ...] and targets: classes [N], or the next tokens [N, T]."""


class Classifier(pl.LightningModule):
    """Cross-entropy over the classes of `network`'s logits [N, classes]; logs `val_loss` and `val_accuracy`."""

    def __init__(self, network: nn.Module, label_smoothing: float = 0.0) -> None:
        """`label_smoothing` applies to training alone, so that `val_loss` compares across its values."""
        super().__init__()
        check_share("label_smoothing", label_smoothing)
        self.network = network
        self.label_smoothing = label_smoothing

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [N, classes]."""
        logits: Tensor = self.network(inputs)
        return logits

    # No `self.log` while training: whoever wants the loss has what is returned, and logging every step costs time.
    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of the batch."""
        inputs, labels = batch
        return functional.cross_entropy(self(inputs), labels, label_smoothing=self.label_smoothing)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log `val_loss` and `val_accuracy`, means over all examples."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Log `test_loss` and `test_accuracy`, means over all examples."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Probabilities [N, classes]."""
        return torch.softmax(self(batch[0]), dim=-1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, for use without Regatta; a recipe's optimizer takes its place."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def _evaluate(self, batch: Batch, stage: str) -> None:
        inputs, labels = batch
        logits = self(inputs)
        values = {
            f"{stage}_loss": functional.cross_entropy(logits, labels),
            f"{stage}_accuracy": (logits.argmax(-1) == labels).float().mean(),
        }
        # Weighted by the batch's size: a mean of batch means would favour the examples of a short last batch.
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(labels))


class LanguageModel(pl.LightningModule):
    """Cross-entropy of the next token under `network`'s logits [N, T, vocabulary]; logs `val_loss` and `val_bits`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [N, T, vocabulary]."""
        logits: Tensor = self.network(tokens)
        return logits

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Mean loss of the batch, in nats per token."""
        return self._loss(batch)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log `val_loss` (nats per token) and `val_bits` (bits per token), means over all tokens."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Log `test_loss` (nats per token) and `test_bits` (bits per token), means over all tokens."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Probabilities [N, T, vocabulary] of the next tokens."""
        return torch.softmax(self(batch[0]), dim=-1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum, for use without Regatta; a recipe's optimizer takes its place."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def _loss(self, batch: Batch) -> Tensor:
        tokens, targets = batch
        return functional.cross_entropy(self(tokens).flatten(0, -2), targets.flatten())

    def _evaluate(self, batch: Batch, stage: str) -> None:
        loss = self._loss(batch)
        values = {f"{stage}_loss": loss, f"{stage}_bits": loss / math.log(2)}
        # Windows are equally long, so weighting by their number weights by tokens.
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch[1]))
