"""The noisy quadratic model in closed form: how many steps stochastic gradient descent takes, without any training.

The loss is 1/2 sum h_i w_i^2 with h_i = i^-power, a gradient of B examples has the noise covariance diag(h) / B, and
every weight starts with E w_i^2 = 1 (Zhang et al. 2019). All values are expectations: there is nothing random in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Array = NDArray[np.float64]

STABLE = 2.0
"""Rates from here on diverge: 2 over the largest curvature, which is 1."""
GOLDEN = (math.sqrt(5) - 1) / 2


def spectrum(dimensions: int, power: float = 1.0) -> Array:
    """Curvatures 1, 2^-power, 3^-power, ...: also the variances of the gradient of one example."""
    curvatures: Array = np.arange(1, dimensions + 1, dtype=np.float64) ** -power
    return curvatures


def steady_moment(curvatures: Array, rate: float, batch_size: float) -> Array:
    """E w_i^2 after endless training: lr c / (B h (2 - lr h)), with c = h."""
    moment: Array = rate / (batch_size * (2 - rate * curvatures))
    return moment


def sgd_moment(curvatures: Array, steps: float, rate: float, batch_size: float) -> Array:
    """E w_i^2 after so many steps at a constant rate: it shrinks by (1 - lr h)^2 a step towards the steady one."""
    steady = steady_moment(curvatures, rate, batch_size)
    left = np.abs(1 - rate * curvatures) ** (2 * steps)
    moment: Array = left + (1 - left) * steady
    return moment


def sgd_loss(curvatures: Array, steps: float, rate: float, batch_size: float) -> float:
    """Expected loss after so many steps."""
    return float(curvatures @ sgd_moment(curvatures, steps, rate, batch_size)) / 2


def arrival(curvatures: Array, rate: float, batch_size: float, target: float) -> float:
    """When the expected loss meets the target, in steps and fractions of them; inf: never."""
    if rate >= STABLE:
        return math.inf
    steady = steady_moment(curvatures, rate, batch_size)
    # The steady part of the loss once, the rest as one exponential per weight and step count.
    floor = float(curvatures @ steady) / 2
    if floor >= target:
        return math.inf
    shrinkage, above = 2 * np.log(np.abs(1 - rate * curvatures) + 1e-300), curvatures * (1 - steady) / 2

    def surplus(steps: float) -> float:
        return floor + float(above @ np.exp(shrinkage * steps)) - target

    if surplus(0) <= 0:
        return 0.0
    late = 1.0
    while surplus(late) > 0:
        late *= 2
    return float(brentq(surplus, late / 2 if late > 1 else 0.0, late, xtol=1e-6, rtol=1e-12))


def sgd_steps(curvatures: Array, rate: float, batch_size: float, target: float) -> float:
    """The first whole step at which the expected loss is at most the target; inf: never."""
    steps = arrival(curvatures, rate, batch_size, target)
    return math.ceil(steps) if math.isfinite(steps) else math.inf


def tuned(curvatures: Array, batch_size: float, target: float) -> tuple[float, float]:
    """The rate that takes the fewest steps, and those steps: a golden-section search over the logarithm."""
    low, high = math.log(1e-5), math.log(STABLE - 1e-3)

    def steps(log_rate: float) -> float:
        # Whole steps would be level around the best rate, and leave it open.
        return arrival(curvatures, math.exp(log_rate), batch_size, target)

    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = steps(left), steps(right)
    while high - low > 1e-4:
        # Rates that never arrive are always the higher ones: between two of them the search goes down.
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = steps(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = steps(right)
    rate = math.exp((low + high) / 2)
    return rate, sgd_steps(curvatures, rate, batch_size, target)


def sweep(curvatures: Array, batch_sizes: Sequence[float], target: float) -> tuple[Sequence[float], Sequence[float]]:
    """The best rate and the fewest steps of each batch size."""
    found = [tuned(curvatures, size, target) for size in batch_sizes]
    return [rate for rate, _ in found], [steps for _, steps in found]
