"""The noisy quadratic model as a problem to train: its gradients have exactly the noise of the closed form.

Zhang et al. 2019: loss 1/2 sum h_i theta_i^2, gradient h_i theta_i + xi_i, where xi is the mean over the batch of one
noise vector for each example, drawn from N(0, diag(c)); here h_i = i^-power and c = h. A recipe trains it as any other:
`model: {class_path: quadratic_module.Quadratic}`, `data: {class_path: quadratic_module.Keys}`, objective `val_loss`.
"""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

# Of SplitMix64 (Steele et al. 2014), as signed numbers.
GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


class Quadratic(pl.LightningModule):
    """Logs `val_loss`, the exact loss without noise, at its weights theta [dimensions]."""

    curvature: Tensor
    seed: Tensor
    calls: Tensor

    def __init__(self, dimensions: int = 100, start: float | None = None, power: float = 1.0) -> None:
        """`start`: theta begins as +start, -start, +start, ...; None: standard normal."""
        super().__init__()
        alternating = 1.0 - 2.0 * (torch.arange(dimensions) % 2)
        self.theta = nn.Parameter(torch.randn(dimensions) if start is None else start * alternating)
        self.register_buffer("curvature", torch.arange(1, dimensions + 1) ** -power)
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss, tilted by the batch's noise; `batch`: keys of examples, int64 [N]."""
        # New noise in every step: what stays with an example would cancel out over each epoch.
        noise = normals(batch[0], self.seed + GOLDEN * self.calls, len(self.theta), self.theta.dtype)
        self.calls.add_(1)
        tilt = noise.mean(0) * self.curvature.sqrt()
        return self.loss() + (tilt * self.theta).sum()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss."""
        self.log("val_loss", self.loss())

    def loss(self) -> Tensor:
        """1/2 sum h theta^2."""
        return 0.5 * (self.curvature * self.theta.square()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """For use without a recipe."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Keys(pl.LightningDataModule):
    """Examples that are nothing but their numbers, of which their noise is made; every batch is a full one."""

    def __init__(self, batch_size: int = 8, examples: int = 4096) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.examples = examples

    def train_dataloader(self) -> DataLoader[Any]:
        """Keys, int64 [N]."""
        return DataLoader(TensorDataset(torch.arange(self.examples)), self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """One example: the exact loss depends on none."""
        return DataLoader(TensorDataset(torch.zeros(1)))


def normals(keys: Tensor, seed: Tensor, dimensions: int, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers [N, dimensions], a pure function of keys [N] and seed: vmap may stack what calls it."""
    rows = mixed(keys * GOLDEN ^ mixed(seed))
    pairs = torch.arange(-(-dimensions // 2), device=keys.device)
    bits = mixed(rows[:, None] + GOLDEN * (pairs + 1))
    high, low = ((part.to(dtype) + 0.5) / 2.0**32 for part in (shifted(bits, 32), bits & 0xFFFFFFFF))
    radius, angle = torch.sqrt(-2.0 * torch.log(high)), 2.0 * math.pi * low  # Box & Muller 1958.
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :dimensions]


def mixed(numbers: Tensor) -> Tensor:
    """SplitMix64's finalizer: 64 bits that look random, of others that need not."""
    numbers = (numbers ^ shifted(numbers, 30)) * FIRST
    numbers = (numbers ^ shifted(numbers, 27)) * SECOND
    return numbers ^ shifted(numbers, 31)


def shifted(numbers: Tensor, places: int) -> Tensor:
    """A shift to the right that fills up with zeros, as for unsigned numbers."""
    return (numbers >> places) & ((1 << (64 - places)) - 1)
