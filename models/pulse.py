"""Signs of life of the training in this process, for whoever watches over it: one for every batch."""

from __future__ import annotations

_signs = 0


def beat() -> None:
    """A batch more is done, of a training or of a validation."""
    global _signs
    _signs += 1


def signs() -> int:
    """How many there have been since the process started."""
    return _signs
