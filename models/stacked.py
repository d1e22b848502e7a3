"""Optimizers of an array: torch's formulas over stacked parameters [N, ...], each member with settings of its own."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import optimizers
from models.config import TrainConfig
from models.gradients import Gradient, Product, kind_of
from models.scripted import Function
from models.updates import Now, Setting, Update


def stack(kind: str, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> StackedOptimizer:
    """The optimizer of an array, `kind` being one of `STACKED`, over parameters of shape [N, ...]."""
    return STACKED[kind](parameters, configs)


class StackedOptimizer(abc.ABC):
    """State and settings of N optimizers of one kind; what each does is torch's, up to rounding."""

    slots: tuple[str, ...] = ()
    """torch's names of the tensors that it keeps for each parameter."""
    arguments: tuple[str, ...] = ()
    """torch's names of the settings that its formula uses, beside the decay of the weights."""
    counts_steps = True
    """Whether torch keeps the number of steps beside them."""

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> None:
        self.parameters = parameters
        self.settings = [{**optimizers.arguments(c.optimizer), **c.optimizer_args} for c in configs]
        self.constants = {"weight_decay": self._setting([c.weight_decay for c in configs])}
        self.constants |= {name: self._setting([own[name] for own in self.settings]) for name in self.arguments}
        self.state = [{slot: torch.zeros_like(p) for slot in self.slots} for p in parameters]
        self.steps: NDArray[np.float64] = np.zeros(len(configs))
        self.touched = [False] * len(parameters)
        self._programs: dict[tuple[str, ...], Function | None] = {}

    def step(self, gradients: Sequence[Gradient], rates: NDArray[np.float64]) -> None:
        """One step of every member, at rates [N]. A parameter without gradient stays as it is, as in torch."""
        self.steps += 1
        kinds = tuple(kind_of(gradient) for gradient in gradients)
        update = Update(self.parameters, self.state, gradients, {**self.constants, **self.numbers(rates)})
        if kinds not in self._programs:
            self.touched = [old or kind != "none" for old, kind in zip(self.touched, kinds, strict=True)]
            on_cpu = self.parameters[0].device.type == "cpu"
            self._programs[kinds] = update.program(type(self).__name__, self.update_by) if on_cpu else None
        program = self._programs[kinds]
        if program is None:
            update.apply(self.update_by)
        else:
            program(*update.tensors())

    def numbers(self, rates: NDArray[np.float64]) -> dict[str, Tensor]:
        """What of a formula changes from step to step, [N] each; the step is counted already."""
        return {"rate": self.vector(rates)}

    def update_by(self, parameter: Tensor, gradient: Tensor | Product, now: Now, **state: Tensor) -> None:
        """`update`, of a gradient that may not have been multiplied out."""
        self.update(parameter, gradient.whole() if isinstance(gradient, Product) else gradient, now, **state)

    @abc.abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, now: Now, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place; of numbers, by those of `now` alone."""

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

    def _setting(self, values: Sequence[float]) -> Setting:
        return float(values[0]) if len(set(values)) == 1 else self.vector(values)


class SGD(StackedOptimizer):
    """With momentum, Nesterov's too: that of Sutskever et al. 2013 in torch's form, the rate outside."""

    slots = ("momentum_buffer",)
    arguments = ("momentum", "nesterov")
    counts_steps = False

    def kept(self, member: int) -> tuple[str, ...]:
        """No buffer without momentum."""
        return self.slots if self.settings[member]["momentum"] else ()

    def update_by(self, parameter: Tensor, gradient: Tensor | Product, now: Now, **state: Tensor) -> None:
        """Of a product, multiply and add to the momentum at once: the gradient itself is never in memory."""
        momentum = now["momentum"]
        nothing_else = all(isinstance(now[s], float) and not now[s] for s in ("nesterov", "weight_decay"))
        if isinstance(gradient, Tensor) or not isinstance(momentum, float) or not nothing_else:
            super().update_by(parameter, gradient, now, **state)
            return
        buffer = gradient.turned(state["momentum_buffer"])
        torch.baddbmm(buffer, gradient.left, gradient.right, beta=momentum, out=buffer)
        parameter.addcmul_(state["momentum_buffer"], as_tensor(now["rate"], parameter), value=-1)

    def update(self, parameter: Tensor, gradient: Tensor, now: Now, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place."""
        gradient = decayed(gradient, parameter, now["weight_decay"])
        buffer, momentum, nesterov = state["momentum_buffer"], now["momentum"], now["nesterov"]
        # In one pass. From a buffer of zeros the first step is the gradient, as in torch.
        if isinstance(momentum, float):
            torch.add(gradient, buffer, alpha=momentum, out=buffer)
        else:
            torch.addcmul(gradient, buffer, as_tensor(momentum, parameter), out=buffer)
        change = buffer
        if not isinstance(nesterov, float) or nesterov:
            ahead = torch.addcmul(gradient, buffer, as_tensor(momentum, parameter))
            # Chosen, not multiplied by 0 or 1: what is not a number in one form must not reach the other.
            change = torch.where(as_tensor(nesterov, parameter) > 0, ahead, buffer)
        parameter.addcmul_(change, as_tensor(now["rate"], parameter), value=-1)


class Adam(StackedOptimizer):
    """Kingma & Ba 2015, weight decay being a term of the gradient."""

    slots = ("exp_avg", "exp_avg_sq")
    arguments = ("beta1", "beta2", "epsilon")

    def __init__(self, parameters: Sequence[Tensor], configs: Sequence[TrainConfig]) -> None:
        super().__init__(parameters, configs)
        self.betas = np.array([[float(s[name]) for s in self.settings] for name in ("beta1", "beta2")])

    def numbers(self, rates: NDArray[np.float64]) -> dict[str, Tensor]:
        """Both corrections in one factor of the rate and one of epsilon: fewer passes over the parameters."""
        first, second = 1 - self.betas**self.steps
        return {
            "rate": self.vector(rates * np.sqrt(second) / first),
            "epsilon": self.vector(np.sqrt(second)) * self.constants["epsilon"],
        }

    def update(self, parameter: Tensor, gradient: Tensor, now: Now, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place."""
        gradient = self.decay(parameter, gradient, now)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, as_tensor(1 - now["beta1"], parameter))
        moving_square(square, gradient, now["beta2"])
        change = mean / square.sqrt().add_(on(now["epsilon"], parameter))
        parameter.addcmul_(change, as_tensor(now["rate"], parameter), value=-1)

    def decay(self, parameter: Tensor, gradient: Tensor, now: Now) -> Tensor:
        """The gradient to go on with."""
        return decayed(gradient, parameter, now["weight_decay"])


class AdamW(Adam):
    """Loshchilov & Hutter 2019: weights decay apart from the gradient, at the rate of the step."""

    def numbers(self, rates: NDArray[np.float64]) -> dict[str, Tensor]:
        """The rate of the decay too."""
        return super().numbers(rates) | {"plain_rate": self.vector(rates)}

    def decay(self, parameter: Tensor, gradient: Tensor, now: Now) -> Tensor:
        """The gradient as it is: the parameters have decayed."""
        decay = now["weight_decay"]
        if not isinstance(decay, float) or decay:
            parameter.mul_(on(1 - now["plain_rate"] * decay, parameter))
        return gradient


class RMSprop(StackedOptimizer):
    """Tieleman & Hinton 2012, in torch's form."""

    slots = ("square_avg", "momentum_buffer")
    arguments = ("alpha", "momentum", "epsilon")

    def kept(self, member: int) -> tuple[str, ...]:
        """No buffer without momentum."""
        return self.slots if self.settings[member]["momentum"] else self.slots[:1]

    def update(self, parameter: Tensor, gradient: Tensor, now: Now, **state: Tensor) -> None:
        """Change one stacked parameter and its state in place."""
        gradient = decayed(gradient, parameter, now["weight_decay"])
        moving_square(state["square_avg"], gradient, now["alpha"])
        change = gradient / state["square_avg"].sqrt().add_(on(now["epsilon"], parameter))
        momentum = now["momentum"]
        if not isinstance(momentum, float) or momentum:
            change = state["momentum_buffer"].mul_(on(momentum, parameter)).add_(change)
        parameter.addcmul_(change, as_tensor(now["rate"], parameter), value=-1)


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
