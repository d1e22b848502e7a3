"""The update of an array's parameters as one program of torch's, written down once for each kind of optimizer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.gradients import Gradient, kind_of, made_of, tensors_of
from models.scripted import Function, scripted
from models.tracing import trace

Setting = float | Tensor
"""One number for all members, or a tensor [N]: a plain number makes a step faster."""
Now = Mapping[str, Setting]
"""The settings and numbers of one step, by name."""
KEPT = 64
"""Programs kept in one process, the least recently used dropped first."""


@dataclass(frozen=True, slots=True)
class Update:
    """One step: what there is to change, and by what."""

    parameters: Sequence[Tensor]
    """[N, ...] each."""
    states: Sequence[Mapping[str, Tensor]]
    gradients: Sequence[Gradient]
    now: Now

    def apply(self, formula: Callable[..., None]) -> None:
        """Change every parameter that has a gradient, and its state, in place."""
        for parameter, gradient, state in zip(self.parameters, self.gradients, self.states, strict=True):
            if gradient is not None:
                formula(parameter, gradient, self.now, **state)

    def program(self, name: str, formula: Callable[..., None]) -> Function:
        """What does the same to `tensors`, of any step with gradients of these kinds.

        The formula is known by its name, and by all that it may depend on but for lengths.
        """
        kinds = tuple(kind_of(gradient) for gradient in self.gradients)
        numbers = tuple((name, None if isinstance(one, Tensor) else one) for name, one in self.now.items())
        forms = tuple((parameter.ndim, parameter.dtype) for parameter in self.parameters)
        key = name, kinds, numbers, forms
        if key not in _programs:
            _programs[key] = self._written(formula)
            while len(_programs) > KEPT:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        return _programs[key]

    def _written(self, formula: Callable[..., None]) -> Function:
        def step(*tensors: Tensor) -> Sequence[Tensor]:
            update = self._of(tensors)
            update.apply(formula)
            return update.parameters[:1]

        return scripted(trace(step, *(tensor.detach().clone() for tensor in self.tensors())))

    def tensors(self) -> list[Tensor]:
        """All that it reads or changes."""
        numbers = [one for one in self.now.values() if isinstance(one, Tensor)]
        states = [tensor for state in self.states for tensor in state.values()]
        return [*numbers, *self.parameters, *states, *(part for one in self.gradients for part in tensors_of(one))]

    def _of(self, tensors: Sequence[Tensor]) -> Update:
        """The same step with other tensors."""
        rest = iter(tensors)
        now = {name: next(rest) if isinstance(one, Tensor) else one for name, one in self.now.items()}
        parameters = [next(rest) for _ in self.parameters]
        states = [{slot: next(rest) for slot in state} for state in self.states]
        return Update(parameters, states, [made_of(kind_of(one), rest) for one in self.gradients], now)


_programs: OrderedDict[Any, Function] = OrderedDict()
