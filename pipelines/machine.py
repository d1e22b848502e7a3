"""Facts about this machine that `regatta doctor` judges: limits of a container, who has a port, what torch finds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
TORCH_SECONDS = 60.0
"""How long torch may take to be imported, on a disk that has never read it."""


def memory_available(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """Bytes that more processes may take, within the limits of a container."""
    free = float(psutil.virtual_memory().available)
    for folder in _groups("memory", root, membership):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            numbers = _numbers(folder / limit), _numbers(folder / used)
            if numbers[0] and numbers[1]:
                # What is only cached in files counts as used, and is given up when it is needed.
                free = min(free, max(0.0, numbers[0][0] - numbers[1][0] + _cached(folder)))
    return free


def processor_quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Cores that the time which a container allows comes to; None where it allows all."""
    found = []
    for folder in _groups("cpu", root, membership):
        newer = _numbers(folder / "cpu.max")
        older = [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]
        found += [pair[0] / pair[1] for pair in (newer, older) if len(pair) == 2 and min(pair) > 0]
    return min(found, default=None)


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """Folders of a controller that bind this process, in both versions of Linux's control groups."""
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for line in lines:
        _, names, path = line.split(":", 2)
        base = root if not names else root / controller
        if not names or controller in names.split(","):
            here = base / path.lstrip("/")
            # In a container, the path is often that of the host: its own group is then the root.
            yield from (folder for folder in (here, *here.parents) if folder.is_relative_to(base))


def _numbers(path: Path) -> list[float]:
    """The numbers in a file; none where there is no file, or where it says `max`."""
    with suppress(OSError, ValueError):
        return [float(word) for word in path.read_text(encoding="utf-8").split()]
    return []


def _cached(folder: Path) -> float:
    with suppress(OSError, ValueError):
        rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        return float(rows.get("inactive_file", rows.get("total_inactive_file", 0)))
    return 0.0


def owner_of(port: int) -> str | None:
    """The process that listens on a port of 127.0.0.1; None if the port is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return None
        except OSError:
            pass
    with suppress(psutil.Error):  # Others' processes are not shown everywhere.
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"


def start_torch() -> subprocess.Popen[str]:
    """A process that says what torch finds; it takes seconds, in which others may do something else."""
    # Nothing of the folder where the user stands: a `models` there is not ours.
    return subprocess.Popen(
        [sys.executable, "-m", "models.devices"],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torch_found(process: subprocess.Popen[str]) -> dict[str, Any]:
    """`models.devices.devices()` of that process.

    Raises:
        ValueError: what torch said instead.
    """
    try:
        said, complaint = process.communicate(timeout=TORCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise ValueError(f"torch must be imported within {TORCH_SECONDS:.0f} s, but was not.") from error
    if process.returncode:
        last = (complaint.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise ValueError(f"torch must be importable, but is not: {last}")
    found: dict[str, Any] = json.loads(said)
    return found
