"""Checkpoints and the random and measured state in them: whole or not at all, data only, exact when put back."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from helpers import config_of

from models import checkpoint, rng
from models.checkpoint import CheckpointError
from models.recorder import Recorder


class Touches:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "folder" / "a.ckpt")
    digest = checkpoint.write({"a": torch.arange(3), "b": [1, "x", {"c": 0.5}]}, path)
    state = checkpoint.read(path, digest)
    assert state["a"].tolist() == [0, 1, 2] and state["b"] == [1, "x", {"c": 0.5}]
    assert os.listdir(tmp_path / "new" / "folder") == ["a.ckpt"]


def test_a_url_serves_as_well_as_a_path() -> None:
    digest = checkpoint.write({"a": 1}, "memory://folder/a.ckpt")
    assert checkpoint.read("memory://folder/a.ckpt", digest) == {"a": 1}
    fsspec.filesystem("memory").rm("/folder", recursive=True)


def test_a_users_hyperparameters_are_left_out(tmp_path: Path) -> None:
    digest = checkpoint.write({"hyper_parameters": {"path": tmp_path}, "a": 1}, str(tmp_path / "a.ckpt"))
    assert checkpoint.read(str(tmp_path / "a.ckpt"), digest) == {"a": 1}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    digest = checkpoint.write({"a": 1}, str(path))
    with pytest.raises(Exception, match="pickle"):
        checkpoint.write({"a": lambda: 0}, str(path))
    assert checkpoint.read(str(path), digest) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize("at", [0, 100, -1])
def test_one_changed_bit_is_noticed(at: int, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    digest = checkpoint.write({"a": torch.arange(3)}, str(path))
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what was written"):
        checkpoint.read(str(path), digest)


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.ckpt cannot be read"):
        checkpoint.read(str(tmp_path / "none.ckpt"), None)
    (tmp_path / "text").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="is not plain data"):
        checkpoint.read(str(tmp_path / "text"), None)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.read("nosuchprotocol://bucket/a.ckpt", None)


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    torch.save({"a": Touches(tmp_path / "ran")}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="is not plain data"):
        checkpoint.read(str(tmp_path / "a.ckpt"), None)
    assert not (tmp_path / "ran").exists()


def draws() -> list[float]:
    return [torch.rand(1).item(), torch.randn(1).item(), np.random.rand(), np.random.randn(), random.gauss(0, 1)]


def test_random_state_goes_through_a_checkpoint_exactly(tmp_path: Path) -> None:
    rng.seed_everything(2**62)
    draws()  # each `gauss` keeps a second number for the next call
    digest = checkpoint.write(rng.capture(), str(tmp_path / "a.ckpt"))
    expected = [draws() for _ in range(3)]
    rng.seed_everything(1)
    rng.restore(checkpoint.read(str(tmp_path / "a.ckpt"), digest))
    assert [draws() for _ in range(3)] == expected


def recorder(**changes: Any) -> Recorder:
    config = config_of(SimpleNamespace(__name__="user"), **changes)  # type: ignore[arg-type]
    return Recorder(config, examples_per_epoch=100, warmup_steps=changes.pop("warmup_steps", 0))


@pytest.mark.parametrize("cut", [1, 3, 8, 20, 25])
def test_sums_do_not_depend_on_where_they_are_read(cut: int) -> None:
    losses = [torch.tensor(0.1 * i + 1.0, dtype=torch.float32) for i in range(30)]
    whole, first, second = recorder(), recorder(), recorder()
    for loss in losses:
        whole.take(loss, 8)
    for loss in losses[:cut]:
        first.take(loss, 8)
    second.load_state_dict(first.state_dict())
    for loss in losses[cut:]:
        second.take(loss, 8)
    assert second.state_dict() == pytest.approx(whole.state_dict(), rel=0, abs=0, nan_ok=True)
    points = [r.point(30, {}, learning_rate=0.1, batch_size=8.0)["train_loss"] for r in (whole, second)]
    assert points[0] == points[1] == pytest.approx(sum(map(float, losses)) / 30)


@pytest.mark.parametrize(
    ("losses", "step", "reason"),
    [
        ([1.0] * 20, 20, None),
        ([1.0] * 10 + [9.0] * 10, 20, None),
        ([1.0] * 10 + [11.0] * 10, 20, "the training loss is 11 times its start at step 20"),
        ([1.0] * 19 + [math.nan], 20, "the training loss is nan at step 20"),
        ([1.0] * 19 + [math.inf], 20, "the training loss is inf at step 20"),
        ([-1.0] * 10 + [50.0] * 10, 20, None),
    ],
)
def test_divergence_is_a_loss_far_above_its_start(losses: list[float], step: int, reason: str | None) -> None:
    taken = recorder()
    for index, loss in enumerate(losses):
        taken.take(torch.tensor(loss), 8)
        if index == 9:
            assert taken.diverged(10) is None
    assert taken.diverged(step) == reason
    assert taken.diverged(step) is None


def test_sums_of_sixteen_bit_losses_are_exact() -> None:
    taken = recorder()
    for _ in range(1000):
        taken.take(torch.tensor(1.0, dtype=torch.bfloat16), 8)
    assert taken.point(1000, {}, learning_rate=0.1, batch_size=8.0)["train_loss"] == 1.0
