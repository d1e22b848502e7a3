"""What Lightning does around every step though nobody asked for it, left out."""

from __future__ import annotations

import contextlib
import importlib
from types import ModuleType
from typing import Any

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
"""Hooks of a module that come at every step; Lightning's own do nothing."""


def quicken(trainer: Any, module: Any, tree: ModuleType) -> None:
    """Make the steps of one Trainer cheaper; what they compute stays the same to the bit."""
    for name in STEP_HOOKS:
        if getattr(type(module), name) is getattr(tree.LightningModule, name) and name not in vars(module):
            setattr(module, name, None)  # Lightning passes over what cannot be called.
    module.__class__ = _with_quick_hook_name(type(module))
    # Asked once here, at every step by Lightning.
    signatures = importlib.import_module(f"{tree.__name__}.utilities.signature_utils")
    takes_index = signatures.is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)

    def step_arguments(arguments: dict[str, Any], batch: Any, batch_index: int) -> dict[str, Any]:
        arguments["batch"] = batch
        if takes_index:
            arguments["batch_idx"] = batch_index
        return arguments

    trainer.fit_loop.epoch_loop._build_kwargs = step_arguments


def _with_quick_hook_name(cls: Any) -> type:
    """The same class, except for one attribute, the name of the running hook.

    Lightning sets it some 40 times a step, each time through all that `torch.nn.Module` checks of a new attribute.
    """

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            cls.__setattr__(self, name, value)

    own = {"__setattr__": __setattr__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), own)


def silent_profiler(tree: ModuleType) -> Any:
    """A profiler that does nothing, faster than Lightning's own, which opens a new context around every hook."""
    nothing = contextlib.nullcontext()
    methods = {"profile": lambda self, action_name: nothing}
    return type("SilentProfiler", (tree.profilers.PassThroughProfiler,), methods)()
