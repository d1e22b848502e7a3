"""What a process or thread has only one of, put back after a training: no trial must change the results of the next."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import torch

from models.build import ConfigError, find_class
from models.config import TrainConfig
from models.user_code import class_paths


@contextmanager
def put_back(configs: Iterable[TrainConfig]) -> Iterator[None]:
    """Undo what the block does to the working folder, the environment, and torch's default type and gradient mode.

    What the user's files do when they are imported stays: it is the same for all trials of a process.
    """
    for path in class_paths([tree for config in configs for tree in (config.model, config.data)]):
        with suppress(ConfigError, SystemExit):  # Told by the training itself.
            find_class(path, where="class_path")
    folder, environment = os.getcwd(), dict(os.environ)
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        os.chdir(folder)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


@contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """In this thread, numbers too small for full precision (below 1.2e-38 in 32 bits) are zero.

    The momentum of a weight without gradient shrinks into them and stays there, and a processor takes a hundred times
    as long for each operation on one: half of the time of a training in which units have died. On some processors
    this cannot be set; there they stay what they are.
    """
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    before = not bool(tiny * 1.0 > 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
