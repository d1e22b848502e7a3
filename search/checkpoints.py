"""Checkpoints that nobody needs any more are removed, wherever they are."""

from __future__ import annotations

import contextlib
from pathlib import Path

import fsspec


def discard(checkpoint: str | None) -> None:
    """Remove a checkpoint, given by path or fsspec URL; one that is gone already is fine."""
    if checkpoint is None:
        return
    if "://" not in checkpoint:
        Path(checkpoint).unlink(missing_ok=True)
        return
    filesystem, path = fsspec.core.url_to_fs(checkpoint)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)
