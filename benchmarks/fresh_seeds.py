"""What a configuration comes to on seeds that no search has seen: whoever chose it, trained by the same code."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytorch_lightning as pl
from peer_searches import Job, Told, train

Settings = Mapping[str, Any]
"""`batch_size`, `schedule`, `learning_rate`."""
FIRST = 1_000_003
"""The first of the seeds: no search is given one as large."""


def losses(settings: Settings, job: Job, *, seeds: int) -> list[float]:
    """The validation loss at the end of a whole training on each of so many seeds."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(job.workers, mp_context=spawned) as pool:
        return list(pool.map(functools.partial(loss, settings, job), range(FIRST, FIRST + seeds)))


def loss(settings: Settings, job: Job, seed: int) -> float:
    """The validation loss at the end of a whole training on one seed."""
    pl.seed_everything(seed, verbose=False)
    curve: list[Told] = []
    train(settings, job, curve.append)
    return curve[-1]["val_loss"]
