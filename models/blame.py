"""An exception as the user's own: what went wrong first, then the lines that led there, the last one first."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

OTHERS = (str(Path(__file__).parent), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
"""Where code lies that is not the user's: here, Python's own, and what is installed."""


def told(error: BaseException) -> str:
    """The exception and its causes, each with its lines; those that only lead to the user's code are left out."""
    parts = []
    link: BaseException | None = error
    while link is not None:
        parts.append("\n".join([f"{type(link).__name__}: {link}", "Traceback (last lines first):", *_lines(link)]))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n\nwhich came of:\n\n".join(parts)


def _lines(error: BaseException) -> Iterator[str]:
    frames = traceback.extract_tb(error.__traceback__)
    users = [index for index, frame in enumerate(frames) if not frame.filename.startswith(OTHERS)]
    # From the outermost line of the user's inwards. Where there is none, the mistake may be ours: everything.
    for frame in reversed(frames[users[0] :] if users else frames):
        yield f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}"
