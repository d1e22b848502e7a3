"""A finished production training as an MLflow model, in a process of its own: `python -m pipelines.model_files`.

In a process of its own, since it takes torch, which `regatta train` itself does without.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import checkpoint
from models.config import TrainConfig
from models.job import JOB, Job, write_json
from models.portable import check, example_of, output_of, reason_of, trained, weights_of
from models.prepared import prepare
from tracking.registry import CONFIG, WEIGHTS, save_program, save_weights


def write_model(config: TrainConfig, folder: Path, target: Path) -> None:
    """Write the model trained in `folder` to `target`: as a program of its own, or as weights where it cannot be one.

    Raises:
        ConfigError: if module or data cannot be built.
        CheckpointError: if the checkpoint is missing or damaged.
    """
    data = prepare(config)
    module = trained(config, data, folder)
    arrays: dict[str, Any] = {}
    try:
        example = example_of(module, config, data)
        arrays = {"example": example.numpy(), "output": output_of(module, example).numpy()}
        check(module, save_program(module, target, **arrays), example)
    except Exception as error:  # A user's `forward` may raise anything, and so does torch at what it cannot export.
        shutil.rmtree(target, ignore_errors=True)
        write_weights(config, folder, target, reason=reason_of(error), arrays=arrays)


def write_weights(config: TrainConfig, folder: Path, target: Path, *, reason: str, arrays: Mapping[str, Any]) -> None:
    """Write what builds the module again where its class is at hand; `arrays`: an example and its output, if known."""
    target.mkdir()
    checkpoint.write(weights_of(folder), str(target / WEIGHTS))
    write_json(target / CONFIG, config.to_json())
    save_weights(target, reason=reason, **arrays)


def main(folder: Path, target: Path) -> int:
    """Write the model of the production training in a folder."""
    # Where the user stands is where their modules are found.
    sys.path.append(os.getcwd())
    write_model(Job.read(folder / JOB).config, folder, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
