"""What tests of training share: small configurations, chains of segments, and classes as a user would write them."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import TrainConfig
from models.segment import Point, Segment, SegmentResult
from models.train import train_segment

_numbers = itertools.count()

USER_CODE = Path(__file__).with_name("user_code.py.txt").read_text()
"""A module and datamodules that know nothing of Regatta; `LIGHTNING` stands for one of the two packages."""


def user_code(folder: Path, monkeypatch: pytest.MonkeyPatch, lightning: str = "pytorch_lightning") -> ModuleType:
    """The user's classes, imported from a folder of their own under a name of their own."""
    name = f"user_code_{next(_numbers)}"
    (folder / f"{name}.py").write_text(USER_CODE.replace("LIGHTNING", lightning))
    monkeypatch.syspath_prepend(str(folder))
    # Undone at the end: nothing of one test is left to the next.
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    del sys.modules[name]
    return importlib.import_module(name)


def config_of(code: ModuleType, **changes: Any) -> TrainConfig:
    """Three epochs of 13 steps, momentum, dropout, batch norm, shuffling, warm-up; `model`, `data`: class names."""
    model, data = changes.pop("model", "Net"), changes.pop("data", "Data")
    values: dict[str, Any] = {
        "model": {"class_path": f"{code.__name__}.{model}", "init_args": changes.pop("model_args", {})},
        "data": {
            "class_path": f"{code.__name__}.{data}",
            "init_args": changes.pop("data_args", {}),
            "batch_size_arg": changes.pop("batch_size_arg", "batch_size"),
        },
        "batch_size": 8,
        "learning_rate": 0.05,
        "optimizer": "sgd",
        "optimizer_args": {},
        "schedule": "cosine",
        "schedule_args": {},
        "warmup": 0.1,
        "weight_decay": 0.0,
        "epochs": 3,
        "min_steps": 0,
        "evaluations": 3,
        "gradient_clip": None,
        "accumulate": 1,
        "precision": "32-true",
        "devices": 1,
        "accelerator": "cpu",
        "seed_init": 1,
        "seed_order": 2,
        "seed_dropout": 3,
        "objective": "val_loss",
        "direction": "min",
        "target_metric": "val_loss",
        "train_loss": None,
    }
    return TrainConfig(**{**values, **changes})


def train(
    config: TrainConfig, folder: Path, *, stop: Callable[[], bool] = lambda: False, **fields: Any
) -> SegmentResult:
    """One segment of a trial."""
    return train_segment(Segment(trial=0, config=config, folder=str(folder), **fields), stop=stop)


def chain(
    config: TrainConfig, folder: Path, *, every: int | None = None, untils: tuple[float, ...] = (), **fields: Any
) -> list[SegmentResult]:
    """All segments of a trial that pauses: after `every` looks at `stop`, at each of `untils`, or as `fields` say."""
    parts: list[SegmentResult] = []
    limits = iter(untils)
    while not parts or parts[-1].status == "PAUSED":
        before: dict[str, Any] = {"from_step": parts[-1].to_step} if parts else {}
        if parts:
            before |= {"checkpoint": parts[-1].checkpoint, "sha256": parts[-1].sha256}
        calls = itertools.count(1)
        stop = (lambda calls=calls: next(calls) >= every) if every else (lambda: False)
        parts.append(train(config, folder, stop=stop, until=next(limits, 1.0), **before, **fields))
        assert len(parts) < 100, "a chain of segments that does not end"
    return parts


def in_another_process(segment: Segment, *, path: Path) -> SegmentResult:
    """The same segment, trained by a fresh interpreter that finds the user's classes in `path`."""
    script = (
        "import json, sys; from models.segment import Segment; from models.train import train_segment;"
        "print(json.dumps(train_segment(Segment.from_json(json.load(sys.stdin))).to_json()))"
    )
    done = subprocess_output([sys.executable, "-c", script], json.dumps(segment.to_json()), path)
    return SegmentResult.from_json(json.loads(done.splitlines()[-1]))


def subprocess_output(command: list[str], given: str, path: Path) -> str:
    """What a command prints, with `path` among the places where Python looks for modules."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curve_of(parts: list[SegmentResult]) -> list[Point]:
    """The points of all segments, without the seconds, which are never the same twice."""
    return [{k: v for k, v in point.items() if k != "seconds"} for part in parts for point in part.curve]


def weights_of(result: SegmentResult) -> dict[str, Tensor]:
    """The module's state at the end of a segment."""
    assert result.checkpoint is not None, result.reason
    state: dict[str, Tensor] = torch.load(result.checkpoint, weights_only=True)["state_dict"]
    return state


def same_weights(a: SegmentResult, b: SegmentResult) -> bool:
    """Whether two segments ended with the same module, to the bit."""
    one, other = weights_of(a), weights_of(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
