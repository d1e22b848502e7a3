"""Checkpoints as single files: written whole or not at all, read only with the right digest, never running code."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import torch

DROPPED = ("hyper_parameters", "hparams_name", "datamodule_hyper_parameters", "datamodule_hparams_name")
"""A user's `save_hyperparameters()` may hold paths, functions and modules, which `weights_only=True` refuses to load;
the recipe rebuilds the module, so they are not needed."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used: missing, damaged, or holding more than data."""


def write(state: dict[str, Any], path: str) -> str:
    """Write a checkpoint atomically to a path or fsspec URL; returns the SHA-256 of its bytes."""
    buffer = io.BytesIO()
    torch.save({key: value for key, value in state.items() if key not in DROPPED}, buffer)
    content = buffer.getbuffer()
    if "://" in path:
        # Object stores show an object only when it is complete.
        with fsspec.open(path, "wb") as file:
            file.write(content)
    else:
        _write_local(Path(path), content)
    return hashlib.sha256(content).hexdigest()


def _write_local(path: Path, content: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str, sha256: str | None) -> dict[str, Any]:
    """Read a checkpoint as data (`weights_only=True`).

    Raises:
        CheckpointError: if it is missing, if its bytes are not those that were written, or if it is not plain data.
    """
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except (OSError, ImportError, ValueError) as error:  # The last two: a protocol that is not installed, or none.
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"checkpoint {path} is not what was written: its SHA-256 differs")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} is not plain data: {error}") from error
    return state
