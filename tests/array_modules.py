"""Modules as users write them: some may train side by side, the others must train alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

Batch = list[Tensor]


def numbers(count: int, seed: int) -> TensorDataset:
    """Sequences [count, 6, 4] of numbers in three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, 4, generator=generator)
    return TensorDataset(x, (x[:, 0, 0] > 0).long() + (x[:, 1, 1] > 0).long())


class Sequences(pl.LightningDataModule):
    def __init__(self, batch_size: int = 8, shuffle: bool = True, drop_last: bool = False) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(numbers(60, 0), self.batch_size, shuffle=self.shuffle, drop_last=self.drop_last)

    def val_dataloader(self) -> Any:
        return DataLoader(numbers(21, 1), 8)


class TwoValidations(Sequences):
    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), super().val_dataloader()]


class Hooked(Sequences):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = self.network()

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))

    def loss(self, batch: Batch) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.net(x), y)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


# These may


class GivesDict(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "more": 1}


class NoIndex(Plain):
    def training_step(self, batch: Batch) -> Any:  # type: ignore[override]
        return self.loss(batch)

    def validation_step(self, batch: Batch) -> Any:  # type: ignore[override]
        self.log("val_loss", self.loss(batch), prog_bar=True)


class LogsMuch(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log_dict({"train_loss": loss, "constant": 2.0})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        right = (self.net(batch[0]).argmax(-1) == batch[1]).sum()
        self.log_dict({"val_loss": self.loss(batch), "val_right": right}, on_epoch=True, batch_size=len(batch[1]))


class Norm(Plain):
    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(24, 16, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(16, 3),
        )


class GroupNorm(Plain):
    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(6, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
        )


class Metrics(Plain):
    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        scores = self.net(batch[0])
        accuracy = torchmetrics.functional.accuracy(
            scores, batch[1], task="multiclass", num_classes=3, validate_args=False
        )
        self.log_dict({"val_loss": functional.cross_entropy(scores, batch[1]), "val_accuracy": accuracy})


class Attention(Plain):
    """torch's own layer with its dropout, twice: as it is, and behind a causal mask."""

    def network(self) -> nn.Module:
        # The gradient of a bias of the keys is nothing but rounding, which Adam makes into steps of full size.
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, bias=False)
        return nn.ModuleList([layer, nn.Sequential(nn.Flatten(), nn.Linear(24, 3))])

    def loss(self, batch: Batch) -> Tensor:
        layer, head = self.net.children()
        mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=batch[0].dtype)
        states = layer(layer(batch[0]), src_mask=mask)
        return functional.cross_entropy(head(states), batch[1])


class Tied(Plain):
    """One matrix for tokens in and tokens out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.embedding.weight

    def loss(self, batch: Batch) -> Tensor:
        tokens = (batch[0].sum(-1) > 0).long() + batch[1][:, None]
        return functional.cross_entropy(self.out(self.embedding(tokens)).flatten(0, 1), tokens.roll(1, 1).flatten())


class KeepsMean(Plain):
    """A registered buffer, changed in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6, 4))

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.mean.mul_(0.9).add_(batch[0].mean(0), alpha=0.1)
        return self.loss([batch[0] - self.mean, batch[1]])


class Freezes(Plain):
    """One part that does not learn, another that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        next(self.net.parameters()).requires_grad_(False)


class Single(Plain):
    """Insists on 32 bits."""

    def loss(self, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.net(batch[0].float()), batch[1])


class Large(Plain):
    def network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(24, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 3))


class FailsLate(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if batch_idx == 5:
            raise RuntimeError("the user's own mistake")
        return self.loss(batch)


class Greedy(Plain):
    """Takes all the memory there is from a certain width of the array on."""

    limit = 99

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        if width_of(batch[0]) > self.limit and batch_idx > 2:
            raise MemoryError
        return self.loss(batch)


def width_of(x: Tensor) -> int:
    """Members under vmap, 0 without."""
    inner = torch._C._functorch
    return int(inner.get_unwrapped(x).shape[0]) if inner.is_batchedtensor(x) else 0


# These may not: vmap refuses


class Item(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.last = loss.item()
        return loss


class Branch(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        return loss if loss > 0.1 else loss * 2


class Lstm(Plain):
    kind: Any = nn.LSTM

    def __init__(self) -> None:
        super().__init__()
        self.cells = self.kind(4, 4, batch_first=True)

    def loss(self, batch: Batch) -> Tensor:
        return super().loss([self.cells(batch[0])[0], batch[1]])


class Gru(Lstm):
    kind = nn.GRU


class SpectralNorm(Plain):
    def network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(24, 3)))


class MaskedRows(Plain):
    def loss(self, batch: Batch) -> Tensor:
        scores = self.net(batch[0])
        return functional.cross_entropy(scores[batch[1] < 2], batch[1][batch[1] < 2])


class ByHand(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class UnregisteredTensor(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(())

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.mean += loss.detach()
        return loss


class DrawsNoise(Plain):
    def loss(self, batch: Batch) -> Tensor:
        return super().loss([batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]])


# These may not: without the comparison nobody would notice


class DrawnAtStart(Plain):
    """A number that differs between members."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = random.random()

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.loss(batch) * self.scale


class MetricObject(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.MeanMetric()

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.accuracy.update(batch_idx)
        return loss


class Counter(Plain):
    count = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.count += 1
        return self.loss(batch)


class CountsForAll(Plain):
    """Keeps its notes in the class."""

    seen: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.seen.append(batch_idx)
        return self.loss(batch)


class NewBuffer(KeepsMean):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        self.mean = self.mean * 0.9 + 0.1 * batch[0].mean(0)
        return self.loss([batch[0] - self.mean, batch[1]])


class NumpyNoise(Plain):
    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * float(1 + np.random.rand())


DRAWS_OF_OTHERS: list[int] = []
"""As many numbers are drawn in the next steps, as another thread of the process might."""


class Overheard(Plain):
    def loss(self, batch: Batch) -> Tensor:
        if DRAWS_OF_OTHERS:
            DRAWS_OF_OTHERS.pop()
            random.random()
        return super().loss(batch)


class AsksForEpoch(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.loss(batch) * (2.0 if self.current_epoch > 5 else 1.0)


class AsksForTrainer(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.loss(batch) * (self.trainer.max_epochs or 1)


class LogsEpochs(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss


class LogsLargest(Plain):
    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch), reduce_fx="max")


class HasHook(Plain):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps = batch_idx


class OwnClipping(Plain):
    def configure_gradient_clipping(self, optimizer: Any, *settings: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="value")


class Nothing(Plain):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return None
