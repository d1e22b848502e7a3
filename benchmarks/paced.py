"""What the benchmarks of faults train: a small network that rests at every step, and data that arrays may not have."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.data import Digits, Example


class Paced(pl.LightningModule):
    """A classifier of the digits, with dropout; a rest at every step makes it last without keeping a processor busy."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))
        self.seconds = seconds

    def training_step(self, batch: Example) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        time.sleep(self.seconds)
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: Example) -> None:
        """Log the loss of one batch."""
        images, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self.net(images), labels))


def stacked(examples: Sequence[Example]) -> Example:
    """A batch of examples, as torch would make it."""
    images, labels = zip(*examples, strict=True)
    return torch.stack(images), torch.stack(labels)


class Mixed(Digits):
    """The digits; above a batch size they are collated by a function of one's own, so that trials train alone."""

    largest_together = 64

    def train_dataloader(self) -> DataLoader[Example]:
        """As it is, or the same with `stacked`."""
        loader = super().train_dataloader()
        if self.batch_size <= self.largest_together:
            return loader
        return DataLoader(self.splits["train"], batch_size=self.batch_size, shuffle=True, collate_fn=stacked)
