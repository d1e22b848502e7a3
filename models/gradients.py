"""Gradients of an array's parameters, which need not be multiplied out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Product(NamedTuple):
    """A gradient that has not been multiplied out: of a linear layer, say, what went in and what came back."""

    left: Tensor
    """Shape [N, a, b]."""
    right: Tensor
    """Shape [N, b, c]."""
    swapped: bool
    """Whether the gradient is [N, c, a] instead of [N, a, c]."""

    def whole(self) -> Tensor:
        """The gradient."""
        return self.turned(torch.bmm(self.left, self.right))

    def turned(self, tensor: Tensor) -> Tensor:
        """A tensor of the gradient's shape in that of the product, or the other way round."""
        return tensor.transpose(1, 2) if self.swapped else tensor


Gradient = Tensor | Product | None
"""Of one stacked parameter; None where the step does not use it."""


def whole(gradients: Sequence[Gradient]) -> list[Tensor | None]:
    """Gradients multiplied out."""
    return [gradient.whole() if isinstance(gradient, Product) else gradient for gradient in gradients]


def added(ones: Sequence[Gradient], others: Sequence[Gradient]) -> list[Gradient]:
    """The sums of two gradients each, either of which there may not be."""
    pairs = zip(whole(ones), whole(others), strict=True)
    return [other if one is None else one if other is None else one + other for one, other in pairs]


def kind_of(gradient: Gradient) -> str:
    """`none`, `tensor`, `product`, or `swapped`: a product with its last two dimensions swapped."""
    if isinstance(gradient, Product):
        return "swapped" if gradient.swapped else "product"
    return "none" if gradient is None else "tensor"


def tensors_of(gradient: Gradient) -> Sequence[Tensor]:
    """What a gradient consists of."""
    if isinstance(gradient, Product):
        return gradient.left, gradient.right
    return () if gradient is None else (gradient,)


def made_of(kind: str, tensors: Iterator[Tensor]) -> Gradient:
    """A gradient of such a kind, of the next tensors."""
    if kind == "none":
        return None
    first = next(tensors)
    return first if kind == "tensor" else Product(first, next(tensors), kind == "swapped")
