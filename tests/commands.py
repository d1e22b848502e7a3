"""The command `regatta` as a user starts it: a process of its own, with a state folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REGATTA = str(Path(sys.executable).with_name("regatta"))
PATIENCE = 300.0


def started(*words: str, home: Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it."""
    environment = {**os.environ, "REGATTA_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [REGATTA, *words],
        cwd=cwd or home.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def regatta(*words: str, home: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command, waited for."""
    process = started(*words, home=home, cwd=cwd)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
