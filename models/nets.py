"""Ready networks: an MLP, two small convolutional networks, a character transformer.

All are plain functions of their parameters (no `.item()`, no branch on data), so that `torch.func.vmap` can stack them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.arguments import check_choice, check_count, check_share

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


class MLP(nn.Module):
    """Fully connected layers with ReLU: inputs [N, ...] of `features` numbers each, logits [N, classes]."""

    def __init__(
        self,
        features: int = 64,
        hidden: Sequence[int] = (128, 128),
        classes: int = 10,
        *,
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
        ghost_batch: int | None = None,
    ) -> None:
        """`ghost_batch`: with `norm: batch`, examples that share their statistics in training; None: the batch."""
        super().__init__()
        for name, value in (("features", features), *(("hidden", width) for width in hidden), ("classes", classes)):
            check_count(name, value)
        check_share("dropout", dropout)
        check_choice("norm", norm, ("none", "batch", "layer"))
        _check_ghost_batch(ghost_batch, norm)
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in itertools.pairwise((features, *hidden)):
            layers += [nn.Linear(width_in, width_out), _flat_norm(norm, width_out, ghost_batch)]
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear((features, *hidden)[-1], classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [N, classes]."""
        logits: Tensor = self.layers(inputs)
        return logits


class ConvNet(nn.Module):
    """Three convolutions, each followed by norm and ReLU, two halvings and a mean over places: images from 4x4 on."""

    def __init__(
        self,
        channels: int = 1,
        width: int = 16,
        classes: int = 10,
        *,
        norm: ImageNorm = "batch",
        ghost_batch: int | None = None,
    ) -> None:
        """`ghost_batch`: with `norm: batch`, examples that share their statistics in training; None: the batch."""
        super().__init__()
        _check_image_net(channels, width, classes)
        check_choice("norm", norm, ("batch", "group", "none"))
        _check_ghost_batch(ghost_batch, norm)
        layers: list[nn.Module] = []
        for stage, (width_in, width_out) in enumerate(itertools.pairwise((channels, width, 2 * width, 4 * width))):
            layers += [nn.MaxPool2d(2)] if stage else []
            layers += [_convolution(width_in, width_out), _image_norm(norm, width_out, ghost_batch), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, channels, H, W]."""
        logits: Tensor = self.head(self.layers(images).mean((-2, -1)))
        return logits


class ResidualBlock(nn.Module):
    """Two convolutions around which the input passes (He et al. 2016), halved where `stride` is 2."""

    def __init__(
        self, width_in: int, width_out: int, *, stride: int, norm: ImageNorm, ghost_batch: int | None = None
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(width_in, width_out, stride=stride),
            _image_norm(norm, width_out, ghost_batch),
            nn.ReLU(),
            _convolution(width_out, width_out),
            _image_norm(norm, width_out, ghost_batch),
        )
        same = stride == 1 and width_in == width_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(width_in, width_out, 1, stride=stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, width_in, H, W] to [N, width_out, H / stride, W / stride]."""
        return functional.relu(self.body(images) + self.shortcut(images))


class ResNet(nn.Module):
    """A small residual network for images of 8x8 to 32x32: `blocks` gives the blocks of each stage.

    Every stage after the first halves the image and doubles the width; (3, 3, 3) is the ResNet-20 of CIFAR-10.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 16,
        classes: int = 10,
        *,
        blocks: Sequence[int] = (1, 1, 1),
        norm: Literal["batch", "group"] = "batch",
        ghost_batch: int | None = None,
    ) -> None:
        """`ghost_batch`: with `norm: batch`, examples that share their statistics in training; None: the batch."""
        super().__init__()
        _check_image_net(channels, width, classes)
        if not blocks:
            raise ValueError("`blocks` must name the blocks of at least one stage, but it is empty.")
        for count in blocks:
            check_count("blocks", count)
        check_choice("norm", norm, ("batch", "group"))
        _check_ghost_batch(ghost_batch, norm)
        layers: list[nn.Module] = [_convolution(channels, width), _image_norm(norm, width, ghost_batch), nn.ReLU()]
        width_in = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                width_out, stride = width * 2**stage, 2 if stage and not block else 1
                layers.append(ResidualBlock(width_in, width_out, stride=stride, norm=norm, ghost_batch=ghost_batch))
                width_in = width_out
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width_in, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, channels, H, W]."""
        logits: Tensor = self.head(self.layers(images).mean((-2, -1)))
        return logits


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Each place's mean of `value` over itself and earlier places, weighted by query and key: all [N, H, T, D]."""
    # torch's fused kernel for the CPU has no vmap rule: stacked members would run one by one, with a warning.
    if query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    length, size = query.shape[-2:]
    later = torch.full((length, length), -math.inf, dtype=query.dtype).triu(1)
    return torch.softmax(query / math.sqrt(size) @ key.transpose(-1, -2) + later, dim=-1) @ value


class TransformerBlock(nn.Module):
    """Causal self-attention and an MLP, each behind a layer norm and added to its input."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """[N, T, width] to the same shape."""
        states = states + self.dropout(self._attend(self.attention_norm(states)))
        transformed: Tensor = states + self.dropout(self.mlp(states))
        return transformed

    def _attend(self, states: Tensor) -> Tensor:
        split = self.query_key_value(states).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in split.unbind(2))
        seen = causal_attention(query, key, value)
        mixed: Tensor = self.mix(seen.transpose(1, 2).flatten(2))
        return mixed


class Transformer(nn.Module):
    """A causal language model: codes [N, T] of at most `context` tokens, logits [N, T, vocabulary] of the next ones."""

    def __init__(
        self,
        vocabulary: int,
        context: int = 64,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        """`tied`: the output layer uses the embedding's weights."""
        super().__init__()
        for name, value in (
            ("vocabulary", vocabulary),
            ("context", context),
            ("width", width),
            ("depth", depth),
            ("heads", heads),
        ):
            check_count(name, value)
        check_share("dropout", dropout)
        if width % heads:
            raise ValueError(f"`width` must be a multiple of `heads`, but got {width} and {heads}.")
        self.context = context
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        # As in GPT-2: with torch's default deviation of 1, a tied output layer would start with logits of sqrt(width).
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads=heads, dropout=dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits [N, T, vocabulary]; those at place t see codes 0 to t."""
        length = codes.shape[-1]
        if length > self.context:
            raise ValueError(f"`context` must be at least {length} (the tokens of an input), but got {self.context}.")
        states = self.norm(self.blocks(self.dropout(self.embedding(codes) + self.positions[:length])))
        return functional.linear(states, self.embedding.weight if self.head is None else self.head.weight)


def _check_image_net(channels: int, width: int, classes: int) -> None:
    for name, value in (("channels", channels), ("width", width), ("classes", classes)):
        check_count(name, value)


def _convolution(width_in: int, width_out: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)


def _check_ghost_batch(ghost_batch: int | None, norm: str) -> None:
    if ghost_batch is None:
        return
    check_count("ghost_batch", ghost_batch, least=2)
    if norm != "batch":
        raise ValueError(
            f"`ghost_batch` must be left out with `norm: {norm}`, which has no statistics of a batch, "
            f"but got {ghost_batch}. Leave it out, or set `norm: batch`."
        )


def _flat_norm(norm: Literal["none", "batch", "layer"], width: int, ghost_batch: int | None) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm1d(width) if ghost_batch is None else GhostBatchNorm(width, chunk=ghost_batch)
    return nn.Identity() if norm == "none" else nn.LayerNorm(width)


def _image_norm(norm: ImageNorm, width: int, ghost_batch: int | None) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width) if ghost_batch is None else GhostBatchNorm(width, chunk=ghost_batch)
    # Eight groups where the width allows it, else as many as divide it.
    return nn.Identity() if norm == "none" else nn.GroupNorm(math.gcd(8, width), width)
