"""What a training will take of its worker's memory: foreseen from two small batches, or found out by a few steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from models.config import TrainConfig
from models.footprint import MARGIN, TRIED, in_fresh_process, kind_of, limit_of, resident
from models.frozen import Frozen, told, trainer_for_hooks
from models.memory import give_back
from models.prepared import prepare

COPIES = 4
"""Tensors of a parameter's size: itself, its gradient, and at most two of an optimizer."""
FEW, MORE = 2, 4
"""Examples in each of the two batches; batch norm refuses one alone."""


def need(values: Mapping[str, Any]) -> dict[str, Any]:
    """Foresee what a training takes without training: for a worker, after it has loaded the data.

    What a forward pass keeps for the backward pass is taken to grow with the batch in a straight line.

    Args:
        values: `config`, a TrainConfig as JSON; `share_bytes` of the machine's memory that this process may take (None:
            all of it); `per_gpu`, processes that share a GPU.

    Returns:
        `fixed_bytes` of a training, and `example_bytes` for each example that goes through the model at once;
        `limit_bytes` of this process; `loaded_bytes` of them that it has taken already (on a GPU none: what counts
        there is tensors); `room_bytes` that a training may take, with 5 % of the limit to spare. Or only `reason`, why
        nothing can be foreseen; otherwise it is None.
    """
    config = TrainConfig.from_json(values["config"])
    try:
        foreseen = _foresee(config)
    except Exception as error:  # A user's step may ask for what there is in training only.
        return {"reason": told(error)}
    give_back()
    if kind_of(values) == "gpu":
        limit, loaded = limit_of(values) // values["per_gpu"], 0
    else:
        limit, loaded = limit_of({**values, "limit_bytes": values["share_bytes"]}), resident("VmRSS")
    room = int((1.0 - MARGIN) * limit) - loaded
    return {**foreseen, "limit_bytes": limit, "loaded_bytes": loaded, "room_bytes": room, "reason": None}


def fits(values: Mapping[str, Any]) -> dict[str, Any]:
    """Find out whether a training has room, in a process of its own that may run out of memory.

    Args:
        values: `config`, with `limit_bytes` and `loaded_bytes` as `need` gives them.

    Returns:
        As `models.footprint.measure`: `oom`, whether memory ran out within a few steps, is what matters here.
    """
    return in_fresh_process({**values, "seconds": 0.0, "least": TRIED})


def _foresee(config: TrainConfig) -> dict[str, int]:
    data = prepare(config)
    frozen = Frozen(config, data)
    with trainer_for_hooks(config, data, training=True):
        few, more = (kept_for_backward(frozen, examples) for examples in (FEW, MORE))
    each = max(0, more - few) // (MORE - FEW)
    return {"fixed_bytes": weights_of(frozen) + max(0, few - FEW * each), "example_bytes": each}


def weights_of(frozen: Frozen) -> int:
    """Bytes of a module's parameters in training, with their gradients and what the optimizer keeps of them."""
    one_copy: int = sum(parameter.numel() * parameter.element_size() for parameter in frozen.module.parameters())
    return COPIES * one_copy


def kept_for_backward(frozen: Frozen, examples: int) -> int:
    """Bytes that the forward pass of a batch of the first so many examples keeps for the backward pass."""
    (batch,) = frozen.batches([torch.arange(examples)], seed=0)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        place, size = tensor.untyped_storage().data_ptr(), tensor.numel() * tensor.element_size()
        kept[place] = max(size, kept.get(place, 0))
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        frozen.loss(batch)
    return sum(kept.values())
