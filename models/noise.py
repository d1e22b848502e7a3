"""The gradient noise scale of a training: the batch size at which noise and gradient are equally long.

B_simple = tr(Sigma) / |G|^2, where G is the gradient on the whole training set and Sigma the covariance of those of
single examples (McCandlish et al. 2018). From E|g_n|^2 = |G|^2 + tr(Sigma)/n at two sizes n, both follow unbiased.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import checkpoint, rng
from models.config import TrainConfig
from models.frozen import Frozen, Refused, derived, told, trainer_for_hooks
from models.prepared import PreparedData, prepare
from models.seeds import derive
from models.segment import Segment
from models.train import train_segment

WINDOWS = (0.0, 0.25, 0.5, 1.0)
"""Shares of the steps at which the weights are probed: the scale grows tenfold and more within one training."""
PROBES = 100
"""Probes in a window, and the fewest: with 10, the ratio comes out between 22 % too low and 34 % too high."""
MICRO_BATCHES = 8
"""Gradients in a probe."""
MICRO_BATCH = 32
"""Examples in each of them, or the training's own batch where that is smaller: what fits there, fits here."""
BLOCKS = 20
"""Blocks of the jackknife."""
STUDENT = 2.093
"""Student's t for 95 % with `BLOCKS` - 1 degrees of freedom."""

Numbers = NDArray[np.float64]


def unbiased(small: Numbers, big: Numbers, *, b: int, k: int) -> tuple[Numbers, Numbers]:
    """Estimates of |G|^2 and tr(Sigma), each of them unbiased; of single probes they may be negative.

    Args:
        small: sums over k micro-batches of |g_b|^2, shape [probes].
        big: |g_B|^2 of the mean of those gradients, B = k b, shape [probes].
    """
    mean = small / k
    return (k * big - mean) / (k - 1), b * k * (mean - big) / (k - 1)


def finite_factor(batch_size: int, examples: int) -> float:
    """What sampling without replacement leaves of a batch's gradient noise tr(Sigma)/n: 1 - n/N.

    Exactly (N-n)/(N-1), with Sigma as measured here, whose sums are divided by N.
    """
    return (examples - batch_size) / (examples - 1) if examples > 1 else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale:
    """What the probes of one window say together."""

    probes: int
    squared_gradient: float
    """Mean estimate of |G|^2; where the noise drowns it, it may be negative, and is left so."""
    trace: float
    """Mean estimate of tr(Sigma)."""
    noise_scale: float | None
    """Examples: the ratio of both means. None: not resolved."""
    low: float | None
    """Lower end of the 95 % interval; where not resolved, a lower bound (None: not even that)."""
    high: float | None
    """Upper end; None: there is none."""
    resolved: bool
    """Whether |G|^2 stands out from its own error, so that the ratio has an upper end."""
    reason: str | None
    """Why not resolved."""


def estimate(squares: Numbers, traces: Numbers) -> NoiseScale:
    """The ratio of averages over all probes (never the average of ratios), with a jackknife over blocks of them.

    Args:
        squares: estimates of |G|^2, shape [probes].
        traces: estimates of tr(Sigma), shape [probes].
    """
    square, trace = float(squares.mean()), float(traces.mean())
    found: dict[str, Any] = {"probes": len(squares), "squared_gradient": square, "trace": trace}
    margin = STUDENT * jackknife_error(without_block(squares))
    if square <= margin:
        return NoiseScale(**found, noise_scale=None, high=None, resolved=False, **_bounded(square, margin, trace))
    if trace <= 0.0:
        return NoiseScale(**found, noise_scale=0.0, low=0.0, high=0.0, resolved=True, reason=None)
    scale = trace / square
    # Of the logarithm, since a ratio's error is a factor. All of these are positive: no block outweighs the others.
    logs = np.log(np.maximum(without_block(traces), np.finfo(float).tiny) / without_block(squares))
    factor = math.exp(min(STUDENT * jackknife_error(logs), 700.0))
    low, high = scale / factor, scale * factor
    return NoiseScale(**found, noise_scale=scale, low=low, high=high, resolved=True, reason=None)


def _bounded(square: float, margin: float, trace: float) -> dict[str, Any]:
    most = square + margin
    low = trace / most if most > 0.0 and math.isfinite(trace / most) else None
    bound = "not resolved" if low is None else f"above {low:.4g}, not resolved"
    found = f"mean squared gradient {square:.3g} +- {margin:.3g}"
    return {"low": low, "reason": f"noise scale {bound}: its noise hides the gradient ({found}). Take more probes."}


def without_block(values: Numbers) -> Numbers:
    """Means of the values without one of `BLOCKS` blocks, shape [BLOCKS]."""
    sums, counts = np.array([(part.sum(), len(part)) for part in np.array_split(values, BLOCKS)]).T
    kept: Numbers = (values.sum() - sums) / (len(values) - counts)
    return kept


def jackknife_error(left_out: Numbers) -> float:
    """Standard error of an estimate, from its values without each block."""
    return float(math.sqrt((BLOCKS - 1) * left_out.var()))


def noise_scale(values: Mapping[str, Any]) -> dict[str, Any]:
    """Train one configuration (best a well-tuned one), and probe its weights on the way; the training is not changed.

    Args:
        values: `config`, a TrainConfig as JSON; optional `windows` (shares of the steps), `probes` in each of them (at
            least 100), `micro_batches` in each probe, `micro_batch`, examples in each of those.

    Returns:
        `windows`, each a `NoiseScale` with `progress`, `step` and `examples`; the training's `batch_size`,
        `learning_rate`, `optimizer` and `schedule`; `micro_batch`, `micro_batches`; `training_examples` and
        `finite_factor`, the share of the noise that the training's own batches have without replacement (the probes
        draw with it); `batch_norm`, what it stood on; `seconds`; `reason` why windows are missing, or None.
    """
    config = TrainConfig.from_json(values["config"])
    started, before = time.perf_counter(), rng.capture()
    windows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    reason = None
    try:
        probe = _Probe(config, values)
        facts = probe.facts()
        with tempfile.TemporaryDirectory() as folder:
            for stop in stops(config, probe.data, shares=values.get("windows", WINDOWS), folder=folder):
                windows.append(probe.window(stop))
    except Exception as error:  # A user's code may raise anything: what has been measured before it still holds.
        reason = told(error)
    finally:
        rng.restore(before)
    names = ("batch_size", "learning_rate", "optimizer", "schedule")
    chosen = {name: getattr(config, name) for name in names}
    return {"windows": windows, **chosen, **facts, "seconds": time.perf_counter() - started, "reason": reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """A place of a training at which its weights are looked at."""

    progress: float
    step: int
    examples: int
    """Examples that the training has processed until there."""
    state: Mapping[str, Tensor] | None
    """The module's state; None: as it was built."""


def stops(config: TrainConfig, data: PreparedData, *, shares: Sequence[float], folder: str) -> Iterator[Stop]:
    """Train from one share of the steps to the next; at the end, the weights are those of a training in one go.

    A foreign loader lets a training pause between epochs only: its stops come that much later. What falls on the same
    step comes once.

    Raises:
        Refused: if the training ends before its time.
    """
    total = data.plan(config).total_steps
    segment, examples, state = Segment(trial=0, config=config, folder=folder), 0, None
    last = -1
    for goal in sorted({round(share * total) for share in shares}):
        if goal > segment.from_step:
            result = train_segment(segment, stop=after_steps(goal - segment.from_step))
            if result.checkpoint is None:
                reason = result.reason.partition("\n")[0]
                raise Refused(f"its training ended at step {result.to_step} of {total} as {result.status}: {reason}")
            state = checkpoint.read(result.checkpoint, result.sha256)["state_dict"]
            if segment.checkpoint is not None:
                Path(segment.checkpoint).unlink()
            examples += result.examples
            segment = dataclasses.replace(
                segment, from_step=result.to_step, checkpoint=result.checkpoint, sha256=result.sha256
            )
        if segment.from_step > last:
            last = segment.from_step
            yield Stop(progress=last / total, step=last, examples=examples, state=state)


def after_steps(count: int) -> Callable[[], bool]:
    """False until it has been asked so many times: a training asks after every step."""
    asked = 0

    def over() -> bool:
        nonlocal asked
        asked += 1
        return asked >= count

    return over


class _Probe:
    """Draws micro-batches, and measures their gradients."""

    def __init__(self, config: TrainConfig, settings: Mapping[str, Any]) -> None:
        self.config = config
        self.data = prepare(config)
        self.frozen = Frozen(config, self.data)
        self.normed = sum(map(keeps_statistics, self.frozen.module.modules()))
        for part in self.frozen.module.modules():
            if keeps_statistics(part):
                part.eval()
        self.b = int(settings.get("micro_batch") or min(MICRO_BATCH, config.batch_size // config.accumulate))
        self.k = int(settings.get("micro_batches", MICRO_BATCHES))
        self.probes = int(settings.get("probes", PROBES))
        for name, value, least in (("probes", self.probes, PROBES), ("micro_batches", self.k, 2)):
            if value < least:
                raise Refused(f"`{name}` must be at least {least}, but got {value}.")

    def facts(self) -> dict[str, Any]:
        """What the result says beside the windows."""
        return {
            "micro_batch": self.b,
            "micro_batches": self.k,
            "training_examples": self.data.examples,
            "finite_factor": finite_factor(self.config.batch_size, self.data.examples),
            "batch_norm": "evaluation statistics" if self.normed else None,
        }

    def window(self, stop: Stop) -> dict[str, Any]:
        """All probes at one place of the training; what is drawn depends on the step alone."""
        if stop.state is not None:
            self.frozen.load(stop.state)
        seed = derive(self.config.seed_order, "noise", stop.step)
        rng.seed_everything(seed)  # Dropout draws from here.
        generator = torch.Generator().manual_seed(seed)
        small, big = [], []
        with trainer_for_hooks(self.config, self.data, training=True), self.frozen.buffers_kept():
            for part in np.array_split(np.arange(self.probes), BLOCKS):
                # With replacement: unbiased for the whole training set, however small it is, and with dropout too.
                drawn = torch.randint(self.data.examples, (len(part) * self.k, self.b), generator=generator)
                for one, together in self._squares(drawn, derive(seed, int(part[0]))):
                    small.append(one)
                    big.append(together)
        squares = torch.stack([torch.stack(small), torch.stack(big)]).cpu().numpy()
        if not np.isfinite(squares).all():
            raise Refused(f"a gradient at step {stop.step} is not finite")
        found = estimate(*unbiased(squares[0], squares[1], b=self.b, k=self.k))
        place = {"progress": stop.progress, "step": stop.step, "examples": stop.examples}
        return {**place, **dataclasses.asdict(found)}

    def _squares(self, drawn: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each probe, the sum of the micro-batches' |g_b|^2, and |g_B|^2 of their mean."""
        singles: list[Tensor] = []
        total: list[Tensor] = []
        for batch in self.frozen.batches(list(drawn), seed=seed):
            gradients = derived(self.frozen.loss(batch), self.frozen.parameters)
            singles.append(squared(gradients))
            total = [a + b for a, b in zip(total, gradients, strict=True)] if total else gradients
            if len(singles) == self.k:
                yield torch.stack(singles).sum(), squared(total) / self.k**2
                singles, total = [], []


def squared(tensors: Sequence[Tensor]) -> Tensor:
    """The squared norm of all of them together, in 64 bits: small differences of these are what is measured."""
    return torch.stack([torch.linalg.vector_norm(t, dtype=torch.float64) for t in tensors]).square().sum()


def keeps_statistics(part: Any) -> bool:
    """Whether a layer normalizes by statistics of its batch in training, and by kept ones in evaluation."""
    return getattr(part, "running_mean", None) is not None
