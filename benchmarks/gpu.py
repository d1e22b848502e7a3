"""One trial at a time against arrays of trials, eager and as CUDA graphs: seconds per step and member, on a GPU."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from digits_trials import check_trained, short_trials
from torch import Tensor

from models import schedules, stacked
from models.array import train_array
from models.comparison import close
from models.config import TrainConfig
from models.fusion import examine
from models.loaders import permutation
from models.lockstep import resident
from models.members import rows_of
from models.prepared import PreparedData, prepare
from models.segment import Segment, SegmentResult
from models.sources import MemoryBatches
from models.streams import Streams
from models.train import build_module, train_segment
from models.vmapped import Stack

# None with dropout: it draws from generators of the members' own, which a CUDA graph would not move on.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MLP 64-128-128-10": ({"class_path": "models.nets.MLP", "init_args": {}}, {"image": False}),
    "conv net, width 16": ({"class_path": "models.nets.ConvNet", "init_args": {"width": 16}}, {"image": True}),
    "ResNet-8, width 16": ({"class_path": "models.nets.ResNet", "init_args": {"width": 16}}, {"image": True}),
}
ALONE = 2
"""Trials that stand for all where each trains alone: they differ in nothing that takes time."""
WARM_UP = 3
"""Steps before a capture, in which libraries choose their kernels and take their working memory."""
CHECKED = 5
"""Steps after which a captured array must still be where the same array is without a graph."""
TOLERANCE = 1e-2
"""How far they may be from each other, relative to the largest number: a GPU's convolutions round to 10 bits."""

Columns = tuple[str, ...]
TIERS: Columns = ("one at a time", "array", "step, eager", "step, CUDA graph")


def trials(model: str, width: int, *, batch_size: int, steps: int, accelerator: str) -> list[TrainConfig]:
    """So many trials with rates, schedules and seeds of their own; every batch is a full one."""
    network, data = MODELS[model]
    made = short_trials(network, {**data, "drop_last": True}, width, batch_size=batch_size, accelerator=accelerator)
    return [dataclasses.replace(config, min_steps=steps) for config in made]


class ArrayStep:
    """One training step of an array on buffers that stay where they are, so that a CUDA graph can hold it.

    The same stack and optimizer as in `models.lockstep`, without Lightning, records and evaluations. Only SGD: its
    update takes nothing from the host but the rates, which lie in a buffer here.
    """

    def __init__(
        self, configs: Sequence[TrainConfig], *, layouts: Mapping[str, Sequence[int]], device: torch.device, steps: int
    ) -> None:
        assert {config.optimizer for config in configs} == {"sgd"}, "Adam's corrections are computed on the host"
        data = prepare(configs[0])
        assert isinstance(data.source, MemoryBatches), "what trains side by side lies in memory"
        self.columns = resident(data.source.columns, device, torch.float32)
        self.stack = Stack([build_module(config, data).to(device) for config in configs], layouts=layouts)
        self.optimizer = stacked.stack("sgd", self.stack.trained, configs)
        self.streams = Streams([])
        self.orders = order_table(configs, data, steps).to(device)
        self.rates = rate_table(configs, steps).to(self.stack.trained[0])
        self.rows, self.rate = self.orders[0].clone(), self.rates[0].clone()
        self.run: Callable[[], None] = self.compute

    def compute(self) -> None:
        """Forward, backward and update of all members, on what lies in the buffers; nothing waits for the device."""
        losses, _ = self.stack.train(rows_of(self.columns, self.rows), 0, self.streams)
        gradients = torch.autograd.grad(losses.sum(), self.stack.trained)
        with torch.no_grad():
            now = {**self.optimizer.constants, "rate": self.rate}
            for parameter, gradient, state in zip(self.stack.trained, gradients, self.optimizer.state, strict=True):
                # Not `step`, which brings the rates from the host.
                self.optimizer.update(parameter, gradient, now, **state)

    def take(self, steps: Sequence[int]) -> None:
        """Take these steps of the table: fill the buffers, on the device, and go."""
        for step in steps:
            row = step % len(self.orders)
            self.rows.copy_(self.orders[row])
            self.rate.copy_(self.rates[row])
            self.run()

    def capture(self) -> None:
        """Take the first `WARM_UP` steps, then keep the next ones as one graph that is launched as a whole."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.take(range(WARM_UP))
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        self.run = graph.replay


def order_table(configs: Sequence[TrainConfig], data: PreparedData, steps: int) -> Tensor:
    """The examples [steps, N, B] of every step, in each member's own order of each epoch."""
    size = configs[0].batch_size
    per_epoch = data.examples // size
    epochs = range(-(-steps // per_epoch))
    orders = [
        torch.cat([permutation(data.examples, config.seed_order, epoch)[: per_epoch * size] for epoch in epochs])
        for config in configs
    ]
    return torch.stack(orders, dim=1)[: steps * size].view(steps, size, len(configs)).transpose(1, 2).contiguous()


def rate_table(configs: Sequence[TrainConfig], steps: int) -> Tensor:
    """The rates [steps, N] of every step."""
    rows = [
        (config.learning_rate or 0.0) * schedules.factors(config.schedule, config.schedule_args, steps=steps)
        for config in configs
    ]
    return torch.from_numpy(np.stack(rows, axis=1))


def check_capture(captured: ArrayStep, eager: ArrayStep) -> None:
    """Take a few steps both ways; an array whose graph trains otherwise must not be timed."""
    captured.capture()
    captured.take(range(WARM_UP, WARM_UP + CHECKED))
    eager.take(range(WARM_UP + CHECKED))
    pairs = zip(eager.stack.names, captured.stack.tensors, eager.stack.tensors, strict=True)
    wrong = [name for name, found, tensor in pairs if not close(found.detach(), tensor.detach(), TOLERANCE)]
    assert not wrong, f"the graph trains {', '.join(wrong)} otherwise"


def step_seconds(results: Sequence[SegmentResult], tier: str) -> float:
    """Seconds of training for each step of each member; all must have come to their end in that tier."""
    check_trained(results, tier)
    return results[0].seconds / results[0].to_step / (len(results) if tier == "array" else 1)


def seconds_alone(configs: Sequence[TrainConfig]) -> float:
    """Seconds per step of trials that train alone, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        segments = [Segment(trial=index, config=config, folder=folder) for index, config in enumerate(configs[:ALONE])]
        return statistics.mean(step_seconds([train_segment(segment)], "solo") for segment in segments)


def seconds_together(configs: Sequence[TrainConfig]) -> float:
    """Seconds per step and member of the array that a search would train."""
    with tempfile.TemporaryDirectory() as folder:
        segments = [Segment(trial=index, config=config, folder=folder) for index, config in enumerate(configs)]
        return step_seconds(train_array(segments), "array")


def seconds_bare(array: ArrayStep, steps: int) -> float:
    """Seconds per step and member of the bare steps, from an idle device to an idle device."""
    array.take(range(WARM_UP))
    wait()
    started = time.perf_counter()
    array.take(range(steps))
    wait()
    return (time.perf_counter() - started) / steps / len(array.rate)


def wait() -> None:
    """Until the GPU, if it was used, has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def contenders(model: str, width: int, options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """What is timed for one line of the table, each ready to run again and again."""
    configs = trials(model, width, batch_size=options.batch_size, steps=options.steps, accelerator=options.accelerator)
    verdict = examine(configs)
    assert verdict.reason is None, verdict.reason
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")

    def bare() -> ArrayStep:
        return ArrayStep(configs, layouts=verdict.layouts, device=device, steps=options.steps)

    eager = bare()
    chosen: dict[str, Callable[[], float]] = {"one at a time": lambda: seconds_alone(configs)}
    if width > 1:  # Fewer are no array.
        chosen["array"] = lambda: seconds_together(configs)
    chosen["step, eager"] = lambda: seconds_bare(eager, options.steps)
    if options.graphs:
        captured = bare()
        check_capture(captured, eager)
        chosen["step, CUDA graph"] = lambda: seconds_bare(captured, options.steps)
    return chosen


def rows(options: argparse.Namespace) -> Iterator[str]:
    """A line for each model and width: medians, and how many times as fast as one at a time."""
    for model, width in itertools.product(options.models, options.widths):
        timed = contenders(model, width, options)
        for measure in timed.values():
            measure()  # Whatever is loaded and made ready once.
        # In turn: what else the machine does meets all of them alike.
        rounds = [{tier: measure() for tier, measure in timed.items()} for _ in range(options.repeats)]
        cells = [cell(tier, rounds) for tier in tiers(options)]
        yield f"| {model} | {width} | {' | '.join(cells)} |"


def cell(tier: str, rounds: Sequence[Mapping[str, float]]) -> str:
    """Microseconds in one tier and, against one trial at a time, the ratio with its range."""
    if tier not in rounds[0]:
        return ""
    microseconds = f"{statistics.median(seconds[tier] for seconds in rounds) * 1e6:.1f}"
    if tier == TIERS[0]:
        return microseconds
    ratios = sorted(seconds[TIERS[0]] / seconds[tier] for seconds in rounds)
    return f"{microseconds}, {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def tiers(options: argparse.Namespace) -> Columns:
    """The columns of the table."""
    return TIERS if options.graphs else TIERS[:-1]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The options; one sentence and exit code 2 where the machine lacks what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--widths", nargs="+", type=int, default=[1, 8, 32, 128], help="members of an array")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=440, help="steps of each training (default: ten epochs of digits)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median is printed (default: 3)")
    parser.add_argument("--accelerator", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument(
        "--graphs", action=argparse.BooleanOptionalAction, help="capture a step as a CUDA graph (default: on a GPU)"
    )
    options = parser.parse_args(given)
    on_gpu = options.accelerator == "gpu"
    if on_gpu and not torch.cuda.is_available():
        refuse(f"a CUDA GPU must be there, but torch {torch.__version__} sees none: try `--accelerator cpu`.")
    if options.graphs and not on_gpu:
        refuse("`--graphs` must go with `--accelerator gpu`: a processor has no CUDA graphs.")
    options.graphs = on_gpu if options.graphs is None else options.graphs
    return options


def refuse(sentence: str) -> None:
    """Say why not, and leave."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; nothing else should run meanwhile."""
    options = arguments(given)
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if options.accelerator == "gpu" else platform.machine()
    print(f"{name}, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}")
    print(f"Microseconds per step and member, batch size {options.batch_size}, medians of {options.repeats}.\n")
    print(f"| model | members | {' | '.join(tiers(options))} |")
    print("|" + "---|" * (2 + len(tiers(options))))
    for row in rows(options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
