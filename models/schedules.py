"""Learning-rate schedules: pure functions from the steps already taken to a factor on the peak rate.

`t` holds optimizer steps already taken, 0 to total - 1, and `total` counts those of the whole training; the factor
returned, of the same shape, is the one used *for* step t. Every share is one of the whole training, warm-up included.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.domains import TRUTH, Domain, interval, mistakes_of_arguments, optional, unknown_name, whole
from models.plateau import Plateau

Steps = NDArray[np.int64] | NDArray[np.float64]
Factors = NDArray[np.float64]
Schedule = Callable[..., Factors]


def constant(t: Steps, total: int) -> Factors:
    """1 throughout."""
    return np.ones(t.shape)


def step(t: Steps, total: int, *, every: float = 0.3, drop: float = 0.1) -> Factors:
    """Times `drop` after each `every`, a share of the training (torch's StepLR)."""
    return _powers(drop, t // step_at(every, total))


def multistep(t: Steps, total: int, *, milestones: Sequence[float] = (0.5, 0.75), drop: float = 0.1) -> Factors:
    """Times `drop` at each milestone, a share of the training (torch's MultiStepLR)."""
    return _powers(drop, np.searchsorted([step_at(share, total) for share in milestones], t, side="right"))


def exponential(
    t: Steps,
    total: int,
    *,
    final: float = 0.01,
    rate: float | None = None,
    decay_steps: int | None = None,
    staircase: bool = False,
) -> Factors:
    """`final` at the end of training; or, in steps, times `rate` every `decay_steps`, in jumps with `staircase`."""
    if rate is None or decay_steps is None:
        return final ** (t / total)
    return _powers(rate, t // decay_steps) if staircase else rate ** (t / decay_steps)


def polynomial(t: Steps, total: int, *, power: float = 2.0, final: float = 0.0) -> Factors:
    """From 1 to `final` as a power of the share that remains (torch's PolynomialLR)."""
    return final + (1 - final) * (1 - t / total) ** power


def linear(t: Steps, total: int, *, final: float = 0.0, decay: float = 1.0) -> Factors:
    """A line from 1 to `final` over the first `decay` of training, then `final` (Shallue et al. 2019)."""
    return final + (1 - final) * np.maximum(0.0, 1 - t / span(decay, total))


def cosine(t: Steps, total: int, *, final: float = 0.0) -> Factors:
    """Half a cosine from 1 to `final` (Loshchilov & Hutter 2017, without restarts)."""
    return final + (1 - final) * _half_cosine(t / total)


def cosine_restarts(t: Steps, total: int, *, cycles: int = 3, growth: int = 2, final: float = 0.0) -> Factors:
    """Half cosines that start again at 1, each `growth` times as long as the one before (Loshchilov & Hutter 2017)."""
    ends = [0, *accumulate(growth**cycle for cycle in range(cycles))]
    # Rounded up in integers: a cycle starts on a step, and the last one ends with the training.
    starts = np.array([-(-total * end // ends[-1]) for end in ends])
    cycle = np.searchsorted(starts, t, side="right") - 1
    return final + (1 - final) * _half_cosine((t - starts[cycle]) / (starts[cycle + 1] - starts[cycle]))


def onecycle(t: Steps, total: int, *, rise: float = 0.3, start_div: float = 25.0, final_div: float = 1e4) -> Factors:
    """Half cosines from 1 / start_div to 1 to 1 / (start_div x final_div): torch's OneCycleLR, momentum not cycled."""
    top = rise * total - 1  # as in torch; unless it is whole, the peak lies between two steps
    at = t.astype(np.float64)
    rising = _between(1 / start_div, 1.0, at / (top if top > 0 else 1.0))
    falling = _between(1.0, 1 / (start_div * final_div), (at - top) / (total - 1 - top))
    return np.where((at <= top) & (top > 0), rising, falling)


def inverse_sqrt(t: Steps, total: int, *, k: float = 100.0) -> Factors:
    """1 / sqrt(1 + k u), u the share of training done: Vaswani et al. 2017, made to scale with the training."""
    return 1 / np.sqrt(1 + k * (t / total))


def wsd(
    t: Steps, total: int, *, decay: float = 0.2, final: float = 0.0, shape: Literal["linear", "1-sqrt"] = "linear"
) -> Factors:
    """Constant, then down to `final` over the last `decay` of training (Hu et al. 2024; Hägele et al. 2024)."""
    # Counted back from the end: a rounding error of 1e-16 where the decay starts would be 1e-8 under the root.
    left = np.minimum(1.0, (total - t) / span(decay, total))
    return final + (1 - final) * (left if shape == "linear" else 1 - np.sqrt(1 - left))


def plateau(t: Steps, total: int, **settings: Any) -> Factors:
    """1 throughout, which is all that is known beforehand: `Plateau` lowers it while training runs."""
    Plateau(**settings)  # an unknown argument fails here, as it does in every other schedule
    return constant(t, total)


def batch_growth(
    t: Steps, total: int, *, milestones: Sequence[float] = (0.3, 0.6, 0.8), factor: float = 2.0
) -> Factors:
    """1 throughout: the batch grows instead (`growth_plan`).

    Smith et al. 2018 grow by 5 where a wide ResNet would lower its rate, at 60, 120 and 160 of 200 epochs; 2 outgrows a
    small training set less soon.
    """
    return constant(t, total)


def growth_plan(args: Mapping[str, Any], *, epochs: int, batch_size: int, train_size: int) -> list[int]:
    """The batch size of each epoch under `batch_growth`: times `factor` at each milestone, at most the training set."""
    settings = {**arguments("batch_growth"), **args}
    sizes = [float(min(batch_size, train_size))]
    for _ in settings["milestones"]:
        sizes.append(min(sizes[-1] * settings["factor"], float(train_size)))
    starts = [step_at(share, epochs) for share in settings["milestones"]]
    return [round(sizes[grown]) for grown in np.searchsorted(starts, np.arange(epochs), side="right")]


SCHEDULES: Mapping[str, Schedule] = {
    "constant": constant,
    "step": step,
    "multistep": multistep,
    "exponential": exponential,
    "polynomial": polynomial,
    "linear": linear,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "onecycle": onecycle,
    "inverse_sqrt": inverse_sqrt,
    "wsd": wsd,
    "plateau": plateau,
    "batch_growth": batch_growth,
}


def factors(name: str, args: Mapping[str, Any], *, steps: int, warmup: float = 0.0) -> Factors:
    """The factor of every step, shape [steps]: the schedule, times a line up to 1 over the first `warmup` of the steps.

    The schedule does not wait for the warm-up: its milestones stay at their shares of the whole training.
    """
    assert steps >= 1, f"a training has at least 1 step, but got {steps}"
    t = np.arange(steps)
    rise = max(1, round(warmup * steps))
    return SCHEDULES[name](t, steps, **args) * np.minimum(1.0, (t + 1) / rise)


def arguments(name: str) -> Mapping[str, Any]:
    """The arguments of a schedule and their defaults."""
    owner = Plateau if name == "plateau" else SCHEDULES[name]
    found = inspect.signature(owner).parameters.values()
    return {argument.name: argument.default for argument in found if argument.default is not argument.empty}


_SHARE, _FINAL, _DROP = interval("(0, 1)"), interval("[0, 1]"), interval("(0, 1]")
_SHAPE = Domain("linear or 1-sqrt", lambda value: value in ("linear", "1-sqrt"))


def _are_milestones(value: object) -> bool:
    if not isinstance(value, list | tuple) or not all(_SHARE.accepts(share) for share in value):
        return False
    return len(value) > 0 and list(value) == sorted(set(value))


_MILESTONES = Domain("increasing numbers in (0, 1), such as [0.5, 0.75]", _are_milestones)

_DOMAINS: Mapping[str, Mapping[str, Domain]] = {
    "constant": {},
    "step": {"every": _SHARE, "drop": _DROP},
    "multistep": {"milestones": _MILESTONES, "drop": _DROP},
    "exponential": {"final": _DROP, "rate": optional(_DROP), "decay_steps": optional(whole(1)), "staircase": TRUTH},
    "polynomial": {"power": interval("(0, inf)"), "final": _FINAL},
    "linear": {"final": _FINAL, "decay": _DROP},
    "cosine": {"final": _FINAL},
    "cosine_restarts": {"cycles": whole(1, 100), "growth": whole(1, 10), "final": _FINAL},
    "onecycle": {"rise": _SHARE, "start_div": interval("[1, inf)"), "final_div": interval("[1, inf)")},
    "inverse_sqrt": {"k": interval("(0, inf)")},
    "wsd": {"decay": _DROP, "final": _FINAL, "shape": _SHAPE},
    "plateau": {
        "factor": _SHARE,
        "patience": whole(0),
        "threshold": interval("[0, 1)"),
        "cooldown": whole(0),
        "lowest": interval("[0, 1)"),
    },
    "batch_growth": {"milestones": _MILESTONES, "factor": interval("(1, inf)")},
}


def mistakes(name: str, args: Mapping[str, Any], *, where: str) -> Iterator[str]:
    """Yield one sentence for every rule broken by a schedule and its arguments as written, found at `where`."""
    if name not in SCHEDULES:
        yield unknown_name(name, SCHEDULES, where=where)
        return
    yield from mistakes_of_arguments(args, _DOMAINS[name], where=where)
    if name == "exponential":
        yield from _mistakes_of_exponential(args, where=where)


def _mistakes_of_exponential(args: Mapping[str, Any], *, where: str) -> Iterator[str]:
    in_steps = [name for name in ("rate", "decay_steps") if args.get(name) is not None]
    if len(in_steps) == 1:
        yield f"`{where}.rate` and `{where}.decay_steps` must be set together, but only `{in_steps[0]}` is."
    if in_steps and "final" in args:
        yield f"`{where}.final` must be left out with `rate` and `decay_steps`: they say where the rate ends."
    if not in_steps and args.get("staircase") is True:
        yield f"`{where}.staircase` must be left out without `rate` and `decay_steps`: there are no stairs."


def step_at(share: float, total: int) -> int:
    """The first step at or past a share of the training. 0.55 of 100 is 55, where the product of floats is above it."""
    return math.ceil(_exact(share) * total)


def span(share: float, total: int) -> float:
    """A share of the training in steps, whole or not."""
    return float(_exact(share) * total)


def _exact(share: float) -> Fraction:
    """The decimal that was written, not the binary number nearest to it."""
    return Fraction(str(share))


def _powers(base: float, exponents: NDArray[Any]) -> Factors:
    """base ** exponents, whole ones. By Python's power: numpy's may differ in the last bit between machines."""
    table: Factors = np.array([base**exponent for exponent in range(int(exponents.max(initial=0)) + 1)])
    return table[exponents.astype(np.int64)]


def _half_cosine(share: Factors) -> Factors:
    return 0.5 * (1 + np.cos(np.pi * share))


def _between(start: float, end: float, share: Factors) -> Factors:
    return end + (start - end) * _half_cosine(share)
