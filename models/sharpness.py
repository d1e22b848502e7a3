"""How sharp a minimum is: diagnostics of one finished training.

Sharpness is no evidence of generalization: rescaling a network changes it and not what it computes (Dinh et al. 2017),
and it follows the learning rate more than the generalization (Andriushchenko et al. 2023).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import checkpoint, rng
from models.config import TrainConfig
from models.frozen import Frozen, derived, told, trainer_for_hooks
from models.loaders import permutation
from models.prepared import prepare
from models.seeds import derive
from models.vmapped import plain_attention

RHO = 0.05
"""Length of the step uphill (Foret et al. 2021)."""
SIGMA = 0.05
"""Deviation of the random steps, relative to each weight."""
DRAWS = 10
"""Random steps."""
LARGEST = 2048
"""Training examples that the sharpness is measured on, at most."""
CHUNK = 256
"""Examples in one forward pass, or the training's own batch where that is larger."""
RESULTS = ("loss", "ascent", "average", "lambda_max")
"""What is None where it could not be measured."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A loss as a function of weights, which are moved in place."""

    parameters: Sequence[Tensor]
    parts: Callable[[], Iterator[tuple[float, Tensor]]]
    """Computes the loss at the present weights in parts: of each, its share of all examples and its own loss."""

    def value(self) -> float:
        """The loss here."""
        with torch.no_grad():
            return sum(share * float(loss) for share, loss in self.parts())

    def gradient(self) -> list[Tensor]:
        """Its gradient here."""
        return self._summed(lambda loss: derived(loss, self.parameters))

    def curvature_along(self, direction: Sequence[Tensor]) -> list[Tensor]:
        """The Hessian here, times a direction."""

        def product(loss: Tensor) -> list[Tensor]:
            slopes = derived(loss, self.parameters, create_graph=True)
            slope = torch.stack([(a * b).sum() for a, b in zip(slopes, direction, strict=True)]).sum()
            # Of a loss that is linear in all weights, the slope depends on none.
            return derived(slope, self.parameters) if slope.requires_grad else [torch.zeros_like(s) for s in slopes]

        return self._summed(product)

    @contextmanager
    def moved(self, steps: Sequence[Tensor]) -> Iterator[None]:
        """The weights that far away, afterwards exactly where they were."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, step in zip(self.parameters, steps, strict=True):
                parameter.add_(step)
            try:
                yield
            finally:
                for parameter, old in zip(self.parameters, before, strict=True):
                    parameter.copy_(old)

    def _summed(self, of_part: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        for share, loss in self.parts():
            total = [sum_ + share * new for sum_, new in zip(total, of_part(loss), strict=True)]
        return total


def ascent_sharpness(surface: Surface, *, rho: float = RHO) -> float:
    """How much the loss rises over a step of length rho along its gradient g: L(w + rho g/|g|) - L(w).

    Of a quadratic, rho |g| + rho^2/2 g'Hg/|g|^2.
    """
    gradient = surface.gradient()
    length = norm(gradient)
    if length == 0.0:
        return 0.0
    here = surface.value()
    with surface.moved([rho / length * part for part in gradient]):
        return surface.value() - here


def average_sharpness(surface: Surface, generator: Generator, *, sigma: float = SIGMA, draws: int = DRAWS) -> float:
    """How much the loss rises on average if every weight w_j moves by sigma |w_j| z_j, z standard normal.

    Every draw is used with both signs, so that the gradient, whose mean effect is zero, adds no error.
    """
    here, risen = surface.value(), 0.0
    for _ in range(draws):
        steps = [sigma * p.detach().abs() * like(p, generator) for p in surface.parameters]
        for sign in (1.0, -1.0):
            with surface.moved([sign * step for step in steps]):
                risen += (surface.value() - here) / (2 * draws)
    return risen


def largest_curvature(surface: Surface, generator: Generator, *, iterations: int) -> float:
    """The eigenvalue of the Hessian that is largest in size, by power iteration.

    Gradient descent without momentum is at the edge of stability where the learning rate times this is 2.
    """
    direction = unit([like(p, generator) for p in surface.parameters])
    value = 0.0
    for _ in range(iterations):
        image = surface.curvature_along(direction)
        value = float(torch.stack([(a * b).sum() for a, b in zip(direction, image, strict=True)]).sum())
        if norm(image) == 0.0:
            return 0.0
        direction = unit(image)
    return value


def norm(tensors: Sequence[Tensor]) -> float:
    """The length of all of them together."""
    return float(torch.nn.utils.get_total_norm(tensors))


def unit(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same direction, of length 1."""
    length = norm(tensors)
    return [part / length for part in tensors]


def like(parameter: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers in the shape of a parameter; the same ones on every device."""
    numbers = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return numbers.to(parameter.device, parameter.dtype)


def diagnose(values: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the sharpness of a finished training.

    All trainings on the same data are measured on the same examples.

    Args:
        values: `config`, a TrainConfig as JSON; `checkpoint` and its `sha256`; optional `power_iterations` (20 are
            plenty; 0, the default: no `lambda_max`), `rho`, `sigma`, `draws`, `examples` at most.

    Returns:
        `loss`, of the training step in evaluation mode on `examples` of the training set; there, `ascent` and `average`
        sharpness and `lambda_max` or None, with `rho`, `sigma`, `draws` and `power_iterations`. `batch_size`,
        `learning_rate`, `seconds`; `reason` why numbers are missing, or None.
    """
    config = TrainConfig.from_json(values["config"])
    started, before = time.perf_counter(), rng.capture()
    defaults = {"rho": RHO, "sigma": SIGMA, "draws": DRAWS, "power_iterations": 0, "examples": LARGEST}
    settings: dict[str, Any] = {name: values.get(name, default) for name, default in defaults.items()}
    found: dict[str, Any] = {**dict.fromkeys(RESULTS), **settings, "reason": None}
    try:
        finished = _Finished(config, values["checkpoint"], values.get("sha256"), most=settings["examples"])
        found["examples"] = finished.examples
        # Fused attention has no second derivative; the plain one from the start keeps all losses comparable.
        with trainer_for_hooks(config, finished.data, training=False), plain_attention(), sdpa_kernel(SDPBackend.MATH):
            for name, measure in finished.measures(settings).items():
                found[name] = measure()
    except Exception as error:  # A user's code may raise anything.
        found["reason"] = told(error)
    finally:
        rng.restore(before)
    chosen = {"batch_size": config.batch_size, "learning_rate": config.learning_rate}
    return {**found, **chosen, "seconds": time.perf_counter() - started}


class _Finished:
    """A finished training's module in evaluation mode."""

    def __init__(self, config: TrainConfig, path: str, sha256: str | None, *, most: int) -> None:
        self.data = prepare(config)
        self.frozen = Frozen(config, self.data)
        self.frozen.load(checkpoint.read(path, sha256)["state_dict"])
        self.frozen.module.eval()
        self.chunk = max(CHUNK, config.batch_size // config.accumulate)
        # The same for every trial: the seed names no trial.
        self.order = permutation(self.data.examples, derive("sharpness"), 0)
        self.examples = min(most, self.data.examples)

    def measures(self, settings: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
        """What to measure, the most robust first: a module may have no gradient in evaluation mode, or no Hessian."""
        surface = self.surface()
        ways, starts = (torch.Generator().manual_seed(derive("sharpness", name)) for name in ("average", "power"))
        rho, sigma, draws, iterations = (settings[n] for n in ("rho", "sigma", "draws", "power_iterations"))
        found: dict[str, Callable[[], Any]] = {
            "loss": surface.value,
            "average": lambda: average_sharpness(surface, ways, sigma=sigma, draws=draws),
            "ascent": lambda: ascent_sharpness(surface, rho=rho),
        }
        if iterations:
            found["lambda_max"] = lambda: largest_curvature(surface, starts, iterations=iterations)
        return found

    def surface(self) -> Surface:
        """The loss on the first examples of the fixed order, in chunks."""
        indices = list(self.order[: self.examples].split(self.chunk))

        def parts() -> Iterator[tuple[float, Tensor]]:
            # What items draw at random, and what a step draws, is the same wherever the weights stand.
            rng.seed_everything(derive("sharpness", "drawn"))
            with self.frozen.buffers_kept():
                batches = self.frozen.batches(indices, seed=derive("sharpness", "items"))
                for index, batch in zip(indices, batches, strict=True):
                    yield len(index) / self.examples, self.frozen.loss(batch)

        return Surface(parameters=self.frozen.parameters, parts=parts)
