"""What a worker has installed, and in what that differs from this process and must not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import models

PACKAGES = ("torch", "pytorch-lightning", "distributed")

# Evaluated by every worker, with the standard library alone: one that cannot import our packages still answers.
FACTS = """(lambda util, metadata, pathlib, hashlib: (lambda spec: {
    "models": getattr(spec, "origin", None),
    "digest": next((
        hashlib.sha256(file.read_bytes()).hexdigest()
        for file in [pathlib.Path(getattr(spec, "origin", None) or "/").with_name("segment.py")]
        if file.is_file()
    ), None),
    "packages": {name: next((d.version for d in metadata.distributions(name=name)), None) for name in %r},
})(util.find_spec("models")))(*map(__import__("importlib").import_module,
                                   ("importlib.util", "importlib.metadata", "pathlib", "hashlib")))"""


def differences(worker: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for everything in which a worker differs from this process and must not."""
    ours = hashlib.sha256(Path(models.__file__).with_name("segment.py").read_bytes()).hexdigest()
    if found["models"] is None:
        yield f"worker {worker} must have Regatta installed, but it has no package `models`. Install the project there."
    elif found["digest"] != ours:
        yield (
            f"worker {worker} must have this version of Regatta, but its package `models` is {found['models']}. "
            "Remove that from its path, or install this version there."
        )
    for name in PACKAGES:
        version = metadata.version(name)
        if found["packages"].get(name) != version:
            yield (
                f"worker {worker} must have {name} {version}, as here, but has {found['packages'].get(name)}. "
                "Install the project with its constraints.txt there."
            )
