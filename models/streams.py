"""Dropout in an array: every member draws from a generator of its own the numbers that it would draw alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional


class Form(NamedTuple):
    """What dropout multiplies a stack [N, ...] by, but for the numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """The generators fill it in the order in which it lies in memory."""
    dtype: torch.dtype
    keep: float
    """The probability with which a number is kept."""


class Streams:
    """The generators of the members, in their order."""

    def __init__(self, generators: Sequence[Generator]) -> None:
        self.generators = generators

    def kept(self, form: Form) -> Tensor:
        """What dropout multiplies by: for every member the next numbers of its own."""
        return self.drawn(form)

    def drawn(self, form: Form) -> Tensor:
        """Draw them: 0, or 1 / `keep`."""
        kept = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=self.generators[0].device)
        for row, generator in zip(kept.unbind(), self.generators, strict=True):
            row.bernoulli_(form.keep, generator=generator)
        return kept.div_(form.keep)

    @contextmanager
    def instead_of_torch(self) -> Iterator[None]:
        """While this lasts, torch's dropout layers, which vmap would refuse, draw from the members' generators.

        Whatever else draws random numbers is refused by vmap. torch's functions are replaced in its module, where
        its layers look them up: there is no hook that reaches those called by others of its functions.
        """
        before = functional.dropout, functional.scaled_dot_product_attention
        functional.dropout = self.dropout
        functional.scaled_dot_product_attention = self._attention
        try:
            yield
        finally:
            functional.dropout, functional.scaled_dot_product_attention = before

    def dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """torch's dropout, as its CPU kernel computes it: the arguments have torch's names."""
        if not training or p == 0.0 or not input.numel():
            return input
        if p == 1.0:
            return input * torch.zeros((), dtype=input.dtype, device=input.device)
        kept: Tensor = _Kept.apply(input.detach(), 1.0 - p, self)  # type: ignore[no-untyped-call]
        return input.mul_(kept) if inplace else input * kept

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *settings: Any, **named: Any) -> Tensor:
        given = dict(zip(("attn_mask", "dropout_p", "is_causal"), settings, strict=False))
        return self.attention(query, key, value, **given, **named)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """torch's attention written out: its fused kernels for the CPU have no rule for vmap, nor has their dropout."""
        assert not enable_gqa, "grouped queries are left to torch: such a module trains alone"
        factor = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        scores = (query * factor) @ (key.transpose(-1, -2) * factor)
        if is_causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        if attn_mask is not None:
            off = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if off else scores + attn_mask
        return self.dropout(torch.softmax(scores, dim=-1), dropout_p) @ value


class Noted(Streams):
    """Notes what dropout asks for, and always gives the same: a step can be taken again, and no generator moves."""

    def __init__(self) -> None:
        super().__init__([])
        self.forms: list[Form] = []

    def kept(self, form: Form) -> Tensor:
        """Note it."""
        self.forms.append(form)
        return self.drawn(form)

    def drawn(self, form: Form) -> Tensor:
        """The same for the same form."""
        place = torch.empty_strided(form.shape, form.stride, dtype=form.dtype)
        return place.bernoulli_(form.keep, generator=Generator().manual_seed(0)).div_(form.keep)


class Given(Streams):
    """What has been drawn already, in its order."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        super().__init__([])
        self.masks = iter(masks)

    def kept(self, form: Form) -> Tensor:
        """The next one."""
        return next(self.masks)


class _Kept(torch.autograd.Function):
    """What dropout multiplies by: 0, or 1 / `keep` with probability `keep`. Only its rule for vmap draws anything."""

    @staticmethod
    def forward(like: Tensor, keep: float, streams: Streams) -> Tensor:
        raise AssertionError("members draw their dropout under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep: there is no gradient."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise AssertionError("what dropout multiplies by has no gradient")

    @staticmethod
    def vmap(info: Any, in_dims: Any, like: Tensor, keep: float, streams: Streams) -> tuple[Tensor, int]:
        """One for every member, which lies in memory as the input does."""
        members = like.expand(info.batch_size, *like.shape) if in_dims[0] is None else like.movedim(in_dims[0], 0)
        place = torch.empty_like(members)
        return streams.kept(Form(tuple(place.shape), place.stride(), place.dtype, keep)), 0
