"""A Gaussian process: what a function is where it was seen once, with noise (Rasmussen and Williams 2006, ch. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Array = np.ndarray

CENTRES = {"length": np.log(0.7), "height": 0.0, "noise": np.log(0.1)}
SPREADS = {"length": 1.0, "height": 1.0, "noise": 1.5}
"""What is taken of the logarithms of lengths (in the unit cube) and variances (of values with variance 1) beforehand:
normal with these. With a handful of points the likelihood alone would take noise for a function, or a function for
noise."""
STEPS = 60
"""Of the optimizer, at most: what it finds later changes no prediction that matters."""
JITTER = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """A fitted process: Matern 3/2, a length for each coordinate, one variance of noise besides those known."""

    points: Array
    """(n, d), about the unit cube."""
    lengths: Array
    height: float
    noise: float
    """The variance that two looks at one point differ by, of values with variance 1."""
    middle: float
    scale: float
    factor: tuple[Array, bool]
    weights: Array

    def at(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard error of the function itself, without noise, at (m, d) points."""
        between = self.height * _matern(_distances(points, self.points, self.lengths))
        mean = self.middle + self.scale * (between @ self.weights)
        known = np.einsum("mn,nm->m", between, cho_solve(self.factor, between.T))
        return mean, self.scale * np.sqrt(np.maximum(self.height - known, 0.0))


def fitted(points: Array, values: Array, *, doubts: Array) -> Process:
    """The process that values at points are most likely from, after what is taken of it beforehand.

    Args:
        points: (n, d), about the unit cube.
        values: (n,), noisy.
        doubts: (n,), variances of the values that are known, besides the noise that is found.
    """
    middle = float(np.median(values))
    scale = float(np.std(values)) or 1.0
    seen, known = (values - middle) / scale, doubts / scale**2
    squares = np.square(points[:, None, :] - points[None, :, :])
    centres = np.array([CENTRES["height"], CENTRES["noise"], *[CENTRES["length"]] * points.shape[1]])
    spreads = np.array([SPREADS["height"], SPREADS["noise"], *[SPREADS["length"]] * points.shape[1]])

    def unlikely(logs: Array) -> tuple[float, Array]:
        away = (logs - centres) / spreads
        value, slopes = _unlikely(logs, squares, seen, known)
        return value + 0.5 * float(away @ away), slopes + away / spreads

    bounds = [(centre - 4 * spread, centre + 4 * spread) for centre, spread in zip(centres, spreads, strict=True)]
    found = minimize(unlikely, centres, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}).x
    height, noise, lengths = float(np.exp(found[0])), float(np.exp(found[1])), np.exp(found[2:])
    covariance = height * _matern(_distances(points, points, lengths))
    factor = cho_factor(covariance + np.diag(noise + known + JITTER), lower=True)
    return Process(points, lengths, height, noise, middle, scale, factor, cho_solve(factor, seen))


def _unlikely(logs: Array, squares: Array, seen: Array, known: Array) -> tuple[float, Array]:
    """Minus the logarithm of the likelihood (ibid., 5.8), and its slopes (5.9)."""
    height, noise, lengths = np.exp(logs[0]), np.exp(logs[1]), np.exp(logs[2:])
    scaled = squares / lengths**2
    distances = np.sqrt(scaled.sum(axis=2))
    alike = height * _matern(distances)
    factor = cho_factor(alike + np.diag(noise + known + JITTER), lower=True)
    weights = cho_solve(factor, seen)
    inverse = cho_solve(factor, np.eye(len(seen)))
    value = 0.5 * seen @ weights + np.log(np.diag(factor[0])).sum()
    pull = inverse - np.outer(weights, weights)
    # d alike / d log length: 3 height exp(-sqrt(3) r) squared distance along it.
    steep = pull * (3.0 * height * np.exp(-np.sqrt(3.0) * distances))
    slopes = [np.sum(pull * alike), noise * np.trace(pull), *np.einsum("ij,ijd->d", steep, scaled)]
    return float(value), 0.5 * np.array(slopes)


def _distances(some: Array, others: Array, lengths: Array) -> Array:
    found: Array = np.sqrt(np.square((some[:, None, :] - others[None, :, :]) / lengths).sum(axis=2))
    return found


def _matern(distances: Array) -> Array:
    scaled = np.sqrt(3.0) * distances
    found: Array = (1.0 + scaled) * np.exp(-scaled)
    return found
