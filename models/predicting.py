"""A trained module rebuilt from its configuration and weights, for models that only their own classes can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from models import checkpoint
from models.build import build
from models.config import TrainConfig
from models.inputs import Array, Predict

CONFIG = "config.json"
"""`TrainConfig.to_json()`."""
WEIGHTS = "weights.pt"
"""The module's state, tensors only."""


def load(folder: Path) -> Predict:
    """What the `forward` of the module in a model folder gives, on the CPU.

    Raises whatever its classes raise, and `CheckpointError` if the weights are not plain data.
    """
    config = TrainConfig.from_json(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    state = checkpoint.read(str(folder / WEIGHTS), None)
    module = build({"class_path": config.model["class_path"], "init_args": config.model["init_args"]}, where="model")
    if config.precision == "64-true":
        module = module.double()
    module.load_state_dict(state)
    module.eval()
    dtype = next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.get_default_dtype())

    def predict(rows: Array) -> Array:
        inputs = torch.from_numpy(rows)
        with torch.inference_mode():
            outputs: Any = module(inputs.to(dtype) if inputs.is_floating_point() else inputs)
        if not isinstance(outputs, torch.Tensor):
            raise TypeError(f"`forward` must return one tensor, but returned {type(outputs).__name__}")
        found: Array = outputs.numpy()
        return found

    return predict
