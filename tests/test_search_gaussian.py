"""A Gaussian process tells noise from a function, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from search import gaussian
from search.gaussian import fitted


def hill(points: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.sin(4 * points[:, 0]) + (points[:, 1] - 0.5) ** 2
    return found


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).random((60, 3))


def test_the_slopes_of_the_likelihood_are_those_of_its_values(points: np.ndarray) -> None:
    squares = np.square(points[:, None] - points[None])
    values, doubts = hill(points), np.full(len(points), 0.01)

    def unlikely(logs: np.ndarray) -> float:
        return gaussian._unlikely(logs, squares, values, doubts)[0]

    at = np.array([0.1, -2.0, 0.2, -0.3, 0.4])
    _, slopes = gaussian._unlikely(at, squares, values, doubts)
    assert slopes == pytest.approx(approx_fprime(at, unlikely, 1e-6), rel=1e-3, abs=1e-3)


def test_values_without_noise_are_left_as_they_are(points: np.ndarray) -> None:
    process = fitted(points, hill(points), doubts=np.zeros(len(points)))
    means, errors = process.at(points)
    assert means == pytest.approx(hill(points), abs=0.02)
    assert max(errors) < 0.05


def test_noise_is_found_and_smoothed_away(points: np.ndarray) -> None:
    noise = 0.2 * np.random.default_rng(1).standard_normal(len(points))
    process = fitted(points, hill(points) + noise, doubts=np.zeros(len(points)))
    means, errors = process.at(points)
    left = means - hill(points)
    assert math.sqrt(process.noise) * process.scale == pytest.approx(0.2, rel=0.4)
    assert np.sqrt(np.mean(left**2)) < 0.6 * np.sqrt(np.mean(noise**2))
    # As sure as it says: most errors within two standard errors, and some beyond one.
    assert np.mean(np.abs(left) < 2 * errors) > 0.85
    assert np.mean(np.abs(left) < errors) < 0.95


def test_what_is_doubted_counts_less(points: np.ndarray) -> None:
    values, doubts = hill(points), np.zeros(len(points))
    values[0] -= 2.0
    sure, _ = fitted(points, values, doubts=doubts).at(points[:1])
    doubts[0] = 4.0
    doubted, _ = fitted(points, values, doubts=doubts).at(points[:1])
    assert doubted[0] > sure[0] + 0.5
    assert doubted[0] == pytest.approx(hill(points[:1])[0], abs=0.5)


def test_far_from_everything_seen_it_is_unsure(points: np.ndarray) -> None:
    process = fitted(points[:, :1], hill(points), doubts=np.zeros(len(points)))
    _, errors = process.at(np.array([[0.5], [40.0]]))
    assert errors[1] > 3 * errors[0]
    assert errors[1] == pytest.approx(process.scale * math.sqrt(process.height), rel=0.01)


def test_values_that_are_all_the_same_are_no_trouble(points: np.ndarray) -> None:
    means, errors = fitted(points[:5], np.full(5, 0.3), doubts=np.zeros(5)).at(points[:5])
    assert means == pytest.approx(np.full(5, 0.3)) and np.isfinite(errors).all()
