"""Processes that a training starts, such as those of a DataLoader, end with the process that started them."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process, util


def end_with_parent() -> None:
    """Let every process that is forked from here watch over its parent from its first moment.

    PyTorch's own watch begins later, with whatever parent there is by then. Where processes are not forked (elsewhere
    than on Linux, and from Python 3.14 on by default) only that one is left.
    """
    # By its name, since what it is registered for must not be collected.
    util.register_after_fork(end_with_parent, _watch)


def _watch(_: object) -> None:
    threading.Thread(target=_wait_for_end, name="regatta-parent", daemon=True).start()


def _wait_for_end() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
