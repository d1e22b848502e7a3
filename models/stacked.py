"""Optimizers of an array: torch's formulas over stacked parameters [N, ...], each member with settings of its own."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import optimizers
from models.config import TrainConfig

Setting = float | Tensor
"""One number for all members, or a tensor [N]: a plain number makes a step faster."""


class Product(NamedTuple):
    """A gradient that has not been multiplied out: of a linear layer, say, what went in and what came back."""

    left: Tensor
    """Shape [N, a, b]."""
    right: Tensor
    """Shape [N, b, c]."""
    swapped: bool
    """Whether the gradient is [N, c, a] instead of [N, a, c]."""

    def whole(self) -> Tensor:
        """The gradient."""
        return self.turned(torch.bmm(self.left, self.right))

    def turned(self, tensor: Tensor) -> Tensor:
        """A tensor of the gradient's shape in that of the product, or the other way round."""
        return tensor.transpose(1, 2) if self.swapped else tensor


Gradient = Tensor | Product | None
"""Of one stacked parameter; None where the step does not use it."""


def whole(gradients: Sequence[Gradient]) -> list[Tensor | None]:
    """Gradients multiplied out."""
    return [gradient.whole() if isinstance(gradient, Product) else gradient for gradient in gradients]


def stack(kind: str, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> StackedOptimizer:
    """The optimizer of an array, `kind` being one of `STACKED`, over parameters of shape [N, ...]."""
    return STACKED[kind](parameters, configs)


class StackedOptimizer(abc.ABC):
    """State and settings of N optimizers of one kind; what each does is torch's, up to rounding."""

    slots: tuple[str, ...] = ()
    """torch's names of the tensors that it keeps for each parameter."""
    counts_steps = True
    """Whether torch keeps the number of steps beside them."""

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> None:
        self.parameters = parameters
        self.settings = [{**optimizers.arguments(c.optimizer), **c.optimizer_args} for c in configs]
        self.weight_decay = self._setting([c.weight_decay for c in configs])
        self.state = [{slot: torch.zeros_like(p) for slot in self.slots} for p in parameters]
        self.steps: NDArray[np.float64] = np.zeros(len(configs))
        self.touched = [False] * len(parameters)

    def step(self, gradients: Sequence[Gradient], rates: NDArray[np.float64]) -> None:
        """One step of every member, at rates [N]. A parameter without gradient stays as it is, as in torch."""
        self.steps += 1
        rate = self.vector(rates)
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                self.touched[index] = True
                self.update_by(self.parameters[index], gradient, rate, **self.state[index])

    def update_by(self, parameter: Tensor, gradient: Tensor | Product, rate: Tensor, **state: Tensor) -> None:
        """`update`, of a gradient that may not have been multiplied out."""
        given = gradient.whole() if isinstance(gradient, Product) else gradient
        self.update(parameter, given, rate, **state)

    @abc.abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, rate: Tensor, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place."""

    def kept(self, member: int) -> tuple[str, ...]:
        """The slots that torch would have filled for this member."""
        return self.slots

    def dump(self, member: int) -> dict[int, dict[str, Tensor]]:
        """The state of one member, as torch's own optimizer would have it."""
        found: dict[int, dict[str, Tensor]] = {}
        for index, state in enumerate(self.state):
            if not self.touched[index] or not (kept := self.kept(member)):
                continue
            found[index] = {"step": torch.tensor(self.steps[member], dtype=torch.float32)} if self.counts_steps else {}
            found[index] |= {slot: state[slot][member].detach().clone().contiguous() for slot in kept}
        return found

    def load(self, member: int, saved: Mapping[int, Mapping[str, Any]]) -> None:
        """Go on from what torch's own optimizer had."""
        for index, state in saved.items():
            self.touched[index] = True
            self.steps[member] = float(state.get("step", 0.0))
            for slot in self.kept(member):
                self.state[index][slot][member].copy_(state[slot])

    def vector(self, values: Any) -> Tensor:
        """Numbers of the members as a tensor [N], of the parameters' type and on their device."""
        return torch.as_tensor(np.asarray(values, dtype=np.float64)).to(self.parameters[0])

    def named(self, name: str) -> Setting:
        """An argument of the optimizer."""
        return self._setting([settings[name] for settings in self.settings])

    def _setting(self, values: Sequence[float]) -> Setting:
        return float(values[0]) if len(set(values)) == 1 else self.vector(values)


class SGD(StackedOptimizer):
    """With momentum, Nesterov's too: that of Sutskever et al. 2013 in torch's form, the rate outside."""

    slots = ("momentum_buffer",)
    counts_steps = False

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> None:
        super().__init__(parameters, configs)
        self.momentum = self.named("momentum")
        self.nesterov = self.named("nesterov")
        nothing_else = all(isinstance(s, float) and not s for s in (self.nesterov, self.weight_decay))
        self.only_momentum = self.momentum if isinstance(self.momentum, float) and nothing_else else None

    def kept(self, member: int) -> tuple[str, ...]:
        """No buffer without momentum."""
        return self.slots if self.settings[member]["momentum"] else ()

    def update_by(self, parameter: Tensor, gradient: Tensor | Product, rate: Tensor, **state: Tensor) -> None:
        """Of a product, multiply and add to the momentum at once: the gradient itself is never in memory."""
        if isinstance(gradient, Tensor) or self.only_momentum is None:
            super().update_by(parameter, gradient, rate, **state)
            return
        buffer = gradient.turned(state["momentum_buffer"])
        torch.baddbmm(buffer, gradient.left, gradient.right, beta=self.only_momentum, out=buffer)
        parameter.addcmul_(state["momentum_buffer"], as_tensor(rate, parameter), value=-1)

    def update(self, parameter: Tensor, gradient: Tensor, rate: Tensor, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place."""
        gradient = decayed(gradient, parameter, self.weight_decay)
        buffer = state["momentum_buffer"]
        # In one pass. From a buffer of zeros the first step is the gradient, as in torch.
        if isinstance(self.momentum, float):
            torch.add(gradient, buffer, alpha=self.momentum, out=buffer)
        else:
            torch.addcmul(gradient, buffer, as_tensor(self.momentum, parameter), out=buffer)
        change = buffer
        if not isinstance(self.nesterov, float) or self.nesterov:
            ahead = torch.addcmul(gradient, buffer, as_tensor(self.momentum, parameter))
            # Chosen, not multiplied by 0 or 1: what is not a number in one form must not reach the other.
            change = torch.where(as_tensor(self.nesterov, parameter) > 0, ahead, buffer)
        parameter.addcmul_(change, as_tensor(rate, parameter), value=-1)


class Adam(StackedOptimizer):
    """Kingma & Ba 2015, weight decay being a term of the gradient."""

    slots = ("exp_avg", "exp_avg_sq")

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> None:
        super().__init__(parameters, configs)
        self.beta1, self.beta2, self.epsilon = (self.named(name) for name in ("beta1", "beta2", "epsilon"))
        self.betas = np.array([[float(s[name]) for s in self.settings] for name in ("beta1", "beta2")])

    def step(self, gradients: Sequence[Gradient], rates: NDArray[np.float64]) -> None:
        """One step of every member, at rates [N]."""
        # Both corrections go into one factor [N] of the rate and one of epsilon: fewer passes over the parameters.
        first, second = 1 - self.betas ** (self.steps + 1)
        self.rate = self.vector(rates)
        self.shrunk_epsilon = self.vector(np.sqrt(second)) * self.epsilon
        super().step(gradients, rates * np.sqrt(second) / first)

    def update(self, parameter: Tensor, gradient: Tensor, rate: Tensor, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place."""
        gradient = self.decay(parameter, gradient)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, as_tensor(1 - self.beta1, parameter))
        moving_square(square, gradient, self.beta2)
        change = mean / square.sqrt().add_(on(self.shrunk_epsilon, parameter))
        parameter.addcmul_(change, as_tensor(rate, parameter), value=-1)

    def decay(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """The gradient to go on with."""
        return decayed(gradient, parameter, self.weight_decay)


class AdamW(Adam):
    """Loshchilov & Hutter 2019: weights decay apart from the gradient, at the rate of the step."""

    def decay(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """The gradient as it is: the parameters have decayed."""
        if not isinstance(self.weight_decay, float) or self.weight_decay:
            parameter.mul_(on(1 - self.rate * self.weight_decay, parameter))
        return gradient


class RMSprop(StackedOptimizer):
    """Tieleman & Hinton 2012, in torch's form."""

    slots = ("square_avg", "momentum_buffer")

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> None:
        super().__init__(parameters, configs)
        self.alpha, self.momentum, self.epsilon = (self.named(name) for name in ("alpha", "momentum", "epsilon"))

    def kept(self, member: int) -> tuple[str, ...]:
        """No buffer without momentum."""
        return self.slots if self.settings[member]["momentum"] else self.slots[:1]

    def update(self, parameter: Tensor, gradient: Tensor, rate: Tensor, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place."""
        gradient = decayed(gradient, parameter, self.weight_decay)
        moving_square(state["square_avg"], gradient, self.alpha)
        change = gradient / state["square_avg"].sqrt().add_(on(self.epsilon, parameter))
        if not isinstance(self.momentum, float) or self.momentum:
            change = state["momentum_buffer"].mul_(on(self.momentum, parameter)).add_(change)
        parameter.addcmul_(change, as_tensor(rate, parameter), value=-1)


STACKED: Mapping[str, Callable[[Sequence[Tensor], Sequence[TrainConfig]], StackedOptimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}


def on(setting: Setting, parameter: Tensor) -> Setting:
    """A setting of the members in a shape that goes with a stacked parameter."""
    return setting if isinstance(setting, float) else setting.view(-1, *[1] * (parameter.ndim - 1))


def as_tensor(setting: Setting, parameter: Tensor) -> Tensor:
    """The same, where torch takes only tensors."""
    return torch.as_tensor(on(setting, parameter), dtype=parameter.dtype, device=parameter.device)


def decayed(gradient: Tensor, parameter: Tensor, decay: Setting) -> Tensor:
    """The gradient with the decay of the weights in it; never changed in place, since it may share its memory."""
    if isinstance(decay, float):
        return gradient.add(parameter, alpha=decay) if decay else gradient
    return torch.addcmul(gradient, parameter, as_tensor(decay, parameter))


def moving_square(square: Tensor, gradient: Tensor, kept: Setting) -> None:
    """Move a mean of squares on by one gradient, in place."""
    if isinstance(kept, float):
        square.mul_(kept).addcmul_(gradient, gradient, value=1 - kept)
    else:
        square.lerp_(gradient * gradient, as_tensor(1 - kept, square))


def clipped(gradients: Sequence[Tensor | None], norms: Tensor, limits: Tensor) -> list[Tensor | None]:
    """Gradients of norms [N] with norms of at most `limits` [N], infinite for members that do not clip (as torch)."""
    share = limits / (norms + 1e-6)
    # A gradient that is infinite stays what it is where nothing is clipped, instead of turning into nan.
    share = torch.where(torch.isinf(limits), torch.ones_like(share), share.clamp(max=1.0))
    return [None if g is None else g * on(share, g) for g in gradients]


def norms(gradients: Sequence[Tensor | None]) -> Tensor:
    """The norm of each member's gradient, [N]."""
    each = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients if g is not None]
    total: Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return total
