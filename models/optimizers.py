"""The optimizers a recipe can name: their arguments, where to look for their learning rate, and how they are built."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from models.config import OWN_OPTIMIZER
from models.domains import TRUTH, Domain, interval, mistakes_of_arguments, unknown_name

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One optimizer: torch's class, what a recipe may set, and the rule that centres its learning rates."""

    torch_class: str
    """Name of the class in `torch.optim`."""
    arguments: Mapping[str, Any]
    """Our names of its arguments, and their defaults."""
    fused: bool
    """Whether torch has a fused form of it."""
    centre: float
    """Middle of the learning rates to search at batch size 64, with the default arguments."""
    rule: Literal["linear", "sqrt"]
    """How the centre moves with the batch size."""
    highest: float
    """No centre lies above this."""


_ADAM_ARGUMENTS: Mapping[str, Any] = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

# Linear for SGD (Goyal et al. 2017), the square root for what divides by the gradient's size (Malladi et al. 2022).
# A rule only centres the search, which decides. None holds for large batches, so `highest` keeps the centre stable.
OPTIMIZERS: Mapping[str, Rule] = {
    "sgd": Rule(
        torch_class="SGD",
        arguments={"momentum": 0.9, "nesterov": False},
        fused=True,
        # Between the 0.1 at batch 256 of Goyal et al. (0.025 at 64) and the 0.1 to 0.2 that an MLP on digits wants.
        centre=0.05,
        rule="linear",
        # The middle, in logarithms, of AlgoPerf's range for large-batch Nesterov, 0.02 to 5.
        highest=0.3,
    ),
    "adam": Rule(
        torch_class="Adam",
        arguments=_ADAM_ARGUMENTS,
        fused=True,
        # The middle, in logarithms, of AlgoPerf's range for AdamW, 1e-4 to 1e-2; Kingma & Ba's default.
        centre=1e-3,
        rule="sqrt",
        # A factor of 16 below it still reaches 3e-4, where large models train; above it lies all of AlgoPerf's range.
        highest=5e-3,
    ),
    "adamw": Rule(torch_class="AdamW", arguments=_ADAM_ARGUMENTS, fused=True, centre=1e-3, rule="sqrt", highest=5e-3),
    "rmsprop": Rule(
        torch_class="RMSprop",
        arguments={"alpha": 0.99, "momentum": 0.0, "epsilon": 1e-8},
        fused=False,
        # In the upper half of the usual 1e-5 to 1e-2: an MLP on digits, trained briefly, wants 2e-3 to 5e-3.
        centre=1e-3,
        rule="sqrt",
        highest=5e-3,
    ),
}

_BELOW_ONE = interval("[0, 1)")
_DOMAINS: Mapping[str, Domain] = {
    "momentum": _BELOW_ONE,
    "nesterov": TRUTH,
    "beta1": _BELOW_ONE,
    "beta2": _BELOW_ONE,
    "alpha": _BELOW_ONE,
    "epsilon": interval("(0, inf)"),
}


def arguments(name: str) -> Mapping[str, Any]:
    """The arguments of an optimizer and their defaults; the module's own has none."""
    return {} if name == OWN_OPTIMIZER else dict(OPTIMIZERS[name].arguments)


def mistakes(name: str, args: Mapping[str, Any], *, where: str) -> Iterator[str]:
    """Yield one sentence for every rule broken by an optimizer and its arguments as written, found at `where`."""
    if name == OWN_OPTIMIZER:
        if args:
            yield f"`{where}` must have no arguments, but got {', '.join(args)}. Search `model.init_args` instead."
        return
    if name not in OPTIMIZERS:
        yield unknown_name(name, [*OPTIMIZERS, OWN_OPTIMIZER], where=where)
        return
    known = arguments(name)
    yield from mistakes_of_arguments(args, {key: _DOMAINS[key] for key in known}, where=where)
    settings = {**known, **args}
    if settings.get("nesterov") is True and settings["momentum"] == 0:
        yield f"`{where}.momentum` must be greater than 0 with `nesterov: true`, but got {settings['momentum']}."


def build(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    fused: bool = True,
    **args: Any,
) -> torch.optim.Optimizer:
    """The optimizer over `parameters`, with our names of its arguments.

    `fused` makes a step about twice as fast, on CPU too, and is equal up to rounding. Leave it off under `16-mixed` and
    `bf16-mixed`: Lightning then refuses to clip gradients, since a fused optimizer may unscale them itself, and a fused
    SGD whose first step overflows begins with a momentum that was never written. Parameters of 16 bits are never fused:
    on CPU, torch 2.12 and 2.13 then leave most of them as they are, without a word (pytorch/pytorch#191763).
    """
    # Imported here and not above: who only reads names and rules, as the driver of a search does, starts without torch.
    library = importlib.import_module("torch")
    rule, trained = OPTIMIZERS[name], list(parameters)
    settings = torch_arguments(name, args, learning_rate=learning_rate, weight_decay=weight_decay)
    if fused and rule.fused and all(parameter.dtype in (library.float32, library.float64) for parameter in trained):
        settings["fused"] = True
    optimizer: torch.optim.Optimizer = getattr(library.optim, rule.torch_class)(trained, **settings)
    return optimizer


def torch_arguments(name: str, args: Mapping[str, Any], *, learning_rate: float, weight_decay: float) -> dict[str, Any]:
    """All arguments of an optimizer, defaults included, by the names that torch has for them."""
    settings = {**OPTIMIZERS[name].arguments, **args, "lr": learning_rate, "weight_decay": weight_decay}
    if "epsilon" in settings:
        settings["eps"] = settings.pop("epsilon")
    if "beta1" in settings:
        settings["betas"] = (settings.pop("beta1"), settings.pop("beta2"))
    return settings
