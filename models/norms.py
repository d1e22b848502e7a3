"""Normalization layers of the ready networks; among them batch norm whose statistics come from chunks of a batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.arguments import check_count

ImageNorm = Literal["batch", "group", "none"]


class GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with the statistics of `chunk` examples in training, however large the batch (Hoffer et al. 2017).

    It gives what torch's batch norm gives for one chunk after the other, running statistics included, and has the same
    `state_dict`; evaluation is the ordinary one. What is left at a batch's end is a chunk of its own if it is more than
    half a chunk, otherwise it joins the one before: no statistics come from a few examples. A small batch is one chunk.
    """

    def __init__(self, width: int, *, chunk: int) -> None:
        super().__init__(width)
        check_count("chunk", chunk, least=2)
        self.chunk = chunk

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, width, ...] to the same shape."""
        self._check_input_dim(inputs)
        even = even_part(len(inputs), self.chunk) if self.training else 0
        if not even:
            return self._together(inputs)
        if even == len(inputs):
            return self._in_chunks(inputs)
        # In this order: the running statistics remember the last chunk best.
        return torch.cat([self._in_chunks(inputs[:even]), self._together(inputs[even:])])

    def _together(self, inputs: Tensor) -> Tensor:
        normed: Tensor = super().forward(inputs)
        return normed

    def _in_chunks(self, inputs: Tensor) -> Tensor:
        count = len(inputs) // self.chunk
        # Chunks as further channels: one call for all of them, since at large batches there are many.
        channels = inputs.unflatten(0, (count, self.chunk)).transpose(0, 1).flatten(1, 2)
        assert self.running_mean is not None and self.running_var is not None, "made with running statistics"
        # With a momentum of 1 these become the statistics of each chunk.
        mean, variance = self.running_mean.repeat(count), self.running_var.repeat(count)
        scale, shift = self.weight.repeat(count), self.bias.repeat(count)
        normed = functional.batch_norm(
            channels, mean, variance, scale, shift, training=True, momentum=1.0, eps=self.eps
        )
        self._remember(mean.view(count, -1), variance.view(count, -1))
        ordered: Tensor = normed.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)
        return ordered

    def _remember(self, means: Tensor, variances: Tensor) -> None:
        """Move the running statistics on by those of chunks, [count, width], one after the other."""
        assert self.momentum is not None and self.num_batches_tracked is not None, "made with running statistics"
        kept, count = 1 - self.momentum, len(means)
        ages = torch.arange(count - 1, -1, -1, dtype=means.dtype, device=means.device)
        shares = (self.momentum * kept**ages).unsqueeze(1)
        for running, found in ((self.running_mean, means), (self.running_var, variances)):
            assert running is not None, "made with running statistics"
            running.mul_(kept**count).add_((shares * found).sum(0))
        self.num_batches_tracked.add_(count)

    def _check_input_dim(self, inputs: Tensor) -> None:
        if inputs.ndim < 2:
            raise ValueError(f"expected inputs [N, width, ...], but got the shape {list(inputs.shape)}")


def even_part(examples: int, chunk: int) -> int:
    """How many of a batch's first examples make chunks of equal size; the others, if any, are one more chunk."""
    rest = examples % chunk
    joins = 0 < 2 * rest <= chunk
    return max(0, examples - rest - chunk * joins)


def check_ghost_batch(ghost_batch: int | None, norm: str) -> None:
    """Raise `ValueError` if `ghost_batch` is given where there are no statistics, or is no number of examples."""
    if ghost_batch is None:
        return
    check_count("ghost_batch", ghost_batch, least=2)
    if norm != "batch":
        raise ValueError(
            f"`ghost_batch` must be left out with `norm: {norm}`, which has no statistics of a batch, "
            f"but got {ghost_batch}. Leave it out, or set `norm: batch`."
        )


def flat_norm(norm: Literal["none", "batch", "layer"], width: int, ghost_batch: int | None) -> nn.Module:
    """The norm of that name behind a fully connected layer of `width` numbers."""
    if norm == "batch":
        return nn.BatchNorm1d(width) if ghost_batch is None else GhostBatchNorm(width, chunk=ghost_batch)
    return nn.Identity() if norm == "none" else nn.LayerNorm(width)


def image_norm(norm: ImageNorm, width: int, ghost_batch: int | None) -> nn.Module:
    """The norm of that name behind a convolution of `width` channels."""
    if norm == "batch":
        return nn.BatchNorm2d(width) if ghost_batch is None else GhostBatchNorm(width, chunk=ghost_batch)
    # Eight groups where the width allows it, else as many as divide it.
    return nn.Identity() if norm == "none" else nn.GroupNorm(math.gcd(8, width), width)
