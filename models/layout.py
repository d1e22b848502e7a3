"""What a production training covers: steps and data as the search had them, or training and validation set together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch.utils.data import ConcatDataset, DataLoader

from models import schedules
from models.build import ConfigError
from models.job import Job
from models.plan import Plan, evaluation_steps, steps_in_epoch
from models.prepared import PreparedData
from models.sources import batches_of, is_ours


def layout(job: Job, data: PreparedData, *, accumulate: int) -> Plan:
    """The plan of a job: on training and validation set together, the steps of the search in fewer epochs.

    Raises:
        ConfigError: if the batch grows with the epochs, which are then others.
    """
    if job.fit == "train":
        # Where the loader is ours, the steps are the search's, however many passes they take.
        return data.plan(job.config if data.source is not None else replace(job.config, accumulate=accumulate))
    if job.config.schedule == "batch_growth":
        raise ConfigError(
            "`--fit all` must have a fixed batch size, but `batch_growth` lets it grow. Use `--fit train`."
        )
    config, steps = job.config, job.steps
    first = steps_in_epoch(data.examples, config.batch_size, accumulate=config.accumulate, drop_last=data.drop_last)
    epochs = math.ceil(steps / first)
    return Plan(
        batch_sizes=[config.batch_size] * epochs,
        steps_of_epoch=[first] * epochs,
        total_steps=steps,
        evaluations=evaluation_steps(steps, config.evaluations),
        factors=schedules.factors(config.schedule, config.schedule_args, steps=steps, warmup=config.warmup),
    )


def joined(data: PreparedData) -> PreparedData:
    """Training and validation set as one training set, nothing left to validate on.

    Raises:
        ConfigError: if either lies behind a loader that cannot be rebuilt.
    """
    train, val = data.train_loader, data.datamodule.val_dataloader()
    val = val[0] if isinstance(val, list | tuple) and len(val) == 1 else val
    if data.source is None or not is_ours(val):
        raise ConfigError(
            "`--fit all` must have plain DataLoaders over map-style data sets for training and validation, "
            "but this datamodule has others. Use `--fit train`."
        )
    both: Any = ConcatDataset([train.dataset, val.dataset])
    loader: DataLoader[Any] = DataLoader(
        both,
        batch_size=train.batch_size,
        shuffle=data.shuffle,
        drop_last=data.drop_last,
        num_workers=train.num_workers,
        collate_fn=train.collate_fn,
        pin_memory=train.pin_memory,
        worker_init_fn=train.worker_init_fn,
    )
    return replace(data, source=batches_of(loader), train_loader=loader, val_loaders=None, examples=len(both))
