"""A conductor in the shapes that either of the two Lightnings takes: a callback and a checkpoint plugin."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from models import checkpoint
from models.conductor import STATE_KEY, Conductor


def lightning_callback(conductor: Conductor, tree: ModuleType) -> Any:
    """The conductor as a Callback of one of the two Lightnings, each of which takes only its own.

    A `Checkpoint`, since the hooks of such at the end of an epoch come behind those of the module.
    """
    hooks = {name: getattr(conductor, name) for name in dir(Conductor) if name.startswith("on_")}
    hooks |= {name: getattr(conductor, name) for name in ("state_dict", "load_state_dict")}
    functions = {name: staticmethod(hook) for name, hook in hooks.items()}
    return type(STATE_KEY, (tree.callbacks.Checkpoint,), functions)()


def checkpoint_plugin(conductor: Conductor, tree: ModuleType) -> Any:
    """A CheckpointIO of one of the two Lightnings that writes atomically, with digest, and reads data only."""

    def save_checkpoint(_: Any, state: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        conductor.sha256 = checkpoint.write(state, str(path))

    def load_checkpoint(_: Any, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return checkpoint.read(str(path), conductor.segment.sha256)

    def remove_checkpoint(_: Any, path: Any) -> None:
        raise AssertionError("nothing in a segment removes checkpoints")

    methods = {f.__name__: f for f in (save_checkpoint, load_checkpoint, remove_checkpoint)}
    return type("RegattaCheckpointIO", (tree.plugins.CheckpointIO,), methods)()
