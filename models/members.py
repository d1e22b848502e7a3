"""The members of an array: each a trial of its own, with its plan, record, random stream and ordinary checkpoints."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from models import checkpoint, rng
from models.conductor import STATE_KEY, Conductor
from models.loaders import OrderedLoader, permutation
from models.nests import each
from models.places import place
from models.prepared import PreparedData
from models.recorder import Recorder
from models.segment import Segment, SegmentResult
from models.train import build_module, build_optimizer

DTYPES = {"32-true": torch.float32, "64-true": torch.float64}
"""The precisions in which trials train side by side."""


class Member:
    """One trial of an array: what its solo training would know of itself, but for the tensors, which are stacked."""

    def __init__(self, segment: Segment, data: PreparedData, device: torch.device) -> None:
        """Lay out the trial, and put everything where its checkpoint left it."""
        self.segment = segment
        self.config = config = segment.config
        self.plan = plan = data.plan(config)
        loader = data.loader(config, plan)
        assert isinstance(loader, OrderedLoader), "what trains side by side lies in memory"
        self.recorder = Recorder(
            config, examples_per_epoch=data.examples, warmup_steps=round(config.warmup * plan.total_steps)
        )
        self.conductor = Conductor(segment, plan, loader, self.recorder)
        self.loader = loader
        loader.current_epoch = lambda: self.epoch
        self.shuffle = data.shuffle
        self.live = True
        self.module = build_module(config, data).to(device)
        self.groups = build_optimizer(config, self.module).state_dict()["param_groups"]
        self.random = rng.capture()
        self.optimizer_state: dict[int, Any] = {}
        if segment.checkpoint is not None:
            self._load(checkpoint.read(segment.checkpoint, segment.sha256))
        self.epoch, self.batches_done = place(plan, segment.from_step, config.accumulate)
        self.generator = self._generator(device)

    def _load(self, saved: dict[str, Any]) -> None:
        self.module.load_state_dict(saved["state_dict"])
        self.conductor.load_state_dict(saved["callbacks"][STATE_KEY])
        assert self.conductor.random is not None, "a checkpoint holds the random state"
        self.random = self.conductor.random
        self.optimizer_state = saved["optimizer_states"][0]["state"]

    def _generator(self, device: torch.device) -> Generator:
        generator = Generator(device)
        if device.type == "cpu":
            generator.set_state(self.random["torch"])
        elif self.segment.checkpoint is not None and "cuda" in self.random:
            generator.set_state(self.random["cuda"])
        else:
            generator.manual_seed(self.config.seed_dropout)
        return generator

    @property
    def batch_size(self) -> int:
        """Examples in a batch of the present epoch."""
        return self.loader.batch_sizes[min(self.epoch, len(self.loader.batch_sizes) - 1)]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.conductor.step

    def order(self) -> Tensor:
        """The order of the present epoch, as alone."""
        count = self.loader.examples
        return permutation(count, self.config.seed_order, self.epoch) if self.shuffle else torch.arange(count)

    def random_state(self) -> dict[str, Any]:
        """What a solo training would find in the generators of its process."""
        key = "torch" if self.generator.device.type == "cpu" else "cuda"
        return {**self.random, key: self.generator.get_state()}

    def save(self, tensors: dict[str, Tensor], optimizer: dict[int, Any], loops: dict[str, Any], rate: float) -> None:
        """Write what `train_segment` resumes from: Lightning's own form, as if the trial had trained alone."""
        groups = [{**group, "lr": rate} for group in self.groups]
        callbacks = {STATE_KEY: {**self.conductor.state_dict(), "random": self.random_state()}}
        state = {
            **loops,
            "state_dict": tensors,
            "callbacks": callbacks,
            "optimizer_states": [{"state": optimizer, "param_groups": groups}],
            "lr_schedulers": [],
        }
        self.conductor.checkpoint = self.conductor.path()
        self.conductor.sha256 = checkpoint.write(state, self.conductor.checkpoint)

    def result(self, *, width: int, started: float, wall_seconds: float) -> SegmentResult:
        """What this segment came to; its seconds are those of the whole array."""
        conductor, recorder = self.conductor, self.recorder
        return SegmentResult(
            trial=self.segment.trial,
            from_step=self.segment.from_step,
            to_step=conductor.step,
            total_steps=self.plan.total_steps,
            status=conductor.status,
            reason=conductor.reason,
            curve=recorder.curve,
            checkpoint=conductor.checkpoint,
            sha256=conductor.sha256,
            started=started,
            seconds=recorder.segment_seconds,
            wall_seconds=wall_seconds,
            examples=recorder.segment_examples,
            fit=conductor.fit,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            tags={"tier": "array", "width": str(width), "order": "own", "time_mode": "array", **conductor.tags},
        )


def batches_of_epoch(columns: Any, orders: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[Any]:
    """The batches of one epoch in every member's own order: contiguous leaves [N, size, ...].

    Args:
        columns: the data set, leaves [n, ...].
        orders: of each member, the examples to come.
        sizes: of the batches to come, together at most the examples.
    """
    table = torch.stack([order[: sum(sizes)] for order in orders])
    # One by one: the members share the data set, which stays in the cache; all their batches together would not.
    yield from (rows_of(columns, indices) for indices in table.split(list(sizes), dim=1))


def rows_of(columns: Any, table: Tensor) -> Any:
    """The examples of a table of indices [N, B]: leaves [N, B, ...]."""
    rows = table.reshape(-1)
    return each(
        columns,
        lambda column: column.index_select(0, rows.to(column.device)).view(*table.shape, *column.shape[1:]),
    )
