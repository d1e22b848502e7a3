"""Which waiting segments train together as one array."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from models.config import array_key
from models.segment import Segment


def pack(segments: Iterable[Segment], *, width: Callable[[Segment], int]) -> list[list[Segment]]:
    """Segments in packs that one task trains: those of one shape, at one step, up to the width that pays for them.

    In the order of their first members; what has width 1 stands alone.
    """
    packs: list[list[Segment]] = []
    filling: dict[tuple[str, int], list[Segment]] = {}
    for segment in segments:
        most = width(segment)
        if most <= 1:
            packs.append([segment])
            continue
        key = (array_key(segment.config), segment.from_step)
        if len(filling.get(key, ())) in (0, most):
            filling[key] = []
            packs.append(filling[key])
        filling[key].append(segment)
    return packs
