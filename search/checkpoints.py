"""Checkpoints that nobody needs any more are removed, wherever they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import PurePosixPath

import fsspec


def discard(checkpoint: str | None) -> None:
    """Remove a checkpoint, given by path or fsspec URL; one that is gone already is fine."""
    if checkpoint is None:
        return
    filesystem, path = fsspec.core.url_to_fs(checkpoint)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm_file(path)


def sweep(folder: str, *, keep: Iterable[str | None]) -> None:
    """Remove every file of a folder, given by path or fsspec URL, but these checkpoints in it."""
    filesystem, path = fsspec.core.url_to_fs(folder)
    kept = {PurePosixPath(checkpoint).name for checkpoint in keep if checkpoint is not None}
    with contextlib.suppress(FileNotFoundError):
        for file in filesystem.ls(path, detail=False):
            if PurePosixPath(file).name not in kept:
                filesystem.rm_file(file)
