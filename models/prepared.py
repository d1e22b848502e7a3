"""Data made ready once in each process: the datamodule set up, its loaders looked at, its tensors in memory."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import SequentialSampler

from models import rng
from models.build import ConfigError, build, find_class, lightning_of, named_parameters, nearest, takes
from models.config import TrainConfig
from models.loaders import BatchList, ForeignLoader, OrderedLoader
from models.plan import Plan, plan_training
from models.sources import Batches, batches_of, in_memory, is_ours

KEPT = 16
"""Data sets kept ready in one process, the least recently used dropped first: one for each batch size of a search."""
SPLIT_SEED = 0
"""What a datamodule draws while it is set up (a `random_split`, say) is the same for all trials, in every process."""
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")

_ready: OrderedDict[str, PreparedData] = OrderedDict()


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """What a training needs of its data."""

    source: Batches | None
    """Where our own batches come from; None: the train loader is used as it is."""
    datamodule: Any
    train_loader: Any
    val_loaders: Any
    examples: int
    """Size of the training set (of an epoch of a foreign loader: batches x batch size)."""
    shuffle: bool
    drop_last: bool
    hooks: Mapping[str, Any]
    """The datamodule's own batch-transfer hooks, by name."""

    @property
    def order(self) -> str:
        """`own`: the order comes from (seed, epoch); `foreign`: the loader is used as it is."""
        return "foreign" if self.source is None else "own"

    def steps_per_epoch(self, config: TrainConfig) -> int | None:
        """Optimizer steps of an epoch where the loader decides; None where we do."""
        return None if self.source is not None else -(-len(self.train_loader) // config.accumulate)

    def plan(self, config: TrainConfig) -> Plan:
        """What a training on these data will do.

        Raises:
            ConfigError: if an epoch has no step.
        """
        return plan_training(
            config, examples=self.examples, drop_last=self.drop_last, steps_per_epoch=self.steps_per_epoch(config)
        )

    def loader(self, config: TrainConfig, plan: Plan) -> OrderedLoader | ForeignLoader:
        """A fresh train loader for one trial."""
        if self.source is None:
            # Not the one of an earlier trial: its samplers may have moved on.
            rng.seed_everything(SPLIT_SEED)
            return ForeignLoader(self.datamodule.train_dataloader(), seed=config.seed_order)
        return OrderedLoader(
            self.source,
            examples=self.examples,
            batch_sizes=[size // config.accumulate for size in plan.batch_sizes],
            seed=config.seed_order,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
        )


def prepare(config: TrainConfig) -> PreparedData:
    """The data of a trial, from this process's memory if an earlier trial had the same.

    Raises:
        ConfigError: if the datamodule cannot be built, or cannot give batches of this size.
    """
    key = json.dumps([config.data, config.batch_size // config.accumulate], sort_keys=True)
    if key not in _ready:
        _ready[key] = _prepare(config)
        while len(_ready) > KEPT:
            _ready.popitem(last=False)
    _ready.move_to_end(key)
    # Outside what is kept: these rules are about more than the key.
    _check(config, _ready[key])
    return _ready[key]


def _prepare(config: TrainConfig) -> PreparedData:
    rng.seed_everything(SPLIT_SEED)
    datamodule = build_datamodule(config.data, batch_size=config.batch_size // config.accumulate)
    datamodule.prepare_data()
    datamodule.setup("fit")
    _need_methods(datamodule)
    train, val = datamodule.train_dataloader(), datamodule.val_dataloader()
    if val is None or (isinstance(val, Mapping | list | tuple) and not val):
        raise ConfigError("`data.class_path` must have validation batches: without them nothing can be compared.")
    ours = is_ours(train)
    return PreparedData(
        source=batches_of(train) if ours else None,
        datamodule=datamodule,
        train_loader=train,
        val_loaders=_resident(val),
        examples=len(train.dataset) if ours else _length(train) * (config.batch_size // config.accumulate),
        shuffle=ours and type(train.sampler) is not SequentialSampler,
        drop_last=bool(getattr(train, "drop_last", False)),
        hooks=own_hooks(datamodule),
    )


def _need_methods(datamodule: Any) -> None:
    base = lightning_of(type(datamodule), base="LightningDataModule", where="data.class_path").LightningDataModule
    for name in ("train_dataloader", "val_dataloader"):
        if getattr(type(datamodule), name) is getattr(base, name):
            raise ConfigError(f"`data.class_path` must have a `{name}`, but {type(datamodule).__name__} does not.")


def _length(loader: Any) -> int:
    """Batches of a loader that is not ours."""
    if isinstance(loader, Mapping | list | tuple):
        raise ConfigError(
            f"`data.class_path` must have one train loader, but its `train_dataloader` gives a {type(loader).__name__}."
            " Let one loader give batches that hold all parts."
        )
    try:
        return len(loader)
    except TypeError as error:  # A DataLoader has a length only if its data set has one.
        raise ConfigError(
            f"`data.class_path` must have a train loader with a length, but got: {error}. "
            "A schedule needs the number of steps: give the data set a `__len__`."
        ) from error


def _check(config: TrainConfig, data: PreparedData) -> None:
    """What a trial asks of data that other trials share."""
    if data.source is None and config.schedule == "batch_growth":
        raise ConfigError(
            "`search.schedules.batch_growth` must have a train loader that can be rebuilt (a plain DataLoader over a "
            "map-style data set with default sampler and batches), but this one cannot. Leave that schedule out."
        )
    if config.batch_size > data.examples:
        raise ConfigError(
            f"`batch_size` must be at most {data.examples} (the training set), but got {config.batch_size}. Lower it: "
            f"{data.examples} is already the whole training set in one step."
        )


def build_datamodule(data: Mapping[str, Any], *, batch_size: int) -> Any:
    """A datamodule with its batch size given to the argument that the recipe names.

    Raises:
        ConfigError: if there is no such class, argument, or value.
    """
    cls = find_class(data["class_path"], where="data.class_path")
    lightning_of(cls, base="LightningDataModule", where="data.class_path")
    name = data["batch_size_arg"]
    if not takes(cls, name):
        known = [parameter.name for parameter in named_parameters(cls)]
        raise ConfigError(
            f"`data.batch_size_arg` must be an argument of {cls.__name__}, but got {name!r}; it takes "
            f"{', '.join(f'`{n}`' for n in known)}.{nearest(name, known)}"
        )
    spec = {"class_path": data["class_path"], "init_args": data["init_args"]}
    return build(spec, where="data", **{name: batch_size})


def _resident(loaders: Any) -> Any:
    """Validation loaders with their batches collated once, where that changes nothing."""
    if isinstance(loaders, list | tuple):
        return [_resident(loader) for loader in loaders]
    if not is_ours(loaders) or type(loaders.sampler) is not SequentialSampler or in_memory(loaders) is None:
        return loaders
    return BatchList(list(loaders))


def own_hooks(datamodule: Any) -> dict[str, Any]:
    """The batch-transfer hooks that a datamodule has of its own, by name."""
    tree = lightning_of(type(datamodule), base="LightningDataModule", where="data.class_path")
    inherited = tree.LightningDataModule
    return {
        name: getattr(datamodule, name)
        for name in TRANSFER_HOOKS
        if getattr(type(datamodule), name) is not getattr(inherited, name)
    }
