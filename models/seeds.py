"""Seeds from names: the same parts always give the same 63-bit seed, in every process and on every machine."""

from __future__ import annotations

import hashlib
import json


def derive(*parts: int | str) -> int:
    """A seed in [0, 2^63) from any mix of numbers and strings."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
