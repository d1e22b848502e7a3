"""Which waiting segments train together as one array, and which wait for more of their kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from models.config import array_key
from models.segment import Segment

Pack = list[Segment]
Width = Callable[[Segment], int]
"""How many trials like this one train side by side."""

THIN = 3
"""A pack with less than one in so many of the trials that pay is thin: few trials, hardly fewer seconds."""
PATIENCE = 8
"""The members of a thin pack let at most so many tasks begin before them, and one in so many of all that have begun: at
first, a training that has come to its end is worth more than the time that a wider pack would save."""


@dataclass(slots=True)
class Turns:
    """How many tasks have begun before those that wait."""

    begun: int = 0
    since: dict[int, int] = field(default_factory=dict)
    """How many had begun when a trial was first seen waiting."""

    def begin(self, segments: Pack) -> None:
        """One more begins: these have waited."""
        self.begun += 1
        for segment in segments:
            self.since.pop(segment.trial, None)

    def parted(self, packs: Iterable[Pack], *, width: Width) -> tuple[list[Pack], list[Pack]]:
        """Packs whose turn it is; and thin ones that wait for more members, while there is something else to do."""
        due: list[Pack] = []
        thin: list[Pack] = []
        for segments in packs:
            waited = self.begun - min(self.since.setdefault(segment.trial, self.begun) for segment in segments)
            wide = THIN * len(segments) >= width(segments[0])
            (due if wide or waited >= min(PATIENCE, self.begun // PATIENCE) else thin).append(segments)
        return due, thin


def pack(segments: Iterable[Segment], *, width: Width) -> list[Pack]:
    """Segments in packs that one task trains: those of one shape, at one step, up to the width that pays for them.

    In the order of their first members; what has width 1 stands alone.
    """
    packs: list[Pack] = []
    filling: dict[tuple[str, int], Pack] = {}
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


def spread(packs: Sequence[Pack], count: int) -> list[Pack]:
    """The same segments in at least `count` packs, if their widths allow: the widest are halved.

    For the end of a race: two thin arrays on two workers are done sooner than a wide one beside an idle worker.
    """
    spread = list(packs)
    while spread and len(spread) < count:
        widest = max(range(len(spread)), key=lambda index: len(spread[index]))
        segments = spread[widest]
        if len(segments) == 1:
            break
        middle = len(segments) // 2
        spread[widest : widest + 1] = [segments[:middle], segments[middle:]]
    return spread
