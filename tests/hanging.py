"""A LightningModule that takes for ever to build from a moment on, as a network drive that has gone away lets it."""

from __future__ import annotations

import time
from pathlib import Path

from faulty import Faulty


class Hanging(Faulty):
    """Not built while one file is there and another one is not."""

    def __init__(self, *, hangs: str, released: str) -> None:
        super().__init__()
        while Path(hangs).exists() and not Path(released).exists():
            Path(released).with_suffix(".hangs").touch()
            time.sleep(0.1)
