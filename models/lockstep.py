"""The steps of an array: all members take each one together, every member with its own rate, record and end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from models import pulse, stacked
from models.fusion import Verdict
from models.gradients import Gradient, added, whole
from models.members import DTYPES, Member, batches_of_epoch
from models.nests import batch_examples, each
from models.places import solo_loops
from models.prepared import PreparedData
from models.recorded import Steps, worth
from models.sources import MemoryBatches
from models.streams import Streams
from models.subset import SEED, train_subset, why_not
from models.vmapped import Stack, Unfusable


@dataclass(slots=True)
class Course:
    """What changes from step to step: to set an attribute of a module takes as long as a small operation of torch's."""

    taken: int = 0
    """Steps."""
    stopping: bool = False
    gradients: list[Gradient] = field(default_factory=list)
    """Of the batches since the last step."""
    losses: list[Tensor] = field(default_factory=list)
    """[N] each, those that nobody has read."""
    examples: list[int] = field(default_factory=list)
    logged: dict[str, Tensor] = field(default_factory=dict)


class TrialArray(pl.LightningModule):
    """N trials as one module. Lightning leads it to its device and, in its precision, from epoch to epoch.

    A batch of Lightning's is a whole epoch here: its hooks around every step would cost a tenth of the time.
    """

    def __init__(
        self,
        members: Sequence[Member],
        data: PreparedData,
        *,
        verdict: Verdict,
        stop: Callable[[], bool],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.members = members
        self.data = data
        self.stop = stop
        self.config = config = members[0].config
        self.place = place = members[0].generator.device, DTYPES[config.precision]
        assert isinstance(data.source, MemoryBatches), "what trains side by side lies in memory"
        self.columns = resident(data.source.columns, *place)
        self.validation_batches = [resident(batch, *place) for batch in data.val_loaders.batches]
        self.streams = Streams([member.generator for member in members])
        self.stack = Stack([member.module for member in members], layouts=verdict.layouts)
        self.steps = Steps(
            self.stack,
            self.streams,
            parts=config.accumulate,
            code=verdict.code,
            often=worth(batches_of_sizes(members)),
        )
        self.optimizer = stacked.stack(config.optimizer, self.stack.trained, [m.config for m in members])
        for index, member in enumerate(members):
            self.optimizer.load(index, member.optimizer_state)
            del member.module, member.optimizer_state
        self.rates = rate_table(members)
        self.plateau = np.array([member.conductor.plateau_factor for member in members])
        limits = [member.config.gradient_clip for member in members]
        self.limits = self.optimizer.vector([np.inf if x is None else x for x in limits]) if any(limits) else None
        self.live = dict(enumerate(members))
        self.course = Course()
        self.first_end = self._first_end()

    def configure_optimizers(self) -> None:
        """None of Lightning's kind: the array steps by itself."""

    def on_train_start(self) -> None:
        """Every member's time runs from here."""
        self._start_clocks()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One epoch of all members, or what is left of it."""
        leader = next(iter(self.live.values()))
        count, size = leader.loader.batches_in(leader.epoch), leader.batch_size
        sizes = [min(size, leader.loader.examples - index * size) for index in range(leader.batches_done, count)]
        orders = [member.order()[member.batches_done * size :] for member in self.members]
        batches = batches_of_epoch(self.columns, orders, sizes)
        for index, gathered in enumerate(batches, start=leader.batches_done):
            self._take(gathered, index, examples=sizes[index - leader.batches_done])
            if (index + 1) % self.config.accumulate == 0 or index + 1 == count:
                self._step(index + 1, count)
            if not self.live:
                self.trainer.should_stop = True
                return
        for member in self.members:
            member.epoch, member.batches_done = member.epoch + 1, 0

    def _take(self, batch: Any, index: int, *, examples: int) -> None:
        """Forward and backward; the gradients of several batches may make one step."""
        pulse.beat()
        losses, self.course.logged, new = self.steps.take(batch, index)
        self.course.gradients = added(self.course.gradients, new) if self.course.gradients else new
        self.course.losses.append(self._loss(losses))
        self.course.examples.append(examples)

    def _loss(self, losses: Tensor) -> Tensor:
        name = self.config.train_loss
        if name is None:
            return losses
        if name not in self.course.logged:
            raise Unfusable(f"it logs no {name!r} in this training step")
        return self.course.logged[name]

    def _step(self, batches_done: int, count: int) -> None:
        """One optimizer step, and what follows from it."""
        rates = self.rates[self.course.taken] * self.plateau
        gradients, self.course.gradients = self.course.gradients, []
        due = [index for index, member in self.live.items() if member.conductor.is_point(member.step + 1)]
        with torch.no_grad():
            if due or self.limits is not None:
                gradients = self._measured(gradients, due)
            self.optimizer.step(gradients, rates)
        self.course.taken += 1
        for member in self.live.values():
            member.conductor.step += 1
        diverged = self._look(due, rates)
        self._part(batches_done, count, rates, diverged=diverged)

    def _measured(self, gradients: list[Gradient], due: Sequence[int]) -> list[Gradient]:
        """Take the norms of those that are evaluated, before clipping, and clip."""
        multiplied = whole(gradients)
        norms = stacked.norms(multiplied)
        for index, norm in enumerate(norms.tolist() if due else ()):
            if index in due:
                self.live[index].recorder.gradient_norm = norm
        return gradients if self.limits is None else [*stacked.clipped(multiplied, norms, self.limits)]

    def _look(self, due: Sequence[int], rates: NDArray[np.float64]) -> bool:
        """See whether somebody has diverged, and evaluate the others where it is time to."""
        looking = [member.conductor for member in self.live.values() if member.conductor.looks]
        if looking:
            self._read()
        for conductor in looking:
            conductor.look()
        due = [index for index in due if self.live[index].conductor.status != "DIVERGED"]
        if due:
            self._evaluate(due, rates)
        return bool(looking) and any(member.conductor.status == "DIVERGED" for member in self.live.values())

    def _evaluate(self, due: Sequence[int], rates: NDArray[np.float64]) -> None:
        """Validate, and tell those whose evaluation this is."""
        self._stop_clocks()
        evaluated = self._validate(self.validation_batches, self.streams)
        metrics = {name: values.tolist() for name, values in self.course.logged.items()} | evaluated
        for index in due:
            conductor = self.live[index].conductor
            conductor.evaluated({name: v[index] for name, v in metrics.items()}, rate=float(rates[index]))
            self.plateau[index] = conductor.plateau_factor
        self._start_clocks()

    def _validate(self, batches: Iterable[Any], streams: Streams) -> dict[str, list[float]]:
        """What every member logs in validation: means over its batches, weighted as Lightning does."""
        sums: dict[str, Any] = {}
        weights: dict[str, int] = {}
        with self.stack.evaluating():
            for index, batch in enumerate(batches):
                pulse.beat()
                logged, sizes = self.stack.validate(batch, index, streams)
                for name, values in logged.items():
                    weight = sizes[name] or batch_examples(batch)
                    sums[name] = sums.get(name, 0.0) + values * weight
                    weights[name] = weights.get(name, 0) + weight
        return {name: (total / weights[name]).tolist() for name, total in sums.items()}

    def _part(self, batches_done: int, count: int, rates: NDArray[np.float64], *, diverged: bool) -> None:
        """Let those go who are through: the others go on with the array, bitwise as if nobody had left."""
        left = count - batches_done
        conductors = [member.conductor for member in self.live.values()]
        self.course.stopping = self.course.stopping or self.stop() or any(c.out_of_time(left) for c in conductors)
        if not (self.course.stopping or diverged or self.course.taken >= self.first_end):
            return
        # Together, where all of them may: who pauses later would come to another place of the epoch.
        pausing = self.course.stopping and all(c.may_pause(left) for c in conductors if c.status != "DIVERGED")
        leaving = []
        for index, member in self.live.items():
            conductor = member.conductor
            if conductor.status == "DIVERGED" or member.step >= member.plan.total_steps:
                leaving.append(index)
            elif pausing or (conductor.is_over and conductor.may_pause(left)):
                conductor.pause(batches_done if left else 0)
                leaving.append(index)
        if leaving:
            self._leave(leaving, batches_done, bool(left), rates)

    def _leave(self, leaving: Sequence[int], batches_done: int, in_epoch: bool, rates: NDArray[np.float64]) -> None:
        """Write the checkpoints of those who go; who has diverged needs none."""
        self._read()
        self._stop_clocks()
        for index in leaving:
            member = self.live.pop(index)
            if member.conductor.status == "DIVERGED" or not member.segment.folder:
                continue
            loops = solo_loops(
                self.trainer, member.conductor, epoch=member.epoch, batches_done=batches_done, ended=not in_epoch
            )
            state = self.stack.state_of(index), self.optimizer.dump(index)
            member.save(*state, loops, float(rates[index]))
        self._validate_fit([index for index in leaving if self.members[index].conductor.status == "COMPLETE"])
        self.first_end = self._first_end()
        self._start_clocks()

    def _first_end(self) -> float:
        """After how many steps of the array somebody comes to the end of a segment."""
        return self.course.taken + min((m.conductor.end - m.step for m in self.live.values()), default=np.inf)

    def _validate_fit(self, through: Sequence[int]) -> None:
        """Validate on training examples too, for those who are through; the others never notice."""
        if not through:
            return
        conductors = {index: self.members[index].conductor for index in through}
        streams = Streams([Generator(self.place[0]).manual_seed(SEED) for _ in self.members])
        try:
            with self.stack.buffers_kept():
                found = self._validate((resident(batch, *self.place) for batch in train_subset(self.data)), streams)
        except Exception as error:  # As alone.
            for conductor in conductors.values():
                conductor.gap_reason = why_not(error)
            return
        for index, conductor in conductors.items():
            conductor.fit = {name: values[index] for name, values in found.items()}

    def _read(self) -> None:
        """Tell everyone the losses since the last time: reading them waits for the device."""
        rows = torch.stack(self.course.losses).tolist() if self.course.losses else []
        for index, member in self.live.items():
            member.recorder.take_read([row[index] for row in rows], self.course.examples)
        self.course.losses, self.course.examples = [], []

    def _start_clocks(self) -> None:
        for member in self.live.values():
            member.recorder.start_clock()

    def _stop_clocks(self) -> None:
        for member in self.live.values():
            member.recorder.stop_clock()


def rate_table(members: Sequence[Member]) -> NDArray[np.float64]:
    """The rates [steps, N] of the steps to come; who is through before the others keeps its last one."""
    rows = [member.conductor.rates[member.step :] for member in members]
    longest = max(map(len, rows))
    return np.array([row + row[-1:] * (longest - len(row)) for row in rows]).T.copy()


def batches_of_sizes(members: Sequence[Member]) -> Counter[int]:
    """How many batches of each size there are from the first of a training to the end of the longest segment.

    Not from where the segment begins: one that goes on after an interruption would else be taken for a short one.
    """
    member = max(members, key=lambda member: member.conductor.end)
    loader, counts = member.loader, Counter[int]()
    left = member.conductor.end * member.config.accumulate
    for epoch in range(len(member.plan.steps_of_epoch)):
        size = loader.batch_sizes[min(epoch, len(loader.batch_sizes) - 1)]
        whole = loader.examples // size
        rest = loader.batches_in(epoch) - whole
        for many, examples in ((whole, size), (rest, loader.examples - whole * size)):
            counts[examples] += min(many, left)
            left -= min(many, left)
    return counts


def resident(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A batch on the device, its floating numbers in the trial's precision as Lightning would turn them."""
    wide = dtype == torch.float64

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device, dtype) if wide and leaf.is_floating_point() else leaf.to(device)

    return each(batch, move)
