"""How the best learning rate moves with the batch size: its exponent, and whether a bent law describes it better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from tracking.analysis.rates import Array, Optimum

FormName = Literal["power", "saturating", "surge"]

LEAST_OPTIMA = 3
"""Batch sizes that a line needs to leave one residual."""
REACH = 7.0
"""How far beyond the batch sizes the turning point of a saturating or surge law is sought, in logarithms."""
MORE_THAN_CHANCE = 2.0
"""By how much a lower AICc has to be lower before a bent law replaces the straight one."""
SIGN_LIKE = ("adam", "adamw", "rmsprop")
"""Optimizers whose step is the gradient over its own size: their best rate may fall again (Li et al. 2024)."""
RULES = {"linear": 1.0, "sqrt": 0.5, "constant": 0.0}
"""Exponents of the rules that scale a rate by a power of the batch size (Goyal et al. 2017; Malladi et al. 2022)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A law of the best rate over the batch size B, in logarithms; which one, `name` says.

    power: scale B^exponent. saturating: scale / (1 + turn / B)^exponent (McCandlish et al. 2018). surge: scale over
    (sqrt(turn / B) + sqrt(B / turn)) / 2, which rises, then falls (Li et al. 2024).
    """

    name: FormName
    scale: float
    exponent: float
    turn: float
    """Batch size at which the law bends; NaN for the power law."""
    residual: float
    """Weighted root mean square of the residuals of the log of the rate."""
    aicc: float
    """Akaike's criterion, corrected for few points; infinite where there are too few to compare."""

    def rate(self, batch_size: float) -> float:
        """The best learning rate at a batch size."""
        return float(
            self.scale * math.exp(self.exponent * float(_shape(self.name, self.turn, np.array([batch_size]))[0]))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLaw:
    """How the best rate moves with the batch size."""

    exponent: float = math.nan
    """Slope of the straight line through log rate over log batch size."""
    low: float = math.nan
    high: float = math.nan
    """95 % t-interval of the exponent."""
    contains: tuple[str, ...] = ()
    """The rules (`linear`, `sqrt`, `constant`) whose exponents lie within it."""
    power: Form | None = None
    saturating: Form | None = None
    surge: Form | None = None
    """None where the optimizer has no such law, or where there are too few batch sizes."""
    chosen: FormName | None = None
    """The law that describes the optima best; the straight one unless another's AICc is clearly lower."""
    residual_trend: Literal["", "bends down", "bends up"] = ""
    """Whether the residuals of the straight line have a curvature that is more than chance; then its slope is none."""
    points: int = 0
    middle: float = math.nan
    """Mean of the log of their batch sizes."""
    dropped: int = 0
    """Optima left out: at a bound of their range, or not known."""
    reason: str | None = None

    def rate(self, batch_size: float) -> float:
        """The best rate at a batch size by the chosen law; NaN without one."""
        found = {"power": self.power, "saturating": self.saturating, "surge": self.surge, None: None}[self.chosen]
        return math.nan if found is None else found.rate(batch_size)

    def factor(self, batch_size: float) -> float:
        """By what factor a best rate may lie off the chosen law at a batch size, at 95 %: its prediction interval.

        The scatter around the chosen law, and the doubt of the straight line's slope times the way from the middle.
        """
        found = {"power": self.power, "saturating": self.saturating, "surge": self.surge, None: None}[self.chosen]
        if found is None:
            return math.nan
        freedom = self.points - 2
        scatter = found.residual * math.sqrt(self.points / freedom) * math.sqrt(1 + 1 / self.points)
        tilt = (self.high - self.low) / 2 * (math.log(batch_size) - self.middle)
        # Beyond e^50 there is nothing to search.
        return math.exp(min(math.hypot(float(stats.t.ppf(0.975, freedom)) * scatter, tilt), 50.0))


def rate_law(batch_sizes: Sequence[float], optima: Sequence[Optimum], *, optimizer: str) -> RateLaw:
    """The exponent of the best rate over the batch size, and whether a bent law describes the optima better.

    Optima at a bound of their range are left out: they say where the range ends. Those below rates that diverge stay,
    since saturation at the stability limit is what the bent laws are about.
    """
    known = [pair for pair in zip(batch_sizes, optima, strict=True) if pair[1].reason is None]
    used = [(size, optimum) for size, optimum in known if optimum.edge not in ("low", "high")]
    dropped, distinct = len(optima) - len(used), len({size for size, _ in used})
    if distinct < LEAST_OPTIMA:
        reason = f"needs at least {LEAST_OPTIMA} batch sizes whose best rate lies within its range, but {distinct} do"
        return RateLaw(points=len(used), dropped=dropped, reason=reason)
    sizes = np.array([size for size, _ in used], dtype=np.float64)
    y = np.log([optimum.learning_rate for _, optimum in used])
    weights = _weights([optimum.log_sd for _, optimum in used])
    exponent, low, high = _slope(np.log(sizes), y, weights)
    power = _fit("power", (-math.inf, math.inf), sizes, y, weights)
    saturating = _fit("saturating", (1.0, 1.0) if optimizer == "sgd" else (0.5, 1.0), sizes, y, weights)
    surge = _fit("surge", (1.0, 1.0), sizes, y, weights) if optimizer in SIGN_LIKE else None
    return RateLaw(
        exponent=exponent,
        low=low,
        high=high,
        contains=tuple(name for name, value in RULES.items() if low <= value <= high),
        power=power,
        saturating=saturating,
        surge=surge,
        chosen=_chosen(power, [form for form in (saturating, surge) if form is not None]),
        residual_trend=_trend(np.log(sizes), y, weights),
        points=len(used),
        middle=float(np.mean(np.log(sizes))),
        dropped=dropped,
    )


def _weights(deviations: Sequence[float]) -> Array:
    """One over the variance; equal where none is known. No deviation counts as less than half the middle one.

    The bootstrap of a dozen trials is itself noisy: without the floor one lucky cell would draw the line alone.
    """
    found = np.asarray(deviations, dtype=np.float64)
    middle = float(np.median(found))
    if not math.isfinite(middle) or middle <= 0:
        return np.ones_like(found)
    weights: Array = 1 / np.maximum(found, middle / 2) ** 2
    return weights


def _slope(x: Array, y: Array, weights: Array) -> tuple[float, float, float]:
    """Slope of a weighted line and its 95 % t-interval, the scatter taken from the residuals."""
    slope, error, freedom = _last_coefficient(x, y, weights, degree=1)
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return slope, slope - reach, slope + reach


def _trend(x: Array, y: Array, weights: Array) -> Literal["", "bends down", "bends up"]:
    if len(np.unique(x)) <= LEAST_OPTIMA:
        return ""
    bend, error, freedom = _last_coefficient(x, y, weights, degree=2)
    # Beside an exact line there is nothing but rounding to judge a bend by.
    if abs(bend) <= max(1e-9, float(stats.t.ppf(0.975, freedom)) * error):
        return ""
    return "bends down" if bend < 0 else "bends up"


def _last_coefficient(x: Array, y: Array, weights: Array, *, degree: int) -> tuple[float, float, int]:
    """The highest coefficient of a weighted polynomial, its standard error, and the degrees of freedom."""
    powers = np.vander(x - x.mean(), degree + 1) * np.sqrt(weights)[:, None]
    target = y * np.sqrt(weights)
    coefficients = np.linalg.lstsq(powers, target)[0]
    freedom = len(x) - degree - 1
    variance = float(np.sum((target - powers @ coefficients) ** 2)) / freedom
    return float(coefficients[0]), math.sqrt(variance * float(np.linalg.inv(powers.T @ powers)[0, 0])), freedom


def _shape(name: FormName, turn: float, sizes: Array) -> Array:
    """Log of the law with exponent and scale 1."""
    shape: Array = np.log(sizes)
    if name == "saturating":
        shape = -np.log1p(turn / sizes)
    elif name == "surge":
        shape = -np.log((np.sqrt(turn / sizes) + np.sqrt(sizes / turn)) / 2)
    return shape


def _straight(shape: Array, y: Array, weights: Array, exponents: tuple[float, float]) -> tuple[float, float, float]:
    """Level, exponent within its limits, and weighted mean square residual of y = level + exponent * shape."""
    share = weights / weights.sum()
    away = shape - share @ shape
    spread = float(share @ away**2)
    slope = float(share @ (away * y)) / spread if spread > 0 else 0.0
    exponent = min(max(slope, exponents[0]), exponents[1])
    level = float(share @ (y - exponent * shape))
    return level, exponent, float(share @ (y - level - exponent * shape) ** 2)


def _fit(name: FormName, exponents: tuple[float, float], sizes: Array, y: Array, weights: Array) -> Form:
    """Weighted least squares in logarithms: for a given turning point a line, so that only the turn is searched."""

    def error(log_turn: float) -> float:
        return _straight(_shape(name, math.exp(log_turn), sizes), y, weights, exponents)[2]

    log_turn = math.nan
    if name != "power":
        grid = np.linspace(math.log(sizes.min()) - REACH, math.log(sizes.max()) + REACH, 200)
        middle = float(grid[int(np.argmin([error(place) for place in grid]))])
        stride = float(grid[1] - grid[0])
        limits = (middle - stride, middle + stride)
        log_turn = float(optimize.minimize_scalar(error, bounds=limits, method="bounded", options={"xatol": 1e-9}).x)
    turn = math.exp(log_turn)
    level, exponent, square = _straight(_shape(name, turn, sizes), y, weights, exponents)
    fitted = 2 + (name != "power" and exponents[0] < exponents[1])
    aicc = _aicc(square, points=len(sizes), parameters=fitted + 1)
    return Form(name=name, scale=math.exp(level), exponent=exponent, turn=turn, residual=math.sqrt(square), aicc=aicc)


def _aicc(square: float, *, points: int, parameters: int) -> float:
    """Akaike's criterion with the correction of Hurvich & Tsai 1989; the noise counts as a parameter."""
    spare = points - parameters - 1
    if spare < 1:
        return math.inf
    # Below 1e-10 of the rate a residual is rounding, and no law is better for having less of it.
    return points * math.log(max(square, 1e-20)) + 2 * parameters + 2 * parameters * (parameters + 1) / spare


def _chosen(power: Form, others: Sequence[Form]) -> FormName:
    best = min(others, key=lambda form: form.aicc)
    return best.name if best.aicc < power.aicc - MORE_THAN_CHANCE else "power"
