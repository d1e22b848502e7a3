"""Which trials may train side by side: those that rules allow, and a comparison with single calls confirms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from models import rng
from models.build import ConfigError, find_class, lightning_of
from models.comparison import layouts_if_equal
from models.config import TrainConfig, array_key
from models.loaders import BatchList
from models.members import DTYPES
from models.prepared import PreparedData, prepare
from models.sources import MemoryBatches
from models.stacked import STACKED
from models.train import out_of_memory
from models.vmapped import Unfusable

HOOKS = (
    "backward",
    "configure_gradient_clipping",
    "configure_model",
    "clip_gradients",
    "get_extra_state",
    "load_state_dict",
    "lr_scheduler_step",
    "optimizer_step",
    "optimizer_zero_grad",
    "setup",
    "state_dict",
    "teardown",
    "transfer_batch_to_device",
)
"""Of Lightning's methods, those that an array does not call, beside all whose names begin with `on_`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether trials of one `array_key` may train side by side."""

    reason: str | None
    """Why not; None: they may."""
    layouts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """How their parameters should lie in memory (`vmapped.layout_of`)."""
    code: str = ""
    """What their steps compute, by all that it depends on but shapes and numbers."""


_verdicts: dict[str, Verdict] = {}


def fusable(configs: Sequence[TrainConfig]) -> str | None:
    """None if these trials may train side by side, otherwise the reason why they may not.

    Raises:
        ConfigError: if they cannot train at all.
    """
    return examine(configs).reason


def examine(configs: Sequence[TrainConfig]) -> Verdict:
    """The verdict on these trials; one of each `array_key` is found by measurement and kept in this process."""
    keys = {array_key(config) for config in configs}
    if len(keys) > 1:
        return Verdict(reason="they differ in more than rate, schedule, decay, clipping and seeds")
    config = configs[0]
    names = ("model", "data", "batch_size", "optimizer", "accumulate", "precision", "devices", "train_loss")
    key = json.dumps([getattr(config, name) for name in names], sort_keys=True)
    if key not in _verdicts:
        _verdicts[key] = dataclasses.replace(_examine(config), code=key)
    return _verdicts[key]


def _examine(config: TrainConfig) -> Verdict:
    before = rng.capture()
    try:
        reason = next(refusals(config), None)
        if reason is not None:
            return Verdict(reason=reason)
        return Verdict(reason=None, layouts=layouts_if_equal(config))
    except Unfusable as refusal:
        return Verdict(reason=str(refusal))
    except Exception as error:  # Whatever vmap cannot do, or a user's code does not survive.
        if isinstance(error, ConfigError) or out_of_memory(error):
            raise
        return Verdict(reason=f"under vmap: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
    finally:
        rng.restore(before)


def refusals(config: TrainConfig) -> Iterator[str]:
    """Yield what rules out an array, as far as it shows without a training step."""
    if config.optimizer not in STACKED:
        yield f"there is no stacked form of the optimizer {config.optimizer!r}"
    if config.devices != 1:
        yield "it trains on several devices"
    if config.precision not in DTYPES:
        yield f"its precision is {config.precision}"
    cls = find_class(config.model["class_path"], where="model.class_path")
    lightning = lightning_of(cls, base="LightningModule", where="model.class_path").LightningModule
    names = [name for name in dir(lightning) if name.startswith("on_") and callable(getattr(lightning, name))]
    for name in [*names, *HOOKS]:
        if getattr(cls, name, None) is not getattr(lightning, name, None):
            yield f"it has a `{name}` of its own"
    yield from refusals_of_data(prepare(config))


def refusals_of_data(data: PreparedData) -> Iterator[str]:
    """Yield what rules out an array about the data."""
    if not isinstance(data.source, MemoryBatches):
        yield "its training data do not lie in memory as tensors"
    if not isinstance(data.val_loaders, BatchList):
        yield "its validation data are not one loader of batches that lie in memory as tensors"
    if data.hooks:
        yield f"its datamodule has a `{next(iter(data.hooks))}` of its own"
