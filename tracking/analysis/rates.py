"""The best learning rate of each batch size, and the rule by which it moves with the batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]
Edge = Literal["", "low", "high", "infeasible"]
FormName = Literal["power", "saturating", "surge"]

EDGE = 0.1
"""A best rate within this share of its range from a bound, in logarithms, lies at the edge."""
WINDOW = 1.0
"""How far above the best a trial may lie and still shape the parabola, in units of the log objective."""
LEAST_TRIALS = 4
"""Trials that a parabola needs to leave one residual."""
LEAST_OPTIMA = 3
"""Batch sizes that a line needs to leave one residual."""
DRAWS = 400
"""Bootstrap draws of the trials of a cell."""
REACH = 7.0
"""How far beyond the batch sizes the turning point of a saturating or surge law is sought, in logarithms."""
MORE_THAN_CHANCE = 2.0
"""By how much a lower AICc has to be lower before a bent law replaces the straight one."""
SIGN_LIKE = ("adam", "adamw", "rmsprop")
"""Optimizers whose step is the gradient over its own size: their best rate may fall again (Li et al. 2024)."""
RULES = {"linear": 1.0, "sqrt": 0.5, "constant": 0.0}
"""Exponents of the rules that scale a rate by a power of the batch size (Goyal et al. 2017; Malladi et al. 2022)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The best learning rate of a cell: the vertex of a parabola through its best trials, over the log of the rate."""

    learning_rate: float = math.nan
    """The vertex; the best trial's own rate where that lies at a bound (the optimum is there or beyond) or where rates
    just above diverge and nothing rises in between. NaN where `reason` says why."""
    low: float = math.nan
    high: float = math.nan
    """95 % interval by a bootstrap over the trials. Where `learning_rate` is a trial's own: the rates tried on both
    sides of it, 0 or infinite on the side of the bound."""
    edge: Edge = ""
    """`low`, `high`: the best trial lies at that bound. `infeasible`: the next higher rate tried diverged."""
    value: float = math.nan
    """The objective there, by the parabola; the trial's where the rate is a trial's own."""
    log_sd: float = math.nan
    """Standard deviation of the log of the rate over the bootstrap."""
    trials: int = 0
    """Trials that shaped the parabola."""
    reason: str | None = None


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
    dropped: int = 0
    """Optima left out: at a bound of their range, or not known."""
    reason: str | None = None

    def rate(self, batch_size: float) -> float:
        """The best rate at a batch size by the chosen law; NaN without one."""
        found = {"power": self.power, "saturating": self.saturating, "surge": self.surge, None: None}[self.chosen]
        return math.nan if found is None else found.rate(batch_size)


def edge_of(rate: float, *, bounds: tuple[float, float] | None, tried: Sequence[float], lost: Sequence[float]) -> Edge:
    """Where the best rate lies in its range: at a bound, right below a rate that diverged, or neither (empty)."""
    if bounds is not None and bounds[0] < bounds[1]:
        share = math.log(rate / bounds[0]) / math.log(bounds[1] / bounds[0])
        if share <= EDGE or share >= 1 - EDGE:
            return "low" if share <= EDGE else "high"
    above = min((other for other in (*tried, *lost) if other > rate), default=math.inf)
    return "infeasible" if above in lost else ""


def rate_optimum(
    rates: Sequence[float],
    values: Sequence[float],
    *,
    bounds: tuple[float, float] | None,
    infeasible_rates: Sequence[float] = (),
    seed: int = 0,
) -> Optimum:
    """The best rate of a cell, from the rate and the objective (smaller is better) of each of its feasible trials.

    Positive objectives (a loss, steps to the target) are compared by their logarithms. Others (a negated accuracy) have
    no such scale: there, the distance of the middle trial from the best takes the place of one unit. Trials whose
    objective is not finite are left out.
    """
    pairs = zip(rates, values, strict=True)
    tried = [(float(rate), float(value)) for rate, value in pairs if rate > 0 and math.isfinite(value)]
    if not tried:
        return Optimum(reason="needs at least 1 trial with a finite objective, but 0 have one")
    x = np.log([rate for rate, _ in tried])
    y, unscaled = _scaled([value for _, value in tried])
    best = int(np.argmin(y))
    edge = edge_of(tried[best][0], bounds=bounds, tried=[rate for rate, _ in tried], lost=infeasible_rates)
    near = y <= y[best] + WINDOW
    vertex, height, convex = _vertices(x, y, np.ones((1, len(x))))
    distinct = len(np.unique(x[near]))
    if edge in ("low", "high") or (edge == "infeasible" and (distinct < LEAST_TRIALS or not convex[0])):
        return _beside(tried[best], [*infeasible_rates, *(rate for rate, _ in tried)], edge, int(near.sum()))
    if distinct < LEAST_TRIALS:
        return Optimum(reason=f"needs at least {LEAST_TRIALS} rates about as good as the best one, but {distinct} are")
    if not convex[0]:
        return Optimum(reason=f"needs a best rate between worse ones, but the {distinct} best rates show none")
    draws = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), DRAWS).astype(np.float64)
    spread = _vertices(x, y, draws)[0]
    low, high = np.exp(np.quantile(spread, [0.025, 0.975]))
    return Optimum(
        learning_rate=math.exp(vertex[0]),
        low=float(low),
        high=float(high),
        edge=edge,
        value=unscaled(float(height[0])),
        log_sd=float(np.std(spread)),
        trials=int(near.sum()),
    )


def rate_law(batch_sizes: Sequence[float], optima: Sequence[Optimum], *, optimizer: str) -> RateLaw:
    """The exponent of the best rate over the batch size, and whether a bent law describes the optima better.

    Optima at a bound of their range are left out: they say where the range ends. Those below rates that diverge stay,
    since saturation at the stability limit is what the bent laws are about.
    """
    used = [
        (size, optimum)
        for size, optimum in zip(batch_sizes, optima, strict=True)
        if optimum.reason is None and optimum.edge not in ("low", "high")
    ]
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
        dropped=dropped,
    )


def reference_rate(
    rule: str, rate: float, *, batch: float, reference: float, noise_scale: float | None = None
) -> float:
    """The rate at `batch` examples by a rule from the rate at `reference`: a line to draw, never an answer.

    `saturating` is linear up to about the noise scale, which it needs, and constant beyond (McCandlish et al. 2018).
    """
    if rule == "saturating":
        if noise_scale is None:
            raise ValueError("`noise_scale` must be given with the rule `saturating`, but got None.")
        return rate * (1 + noise_scale / reference) / (1 + noise_scale / batch)
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join([*RULES, 'saturating'])}, but got {rule}.")
    return float(rate * (batch / reference) ** RULES[rule])


def _scaled(values: Sequence[float]) -> tuple[Array, Callable[[float], float]]:
    """The objectives on a scale on which one unit is a fair distance from the best, and the way back."""
    found = np.asarray(values, dtype=np.float64)
    if np.all(found > 0):
        return np.log(found), math.exp
    least = float(found.min())
    unit = float(np.median(found)) - least or 1.0
    return (found - least) / unit, lambda scaled: least + unit * scaled


def _vertices(x: Array, y: Array, counts: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Vertex, height and whether there is a minimum, of a parabola for each row of `counts` (how often a trial counts).

    Only the trials within the window of the row's best shape it. A vertex beyond them is their outermost rate; where
    the parabola has no minimum, the row's best trial stands in.
    """
    drawn = np.where(counts > 0, y, np.inf)
    best = np.argmin(drawn, axis=1)
    shaping = drawn <= (y[best] + WINDOW)[:, None]
    # Around the middle and in units of the spread, so that powers of x are of one size.
    middle, unit = float(x.mean()), float(np.ptp(x)) or 1.0
    z = (x - middle) / unit
    powers = np.stack([np.ones_like(z), z, z**2])
    weighted = powers[None] * (counts * shaping)[:, None]
    normal, right = weighted @ powers.T, weighted @ y
    level, slope, bend = np.moveaxis(np.linalg.pinv(normal, hermitian=True) @ right[:, :, None], 1, 0)[:, :, 0]
    convex = (bend > 1e-9) & (np.sum(shaping, axis=1) > 2)
    place = -slope / np.where(convex, 2 * bend, 1.0)
    lowest, highest = np.where(shaping, z, np.inf).min(axis=1), np.where(shaping, z, -np.inf).max(axis=1)
    place = np.where(convex, np.clip(place, lowest, highest), z[best])
    height = np.where(convex, level + slope * place + bend * place**2, y[best])
    return middle + unit * place, height, convex


def _beside(best: tuple[float, float], tried: Sequence[float], edge: Edge, near: int) -> Optimum:
    """The best trial's own rate: all that is known where it lies at a bound, or below a cliff."""
    rate, value = best
    low = 0.0 if edge == "low" else max((other for other in tried if other < rate), default=rate)
    high = math.inf if edge == "high" else min((other for other in tried if other > rate), default=rate)
    width = math.log(high / low) if low > 0 and high < math.inf else math.inf
    # An interval of 95 % is four standard deviations wide.
    return Optimum(
        learning_rate=rate,
        low=low,
        high=high,
        edge=edge,
        value=value,
        log_sd=width / 4,
        trials=near,
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
