"""Ctrl-C and the signals of schedulers: the first asks the search to end in order, the second ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupts:
    """True once a signal has come; in use as a context, so that the handlers of before come back."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._at_once = False

    def __enter__(self) -> Interrupts:
        self._before = {which: signal.signal(which, self._handle) for which in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def __bool__(self) -> bool:
        return self.received is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal end what is waited for here, where nothing would be lost: it goes on behind this."""
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            if self.received is None:
                raise
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        enough = self.received is not None or self._at_once
        self.received = self.received or signal.Signals(number)
        if enough:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        """128 plus the signal, as shells have it; 0 if none has come."""
        return 0 if self.received is None else 128 + self.received
