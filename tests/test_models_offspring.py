"""No process that a training has started outlives it, from its first moment on."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import psutil
import pytest

from models.offspring import end_with_parent


def starts_one(pids: Connection, prepare: Callable[[], None]) -> None:
    """A worker whose training starts a process, which never looks after its parent."""
    prepare()
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    pids.send(child.pid)
    time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")
@pytest.mark.parametrize(("prepare", "ends"), [(end_with_parent, True), (os.getpid, False)])
def test_a_forked_process_ends_with_a_parent_that_is_killed(prepare: Callable[[], None], ends: bool) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    parent = context.Process(target=starts_one, args=(there, prepare))
    parent.start()
    child = psutil.Process(here.recv())
    parent.kill()
    parent.join()
    gone, _ = psutil.wait_procs([child], timeout=10 if ends else 1)
    if not ends:
        child.kill()
    assert (gone == [child]) is ends
