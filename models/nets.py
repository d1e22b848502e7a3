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
from models.norms import ImageNorm, check_ghost_batch, flat_norm, image_norm


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
        check_ghost_batch(ghost_batch, norm)
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in itertools.pairwise((features, *hidden)):
            layers += [nn.Linear(width_in, width_out), flat_norm(norm, width_out, ghost_batch)]
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
        check_ghost_batch(ghost_batch, norm)
        layers: list[nn.Module] = []
        for stage, (width_in, width_out) in enumerate(itertools.pairwise((channels, width, 2 * width, 4 * width))):
            layers += [nn.MaxPool2d(2)] if stage else []
            layers += [_convolution(width_in, width_out), image_norm(norm, width_out, ghost_batch), nn.ReLU()]
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
            image_norm(norm, width_out, ghost_batch),
            nn.ReLU(),
            _convolution(width_out, width_out),
            image_norm(norm, width_out, ghost_batch),
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
        check_ghost_batch(ghost_batch, norm)
        layers: list[nn.Module] = [_convolution(channels, width), image_norm(norm, width, ghost_batch), nn.ReLU()]
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
        sizes = {"vocabulary": vocabulary, "context": context, "width": width, "depth": depth, "heads": heads}
        for name, value in sizes.items():
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
